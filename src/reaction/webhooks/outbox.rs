//! Publishes the store's outbox to the bus.
//!
//! Invariant: a message is deleted only after the bus has stored it, and is published under its own id, so that a
//! message that was published but not yet deleted is not stored twice.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use uuid::Uuid;

use crate::base::backoff::{Backoff, random_unit};
use crate::bus::{Batch, Bus, BusErrorKind};
use crate::reaction::rules::subject_template::must_be_retained;
use crate::store::{OutboxMessage, Store, StoreError};

/// Messages in one publish.
const BATCH_MESSAGES_MAX: usize = 512;
const FAILURE_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(100), multiplier: 2.0, max: Duration::from_secs(2) };

/// Publishes the outbox until `stop`, woken by the store.
pub(super) async fn run_outbox(store: &Store, bus: &Bus, poll_interval: Duration, stop: &CancellationToken) {
    let mut work = store.work();
    let mut failures = 0;
    while !stop.is_cancelled() {
        work.borrow_and_update();
        let wait = match publish_some(store, bus).await {
            Ok(BATCH_MESSAGES_MAX) => {
                failures = 0;
                continue;
            }
            Ok(_) => {
                failures = 0;
                poll_interval
            }
            Err(reason) => {
                failures += 1;
                warn!(reason, failures, "outbox was not published, trying again");
                FAILURE_BACKOFF.delay(failures, random_unit())
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
            Ok(()) = work.changed(), if failures == 0 => {}
        }
    }
}

/// Publishes the oldest messages. Returns the number removed from the outbox.
async fn publish_some(store: &Store, bus: &Bus) -> Result<usize, String> {
    let failed = |error: StoreError| error.to_string();
    let messages = store.outbox(BATCH_MESSAGES_MAX).await.map_err(failed)?;
    if messages.is_empty() {
        return Ok(0);
    }
    let mut batch = Batch::new();
    for OutboxMessage { id, subject, payload } in &messages {
        let (id, encode) = (id.to_string(), |out: &mut Vec<u8>| out.extend_from_slice(payload));
        match must_be_retained(subject) {
            true => batch.push(subject, Some(&id), encode),
            false => batch.push_transient(subject, Some(&id), encode),
        }
    }
    let mut done: Vec<Uuid> = Vec::with_capacity(messages.len());
    let mut refused = None;
    for (message, result) in messages.iter().zip(bus.publish(batch).await) {
        match result {
            Ok(_) => done.push(message.id),
            // It will never be valid and must not block the rest.
            Err(error) if error.kind == BusErrorKind::Invalid => {
                error!(%error, subject = message.subject, "outbox message is not valid and was dropped");
                done.push(message.id);
            }
            Err(error) => refused = Some(error.to_string()),
        }
    }
    let taken = done.len();
    if !done.is_empty() {
        store.remove_from_outbox(&done).await.map_err(failed)?;
    }
    refused.map_or(Ok(taken), Err)
}
