//! Dead letters: messages of the main stream copied to a separate stream, with the details in headers.

use async_nats::HeaderMap;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageError, RawMessageErrorKind, Stream};

use super::failed::failed;
use super::publish::messages::{MESSAGE_ID, REPLAY_FOR};
use super::shared::{Shared, unix_ms_of};
use crate::bus::dead_letter::DeadReason;
use crate::bus::{BusError, DeadLetter, Receipt};
use crate::metrics;

pub(super) const REASON: &str = "Causality-Reason";
pub(super) const SUBJECT: &str = "Causality-Subject";
pub(super) const SEQUENCE: &str = "Causality-Sequence";
pub(super) const CONSUMER: &str = "Causality-Consumer";
pub(super) const DELIVERY_COUNT: &str = "Causality-Delivery-Count";
pub(super) const PUBLISHED_AT_MS: &str = "Causality-Published-At-Ms";
/// Longer reasons are truncated, so that all headers fit alongside the largest message.
const REASON_CHARS_MAX: usize = 400;
/// Sequences visited for one page: deleted dead letters leave gaps.
const LOOKED_AT_MAX: u64 = 10_000;

/// Copies a message of the main stream to the dead letters; a repeat stores it only once.
pub(super) async fn store(
    shared: &Shared,
    consumer: &str,
    receipt: Receipt,
    (why, reason): (DeadReason, &str),
) -> Result<(), BusError> {
    let Some(message) = raw(&shared.stream, receipt.sequence).await? else { return Ok(()) };
    let mut headers = HeaderMap::new();
    let reason = self::reason(reason);
    headers.insert(REASON, reason.as_str());
    headers.insert(SUBJECT, message.subject.as_str());
    headers.insert(SEQUENCE, receipt.sequence.to_string());
    headers.insert(CONSUMER, consumer);
    headers.insert(DELIVERY_COUNT, receipt.delivery_count.to_string());
    headers.insert(PUBLISHED_AT_MS, unix_ms_of(message.time).to_string());
    // A stream that lost its last messages reassigns their sequences.
    let (stream, stored_at) = (shared.topology.stream_id(), message.time.unix_timestamp_nanos());
    headers.insert(MESSAGE_ID, format!("{stream}/{consumer}/{}/{stored_at}", receipt.sequence));
    tracing::warn!(
        consumer, sequence = receipt.sequence, subject = %message.subject, reason, "message goes to the dead letters"
    );
    let subject = format!("dlq.{}", message.subject);
    send(shared, subject, headers, message.payload, &shared.settings.dead_letter_stream).await?;
    metrics::bus_dead_lettered(consumer, why.name(), 1);
    Ok(())
}

