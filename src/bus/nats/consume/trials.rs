//! Stores the trial log of a consumer as the last message of a dedicated subject in the stream of chunks, with
//! optimistic concurrency.
//!
//! Invariant: a change is lost only if it is reported as failed. Knows nothing of the contents of the log.

use std::sync::Arc;

use async_nats::HeaderMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::publish::messages::{EXPECTED_LAST, PubAck, WRONG_LAST};
use crate::bus::nats::shared::{OpenTrial, Shared};
use crate::bus::trials::{TURN_MAX, TrialLog, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, NatsSettings};

/// Attempts to apply a change when other processes change the log first.
const CHANGE_ATTEMPTS_MAX: usize = 16;

/// The trial log of one consumer.
#[derive(Clone)]
pub(crate) struct TrialStore {
    shared: Arc<Shared>,
    consumer: String,
    open: Arc<Mutex<Option<Trial>>>,
}

/// The trial begun by this process.
struct Trial {
    messages: Vec<u64>,
    /// Only one trial of a process runs at a time; `None` when waiting for the turn timed out.
    _turn: Option<OwnedSemaphorePermit>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// The stream that the sequences refer to.
    stream: String,
    #[serde(rename = "book")]
    log: TrialLog,
}

impl NatsSettings {
    /// No consumer can have this name, and the stream of chunks accepts the subject.
    fn trial_subject(&self, consumer: &str) -> String {
        format!("{}/trials", self.chunk_subject(consumer))
    }
}

impl TrialStore {
    pub(crate) fn new(shared: Arc<Shared>, consumer: String) -> Self {
        Self { shared, consumer, open: Arc::default() }
    }

    pub(crate) async fn read(&self) -> Result<TrialLog, BusError> {
        self.read_with_sequence().await.map(|(log, _)| log)
    }

    /// The log and the sequence of its message.
    async fn read_with_sequence(&self) -> Result<(TrialLog, u64), BusError> {
        let subject = self.shared.settings.trial_subject(&self.consumer);
        let last = self.shared.chunks.get_last_raw_message_by_subject(&subject).await;
        let Some(message) = dead_letter::found("read record of suspects", last)? else {
            return Ok((TrialLog::default(), 0));
        };
        let stored = serde_json::from_slice::<Stored>(&message.payload).ok();
        let ours = stored.filter(|stored| stored.stream == self.shared.topology.stream_id());
        Ok((ours.map(|stored| stored.log).unwrap_or_default(), message.sequence))
    }

    pub(crate) async fn change<T>(&self, mut change: impl FnMut(&mut TrialLog) -> T) -> Result<T, BusError> {
        let context = "store record of suspects";
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let (before, behind) = self.read_with_sequence().await?;
            let mut log = before.clone();
            let answer = change(&mut log);
            if log == before || self.store(log, behind).await? {
                return Ok(answer);
            }
        }
        Err(BusError::caused(BusErrorKind::Unavailable, context, "other processes change it all the time"))
    }

    /// Returns `false` when another process was first.
    async fn store(&self, log: TrialLog, behind: u64) -> Result<bool, BusError> {
        let (shared, context) = (&self.shared, "store record of suspects");
        let stored = Stored { stream: shared.topology.stream_id(), log };
        let payload = serde_json::to_vec(&stored).map_err(|error| failed(context, error))?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, behind.to_string());
        let subject = shared.settings.trial_subject(&self.consumer);
        let answer = shared.publish_one(subject.clone(), headers, payload.into(), context).await?;
        let refused = serde_json::from_slice::<PubAck>(&answer.payload).ok().and_then(|ack| ack.error);
        if refused.is_some_and(|error| error.err_code == WRONG_LAST) {
            return Ok(false);
        }
        shared.acknowledged(&answer, &shared.settings.chunk_stream())?;
        if behind > 0
            && let Err(error) = shared.chunks.purge().filter(subject).keep(1).await
        {
            tracing::debug!(%error, consumer = self.consumer, "earlier records of suspects are kept");
        }
        Ok(true)
    }

    pub(crate) async fn begin_trial(&self, messages: Vec<u64>) {
        self.abandon();
        let turn = tokio::time::timeout(TURN_MAX, self.shared.trial_turn.clone().acquire_owned()).await;
        let recorded = self.change(|log| log.begin(&messages)).await;
        if let Err(error) = recorded {
            warn!(%error, consumer = self.consumer, "an attempt with suspects is not on record and does not count");
        }
        let mut open = self.shared.open_trials.lock();
        open.retain(|open| open.consumer != self.consumer || !open.messages.iter().any(|one| messages.contains(one)));
        open.push(OpenTrial { consumer: self.consumer.clone(), messages: messages.clone() });
        drop(open);
        self.open.lock().replace(Trial { messages, _turn: turn.ok().and_then(Result::ok) });
    }

    /// Does nothing when no trial is running.
    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        let Some(Trial { messages, _turn }) = self.open.lock().take() else { return };
        self.shared.open_trials.lock().retain(|open| open.consumer != self.consumer || open.messages != messages);
        if let Err(error) = self.change(|log| log.end(&messages, end)).await {
            warn!(%error, consumer = self.consumer, "that an attempt with suspects has ended is not on record");
        }
    }

    /// The subscription ends. Its trial stays on record; the next one need not wait.
    pub(crate) fn abandon(&self) {
        self.open.lock().take();
    }
}

/// The process stops gracefully: running trials do not count.
pub(crate) async fn withdraw_all(shared: &Arc<Shared>) {
    let open = std::mem::take(&mut *shared.open_trials.lock());
    for OpenTrial { consumer, messages } in open {
        let trials = TrialStore::new(shared.clone(), consumer);
        let withdrawn = trials.change(|log| log.end(&messages, TrialOutcome::Withdrawn));
        if !matches!(tokio::time::timeout(shared.settings.timeout, withdrawn).await, Ok(Ok(()))) {
            warn!(consumer = trials.consumer, "an unfinished attempt with suspects counts as one that failed");
        }
    }
}
