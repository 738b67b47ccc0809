//! Atomic batches: what concurrent calls have queued, in one commit of the server (2.12 or later).
//!
//! A server that syncs every write pays once for a batch, and once for each single publish; one
//! that does not pays more for a batch. Which it is cannot be asked, so [`Chooser`] measures it.
//! Invariant: a batch is stored whole or not at all, so one that was refused may be published again.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot};
use uuid::Uuid;

use super::Shared;
use super::calls::Awaited;
use super::publish::{MESSAGE_ID, PubAck};
use crate::bus::batch::Layout;
use crate::bus::{BusError, BusErrorKind, PublishMode, Published};

/// What the server takes in one batch.
const BATCH_MESSAGES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// A batch costs milliseconds by itself: fewer messages go one by one.
const BATCH_MESSAGES_MIN: usize = 8;
/// Batches on their way at once; the server allows 50 to a stream.
pub(super) const BATCHES_AT_ONCE: usize = 3;
/// Calls that wait for a batch. Their bytes are bounded elsewhere.
const QUEUE_CALLS_MAX: usize = 1_024;

/// One call's messages on their way into a batch.
pub(super) struct Job {
    records: Bytes,
    layouts: Vec<Layout>,
    reply: oneshot::Sender<Vec<Result<Published, BusError>>>,
}

pub(super) type Queue = mpsc::Sender<Job>;
pub(super) type Jobs = Arc<AsyncMutex<mpsc::Receiver<Job>>>;

pub(super) fn queue() -> (Queue, Jobs) {
    let (sender, receiver) = mpsc::channel(QUEUE_CALLS_MAX);
    (sender, Arc::new(AsyncMutex::new(receiver)))
}

impl Shared {
    /// Publishes through the queue; none when this is not the better way.
    pub(super) async fn publish_atomically(
        &self,
        records: &Bytes,
        layouts: &[&Layout],
    ) -> Option<Vec<Result<Published, BusError>>> {
        if layouts.len() > BATCH_MESSAGES_MAX || !self.chooser.prefers_batches() {
            return None;
        }
        let (reply, answer) = oneshot::channel();
        let layouts: Vec<Layout> = layouts.iter().map(|layout| (*layout).clone()).collect();
        self.batches.send(Job { records: records.clone(), layouts, reply }).await.ok()?;
        answer.await.ok()
    }
}

/// Commits what is queued, a batch at a time, until the bus is gone.
pub(super) async fn commit_queued(shared: Weak<Shared>, jobs: Jobs) {
    // Taken from the queue, and too large for the batch at hand.
    let mut held: Option<Job> = None;
    loop {
        // Whoever takes the first call keeps the queue until the batch is gathered: handed on in between, as a fair
        // lock is, every batch would be one call.
        let (first, queue) = match held.take() {
            Some(job) => (job, jobs.try_lock().ok()),
            None => {
                let mut queue = jobs.lock().await;
                match queue.recv().await {
                    Some(job) => (job, Some(queue)),
                    None => return,
                }
            }
        };
        let (mut messages, mut bytes) = (first.layouts.len(), first.records.len());
        let mut batch = vec![first];
        if let Some(mut queue) = queue {
            while let Ok(next) = queue.try_recv() {
                if messages + next.layouts.len() > BATCH_MESSAGES_MAX || bytes + next.records.len() > BATCH_BYTES_MAX {
                    held = Some(next);
                    break;
                }
                messages += next.layouts.len();
                bytes += next.records.len();
                batch.push(next);
            }
        }
        let Some(shared) = shared.upgrade() else { return };
        let all: Vec<(&Bytes, &Layout)> =
            batch.iter().flat_map(|job| job.layouts.iter().map(|layout| (&job.records, layout))).collect();
        let mut answers = shared.commit(&all).await.into_iter();
        for job in batch {
            let own = answers.by_ref().take(job.layouts.len()).collect();
            // A caller that is gone needs no answer.
            let _ = job.reply.send(own);
        }
    }
}

