//! Atomic batches: the queued messages of concurrent calls in one commit of the server (2.12 or later).
//!
//! A server that syncs every write pays once per batch and once per single publish; for a server that does not, batches
//! are more expensive. The server does not report which it does, so [`Chooser`](super::chooser::Chooser) measures it.
//! Invariant: a batch is stored as a whole or not at all, so a rejected batch may be published again.

use std::sync::Weak;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::messages::{MESSAGE_ID, PubAck, not_sent};
use super::queue::{Job, Jobs};
use crate::bus::batch::Layout;
use crate::bus::nats::connection::calls::PendingCall;
use crate::bus::nats::failed::failed;
use crate::bus::nats::shared::Shared;
use crate::bus::{BusError, BusErrorKind, Published};

/// The limits of the server for one batch.
const BATCH_MESSAGES_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 16 << 20;
/// A batch itself costs milliseconds: fewer messages are published one by one.
const BATCH_MESSAGES_MIN: usize = 8;
/// Concurrent batches; the server allows 50 per stream.
pub(crate) const BATCHES_AT_ONCE: usize = 3;
impl Shared {
    /// Publishes through the queue; `None` when single publishes are the better choice.
    pub(crate) async fn publish_atomically(
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

/// Commits queued messages, one batch at a time, until the bus is closed.
pub(crate) async fn commit_queued(shared: Weak<Shared>, jobs: Jobs) {
    // Taken from the queue, but too large for the current batch.
    let mut held: Option<Job> = None;
    loop {
        // The task that takes the first call keeps the queue until the batch is complete. A fair lock would pass it on
        // in between, and every batch would be one call.
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
            // A caller that is gone does not need its answer.
            let _ = job.reply.send(own);
        }
    }
}

impl Shared {
    /// Commits one batch. Publishes one by one when the batch is too small, or was rejected as a whole.
    async fn commit(&self, messages: &[(&Bytes, &Layout)]) -> Vec<Result<Published, BusError>> {
        if messages.len() < BATCH_MESSAGES_MIN {
            return self.publish_singly(messages).await;
        }
        match self.commit_batch(messages).await {
            Ok(Some(last)) => {
                let first = last + 1 - messages.len() as u64;
                (first..=last).map(|sequence| Ok(Published::new(sequence))).collect()
            }
            // It contains a duplicate, or another message that needs its own answer.
            Ok(None) => self.publish_singly(messages).await,
            Err(error) => messages.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Returns the last sequence; `None` when the batch was rejected, so that none of it is stored.
    async fn commit_batch(&self, messages: &[(&Bytes, &Layout)]) -> Result<Option<u64>, BusError> {
        let context = "publish batch";
        // Calls that waited behind a dead connection need not find that out one by one.
        self.link.check(&self.client, context)?;
        let call = self.calls.call(&self.link, 2);
        // Sending alone can take long: a connection that accepts no data blocks everyone.
        match tokio::time::timeout(self.settings.timeout, self.send_batch(&call, messages)).await {
            // One message cannot be sent: the batch is never committed, and the server forgets it.
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
            .map_err(|error| failed(context, format!("not an acknowledgement: {error}")))?;
        if ack.error.is_some() || ack.count != messages.len() as u64 {
            return Ok(None);
        }
        self.acknowledged(&outcome, &self.settings.stream).map(|published| Some(published.sequence))
    }

    async fn send_batch(&self, call: &PendingCall<'_>, messages: &[(&Bytes, &Layout)]) -> Result<(), BusError> {
        let id = Uuid::now_v7().simple().to_string();
        for (index, (records, layout)) in messages.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
            if !layout.message_id.is_empty() {
                headers.insert(MESSAGE_ID, String::from_utf8_lossy(&records[layout.message_id.clone()]).as_ref());
            }
            // The first message is answered immediately when the stream does not accept batches, the last one with the
            // outcome.
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
            sent.map_err(|error| not_sent("publish batch", &error))?;
        }
        Ok(())
    }
}