/// Makes the text fit for a header, which ends at its line.
pub(super) fn reason(text: &str) -> String {
    text.chars().take(REASON_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(super) async fn count(shared: &Shared) -> Result<u64, BusError> {
    let info = tokio::time::timeout(shared.settings.timeout, shared.dead_letters.get_info()).await;
    let info = info.map_err(|_| failed("count dead letters", "NATS did not answer"))?;
    info.map(|info| info.state.messages).map_err(|error| failed("count dead letters", error))
}

/// Newest first, ids below `before`.
pub(super) async fn list(shared: &Shared, before: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
    let state = shared.dead_letters.get_info().await.map_err(|error| failed("read dead letters", error))?.state;
    let mut next = before.map_or(state.last_sequence, |before| state.last_sequence.min(before.saturating_sub(1)));
    let mut found = Vec::new();
    let mut looked_at = 0;
    while next > 0 && next >= state.first_sequence && found.len() < limit && looked_at < LOOKED_AT_MAX {
        found.extend(raw(&shared.dead_letters, next).await?.map(read_raw));
        next -= 1;
        looked_at += 1;
    }
    Ok(found)
}

pub(super) async fn find(shared: &Shared, id: u64) -> Result<Option<DeadLetter>, BusError> {
    Ok(raw(&shared.dead_letters, id).await?.map(read_raw))
}

/// Publishes the message again for the consumer that dead-lettered it; a repeat within the deduplication window stores
/// it once.
pub(super) async fn replay(shared: &Shared, id: u64) -> Result<bool, BusError> {
    let Some(letter) = find(shared, id).await? else { return Ok(false) };
    let mut headers = HeaderMap::new();
    headers.insert(REPLAY_FOR, letter.consumer.as_str());
    headers.insert(MESSAGE_ID, format!("replay/{}/{id}", letter.dead_at_ms));
    send(shared, letter.subject, headers, letter.payload, &shared.settings.stream).await?;
    delete(shared, id).await?;
    Ok(true)
}

pub(super) async fn delete(shared: &Shared, id: u64) -> Result<bool, BusError> {
    if raw(&shared.dead_letters, id).await?.is_none() {
        return Ok(false);
    }
    shared.dead_letters.delete_message(id).await.map_err(|error| failed("delete dead letter", error))
}

/// Deletes dead letters created before `before_ms`, or all of them.
pub(super) async fn purge(shared: &Shared, before_ms: Option<i64>) -> Result<u64, BusError> {
    let failed = |error| failed("purge dead letters", error);
    let purged = match before_ms {
        None => shared.dead_letters.purge().await,
        Some(before_ms) => {
            match first_since(&shared.dead_letters, before_ms).await? {
                // Not sent: older servers treat a purge up to sequence 1 as a purge of everything.
                0 | 1 => return Ok(0),
                first_kept => shared.dead_letters.purge().sequence(first_kept).await,
            }
        }
    };
    purged.map(|response| response.purged).map_err(failed)
}

/// The first sequence of a message stored at or after `since_ms`, by binary search: sequences are in the order of their
/// times.
async fn first_since(stream: &Stream, since_ms: i64) -> Result<u64, BusError> {
    let state = stream.get_info().await.map_err(|error| failed("read dead letters", error))?.state;
    let (mut low, mut high) = (state.first_sequence.max(1), state.last_sequence + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        match raw_from(stream, middle).await? {
            Some(message) if message.sequence < high && unix_ms_of(message.time) < since_ms => {
                low = message.sequence + 1;
            }
            _ => high = middle,
        }
    }
    Ok(low)
}

pub(super) async fn send(
    shared: &Shared,
    subject: String,
    headers: HeaderMap,
    payload: bytes::Bytes,
    stream: &str,
) -> Result<(), BusError> {
    let answer = shared.publish_one(subject, headers, payload, "publish dead letter").await?;
    shared.acknowledged(&answer, stream).map(|_| ())
}

pub(super) async fn raw(stream: &Stream, sequence: u64) -> Result<Option<StreamMessage>, BusError> {
    found("read message", stream.get_raw_message(sequence).await)
}

/// The first message at or after `sequence` on the leader of the stream.
pub(super) async fn raw_from(stream: &Stream, sequence: u64) -> Result<Option<StreamMessage>, BusError> {
    found("read message", stream.get_first_raw_message_by_subject(">", sequence).await)
}

/// `None` for a message that does not exist.
pub(super) fn found(
    context: &'static str,
    message: Result<StreamMessage, RawMessageError>,
) -> Result<Option<StreamMessage>, BusError> {
    match message {
        Ok(message) => Ok(Some(message)),
        Err(error) if matches!(error.kind(), RawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(failed(context, error)),
    }
}

fn read_raw(message: StreamMessage) -> DeadLetter {
    read(message.sequence, &message.headers, unix_ms_of(message.time), message.payload)
}

pub(super) fn read(id: u64, headers: &HeaderMap, dead_at_ms: i64, payload: bytes::Bytes) -> DeadLetter {
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default();
    let number = |name: &str| text(name).parse().unwrap_or_default();
    DeadLetter {
        id,
        consumer: text(CONSUMER),
        subject: text(SUBJECT),
        sequence: number(SEQUENCE),
        reason: text(REASON),
        delivery_count: number(DELIVERY_COUNT) as u32,
        published_at_ms: number(PUBLISHED_AT_MS) as i64,
        dead_at_ms,
        payload,
    }
}