impl Shared {
    /// One batch; one by one when it is too small for that, or was refused as a whole.
    async fn commit(&self, messages: &[(&Bytes, &Layout)]) -> Vec<Result<Published, BusError>> {
        if messages.len() < BATCH_MESSAGES_MIN {
            return self.publish_singly(messages).await;
        }
        match self.commit_batch(messages).await {
            Ok(Some(last)) => {
                let first = last + 1 - messages.len() as u64;
                (first..=last).map(|sequence| Ok(Published::new(sequence))).collect()
            }
            // It holds a duplicate, or something else that is said of a message alone.
            Ok(None) => self.publish_singly(messages).await,
            Err(error) => messages.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// The last sequence; none when the batch was refused, and so nothing of it is stored.
    async fn commit_batch(&self, messages: &[(&Bytes, &Layout)]) -> Result<Option<u64>, BusError> {
        let context = "publish batch";
        // Those who waited behind a connection that died need not find that out one after the other.
        self.link.check(&self.client, context)?;
        let call = self.calls.call(&self.link, 2);
        // Sending alone can take long: a connection that takes nothing holds everybody up.
        match tokio::time::timeout(self.settings.timeout, self.send_batch(&call, messages)).await {
            // One message cannot be sent: what was begun is never committed, and the server forgets it.
            Ok(Err(error)) if error.kind == BusErrorKind::Invalid => return Ok(None),
            Ok(sent) => sent?,
            Err(_) => {
                self.link.unanswered(&self.client).await;
                return Err(BusError::caused(BusErrorKind::Unavailable, context, "NATS takes no messages"));
            }
        }
        let (answers, why) = call.answers(&self.client, &self.link, self.settings.timeout).await;
        let Some(outcome) = answers.into_iter().nth(1).flatten() else {
            return Err(why.unwrap_or_else(|| BusError::new(BusErrorKind::Unavailable, context)));
        };
        let ack: PubAck = serde_json::from_slice(&outcome.payload)
            .map_err(|error| super::streams::failed(context, format!("not an acknowledgement: {error}")))?;
        if ack.error.is_some() || ack.count != messages.len() as u64 {
            return Ok(None);
        }
        self.acknowledged(&outcome, &self.settings.stream).map(|published| Some(published.sequence))
    }

    async fn send_batch(&self, call: &Awaited<'_>, messages: &[(&Bytes, &Layout)]) -> Result<(), BusError> {
        let id = Uuid::now_v7().simple().to_string();
        for (index, (records, layout)) in messages.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            if !layout.message_id.is_empty() {
                headers.insert(MESSAGE_ID, String::from_utf8_lossy(&records[layout.message_id.clone()]).as_ref());
            }
            // The first is answered at once when the stream takes no batches, the last with the outcome.
            let reply = match index {
                0 => Some(call.reply_to(0)),
                last if last + 1 == messages.len() => {
                    headers.insert("Nats-Batch-Commit", "1");
                    Some(call.reply_to(1))
                }
                _ => None,
            };
            let subject = Subject::from_utf8(records.slice(layout.subject.clone()))
                .map_err(|error| BusError::caused(BusErrorKind::Invalid, "publish batch", error))?;
            let payload = records.slice(layout.payload.clone());
            let sent = match reply {
                Some(reply) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
                None => self.client.publish_with_headers(subject, headers, payload).await,
            };
            sent.map_err(|error| super::publish::not_sent("publish batch", &error))?;
        }
        Ok(())
    }
}

/// Messages that are measured together at least.
const MEASURED_MESSAGES_MIN: u64 = 50;
/// Single publishes a second below which the server must be syncing each of them. One that does not manages tens of
/// thousands; one that does, some thousands at the very best.
const SYNCING_RATE_MAX: f64 = 10_000.0;
/// A measurement ends at the latest after this long.
const MEASURED_FOR: Duration = Duration::from_millis(200);
/// Slow measurements in a row that count.
const SLOW_MAX: u32 = 2;
/// How long batches are kept to before single publishes are measured again: the server may have another setting now.
const BATCHES_FOR: Duration = Duration::from_secs(60);

/// Decides between batches and single publishes.
#[derive(Debug)]
pub(super) struct Chooser {
    mode: PublishMode,
    state: Mutex<Measuring>,
}

#[derive(Debug)]
struct Measuring {
    in_flight: usize,
    since: Instant,
    acknowledged: u64,
    slow: u32,
    batches_until: Option<Instant>,
}

impl Chooser {
    /// `able`: the server has atomic batches.
    pub(super) fn new(mode: PublishMode, able: bool) -> Self {
        let mode = if able { mode } else { PublishMode::Single };
        let state = Measuring { in_flight: 0, since: Instant::now(), acknowledged: 0, slow: 0, batches_until: None };
        Self { mode, state: Mutex::new(state) }
    }

    fn prefers_batches(&self) -> bool {
        match self.mode {
            PublishMode::Atomic => true,
            PublishMode::Single => false,
            PublishMode::Auto => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.batches_until = state.batches_until.filter(|until| Instant::now() < *until);
                state.batches_until.is_some()
            }
        }
    }

    /// Single publishes have begun.
    pub(super) fn began(&self, messages: usize) {
        if self.mode == PublishMode::Auto {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.in_flight == 0 {
                (state.since, state.acknowledged) = (Instant::now(), 0);
            }
            state.in_flight += messages;
        }
    }

    /// They have ended; `acknowledged` of them well.
    pub(super) fn ended(&self, messages: usize, acknowledged: usize) {
        if self.mode != PublishMode::Auto {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.in_flight = state.in_flight.saturating_sub(messages);
        state.acknowledged += acknowledged as u64;
        let elapsed = state.since.elapsed();
        if state.acknowledged < MEASURED_MESSAGES_MIN || (state.in_flight > 0 && elapsed < MEASURED_FOR) {
            return;
        }
        let rate = state.acknowledged as f64 / elapsed.as_secs_f64().max(1e-6);
        state.slow = if rate < SYNCING_RATE_MAX { state.slow + 1 } else { 0 };
        (state.since, state.acknowledged) = (Instant::now(), 0);
        if state.slow >= SLOW_MAX {
            state.slow = 0;
            state.batches_until = Some(Instant::now() + BATCHES_FOR);
            tracing::debug!(rate, "single publishes are slow: publishing in batches");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_single_publishes_lead_to_batches_and_fast_ones_do_not() {
        let chooser = Chooser::new(PublishMode::Auto, true);
        for _ in 0..20 {
            chooser.began(1_000);
            chooser.ended(1_000, 1_000);
        }
        assert!(!chooser.prefers_batches());
        for _ in 0..SLOW_MAX {
            chooser.began(100);
            std::thread::sleep(Duration::from_millis(30));
            chooser.ended(100, 100);
        }
        assert!(chooser.prefers_batches());
        assert!(!Chooser::new(PublishMode::Atomic, false).prefers_batches(), "the server has none");
        assert!(Chooser::new(PublishMode::Atomic, true).prefers_batches());
    }
}
