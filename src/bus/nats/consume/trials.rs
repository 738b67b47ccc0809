//! What is on record about the suspects of a consumer: the last message of a subject of its own in the stream of
//! ranges, replaced by whoever knew the one before it.
//!
//! Invariant: a change is lost only when it is answered as failed. Knows nothing of what the record says.

use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::bus::nats::dead_letter;
use crate::bus::nats::failed::failed;
use crate::bus::nats::lock::lock;
use crate::bus::nats::publish::messages::{EXPECTED_LAST, PubAck, WRONG_LAST};
use crate::bus::nats::shared::{OpenTrial, Shared};
use crate::bus::trials::{Book, TURN_MAX, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, NatsSettings};

/// Times that a change is made anew because another process was first.
const CHANGE_ATTEMPTS_MAX: usize = 16;

/// The record of one consumer.
#[derive(Clone)]
pub(crate) struct Record {
    shared: Arc<Shared>,
    consumer: String,
    open: Arc<Mutex<Option<Trial>>>,
}

/// The trial that this process has begun.
struct Trial {
    messages: Vec<u64>,
    /// Of the trials of a process one is under way at a time; none when it was waited for in vain.
    _turn: Option<OwnedSemaphorePermit>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    /// Sequences of another stream are others.
    stream: String,
    book: Book,
}

impl NatsSettings {
    /// No consumer is named like that, and the stream of ranges takes it.
    fn trial_subject(&self, consumer: &str) -> String {
        format!("{}/trials", self.range_subject(consumer))
    }
}

impl Record {
    pub(crate) fn new(shared: Arc<Shared>, consumer: String) -> Self {
        Self { shared, consumer, open: Arc::default() }
    }

    pub(crate) async fn read(&self) -> Result<Book, BusError> {
        self.look().await.map(|(book, _)| book)
    }

    /// The book, and the sequence of the message that holds it.
    async fn look(&self) -> Result<(Book, u64), BusError> {
        let subject = self.shared.settings.trial_subject(&self.consumer);
        let last = self.shared.ranges.get_last_raw_message_by_subject(&subject).await;
        let Some(message) = dead_letter::found("read record of suspects", last)? else {
            return Ok((Book::default(), 0));
        };
        let stored = serde_json::from_slice::<Stored>(&message.payload).ok();
        let ours = stored.filter(|stored| stored.stream == self.shared.keeper.stream_id());
        Ok((ours.map(|stored| stored.book).unwrap_or_default(), message.sequence))
    }

    pub(crate) async fn change<T>(&self, mut change: impl FnMut(&mut Book) -> T) -> Result<T, BusError> {
        let context = "store record of suspects";
        for _ in 0..CHANGE_ATTEMPTS_MAX {
            let (before, behind) = self.look().await?;
            let mut book = before.clone();
            let answer = change(&mut book);
            if book == before || self.store(book, behind).await? {
                return Ok(answer);
            }
        }
        Err(BusError::caused(BusErrorKind::Unavailable, context, "other processes change it all the time"))
    }

    /// False when another process was first.
    async fn store(&self, book: Book, behind: u64) -> Result<bool, BusError> {
        let (shared, context) = (&self.shared, "store record of suspects");
        let stored = Stored { stream: shared.keeper.stream_id(), book };
        let payload = serde_json::to_vec(&stored).map_err(|error| failed(context, error))?;
        let mut headers = HeaderMap::new();
        headers.insert(EXPECTED_LAST, behind.to_string());
        let subject = shared.settings.trial_subject(&self.consumer);
        let answer = shared.publish_one(subject.clone(), headers, payload.into(), context).await?;
        let refused = serde_json::from_slice::<PubAck>(&answer.payload).ok().and_then(|ack| ack.error);
        if refused.is_some_and(|error| error.err_code == WRONG_LAST) {
            return Ok(false);
        }
        shared.acknowledged(&answer, &shared.settings.range_stream())?;
        if behind > 0
            && let Err(error) = shared.ranges.purge().filter(subject).keep(1).await
        {
            tracing::debug!(%error, consumer = self.consumer, "earlier records of suspects are kept");
        }
        Ok(true)
    }

    pub(crate) async fn begin_trial(&self, messages: Vec<u64>) {
        self.leave();
        let turn = tokio::time::timeout(TURN_MAX, self.shared.trial_turn.clone().acquire_owned()).await;
        let recorded = self.change(|book| book.begin(&messages)).await;
        if let Err(error) = recorded {
            warn!(%error, consumer = self.consumer, "an attempt with suspects is not on record and does not count");
        }
        let mut open = lock(&self.shared.open_trials);
        open.retain(|open| open.consumer != self.consumer || !open.messages.iter().any(|one| messages.contains(one)));
        open.push(OpenTrial { consumer: self.consumer.clone(), messages: messages.clone() });
        drop(open);
        lock(&self.open).replace(Trial { messages, _turn: turn.ok().and_then(Result::ok) });
    }

    /// Nothing when none is under way.
    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        let Some(Trial { messages, _turn }) = lock(&self.open).take() else { return };
        lock(&self.shared.open_trials).retain(|open| open.consumer != self.consumer || open.messages != messages);
        if let Err(error) = self.change(|book| book.end(&messages, end)).await {
            warn!(%error, consumer = self.consumer, "that an attempt with suspects has ended is not on record");
        }
    }

    /// The subscription ends. The trial stays on record; the next one need not wait.
    pub(crate) fn leave(&self) {
        lock(&self.open).take();
    }
}

/// The process ends in order: no trial that is under way counts.
pub(crate) async fn withdraw_all(shared: &Arc<Shared>) {
    let open = std::mem::take(&mut *lock(&shared.open_trials));
    for OpenTrial { consumer, messages } in open {
        let record = Record::new(shared.clone(), consumer);
        let withdrawn = record.change(|book| book.end(&messages, TrialOutcome::Withdrawn));
        if !matches!(tokio::time::timeout(shared.settings.timeout, withdrawn).await, Ok(Ok(()))) {
            warn!(consumer = record.consumer, "an unfinished attempt with suspects counts as one that failed");
        }
    }
}
