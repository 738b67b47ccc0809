//! Purges messages that every durable consumer has acknowledged, oldest first.
//!
//! Invariant: an expected consumer that does not exist yet counts as having acknowledged nothing. It is not created
//! here: only the process that reads with it knows its settings, and whether it is used at all.

use std::time::Duration;

use async_nats::jetstream::consumer::Info as ConsumerInfo;
use async_nats::jetstream::stream::State;

use super::failed::failed;
use super::progress::{ConsumerProgress, durable};
use super::shared::{Shared, unix_ms_of};
use super::{chunks, dead_letter};
use crate::base::clock::unix_ms;
use crate::bus::{BusError, BusStatus, ConsumerStatus};
use crate::metrics;

/// Usage of the stream at which acknowledged messages are purged, and the target.
const PURGE_AT_PERCENT: u64 = 80;
const PURGE_TO_PERCENT: u64 = 60;
/// Purges messages. Returns how many.
pub(super) async fn purge_acknowledged(shared: &Shared) -> Result<u64, BusError> {
    // Read before the consumers: messages stored in between count as not acknowledged.
    let state = shared.stream_info().await?.state;
    if state.messages == 0 {
        return Ok(0);
    }
    let consumers = all_progress(shared, &state).await?;
    let Some(floor) = consumers.iter().map(|consumer| consumer.acknowledged_to).min() else { return Ok(0) };
    let floor = floor.min(state.last_sequence);
    let for_room = for_room(shared, &state);
    let upto = for_room.max(by_age(shared, &state, floor).await?).min(floor);
    if upto < state.first_sequence {
        let holding = consumers.iter().filter(|consumer| consumer.acknowledged_to < state.first_sequence);
        let names: Vec<&str> = holding.map(|consumer| consumer.name.as_str()).collect();
        note_blocked(shared, (for_room > 0).then(|| names.join(", ")));
        return Ok(0);
    }
    note_blocked(shared, None);
    let purged = shared.stream.purge().sequence(upto + 1).await.map_err(|error| failed("purge stream", error))?;
    for consumer in durable(&shared.chunks).await? {
        chunks::progress::purge(shared, &consumer.name, upto + 1).await?;
    }
    Ok(purged.purged)
}

/// Remembers the consumers that keep a filling stream from being purged, and logs them once.
fn note_blocked(shared: &Shared, by: Option<String>) {
    let mut held = shared.blocked_by.lock();
    if let (Some(consumers), true) = (&by, *held != by) {
        tracing::warn!(
            consumers,
            "the stream is filling up, and nothing in it is acknowledged by these consumers (nats_stream_readers)"
        );
    }
    *held = by;
}

/// Why publishing is refused, with the consumers that have not read what fills the stream.
fn full(shared: &Shared) -> Option<String> {
    let full = shared.full.lock().clone()?;
    Some(match &*shared.blocked_by.lock() {
        Some(consumers) => format!("{full}; not acknowledged by {consumers}"),
        None => full,
    })
}

/// The last sequence to purge for room; 0 when there is enough.
fn for_room(shared: &Shared, state: &State) -> u64 {
    let max = shared.settings.bytes_max;
    if state.bytes.saturating_mul(100) < max.saturating_mul(PURGE_AT_PERCENT) {
        return 0;
    }
    let surplus = state.bytes.saturating_sub(max / 100 * PURGE_TO_PERCENT);
    let message = (state.bytes / state.messages.max(1)).max(1);
    state.first_sequence.saturating_add(surplus / message)
}

/// The last sequence, up to `floor`, that is older than the limit; 0 when there is none.
async fn by_age(shared: &Shared, state: &State, floor: u64) -> Result<u64, BusError> {
    let before_ms = before_ms(shared.settings.age_max);
    if unix_ms_of(state.first_timestamp) >= before_ms || floor < state.first_sequence {
        return Ok(0);
    }
    // The first one is old, so there is a last old one; a deleted message counts as old.
    let (mut old, mut young) = (state.first_sequence, floor + 1);
    while young - old > 1 {
        let middle = old + (young - old) / 2;
        match dead_letter::raw(&shared.stream, middle).await? {
            Some(message) if unix_ms_of(message.time) >= before_ms => young = middle,
            _ => old = middle,
        }
    }
    Ok(old)
}

fn before_ms(age: Duration) -> i64 {
    unix_ms().saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX)).max(0)
}

/// The durable consumers by name: consumers of single messages, consumers of chunks, and expected ones.
async fn all_progress(shared: &Shared, state: &State) -> Result<Vec<ConsumerProgress>, BusError> {
    let mut all_progress: Vec<ConsumerProgress> =
        durable(&shared.stream).await?.iter().map(|consumer| progress_of(consumer, state)).collect();
    for consumer in durable(&shared.chunks).await? {
        all_progress.push(chunks::progress::progress(shared, consumer.name, state).await?);
    }
    for name in &shared.settings.readers {
        if !all_progress.iter().any(|progress| progress.name == *name) {
            all_progress.push(ConsumerProgress::unread(name.clone(), state));
        }
    }
    all_progress.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all_progress)
}

/// With a filter, the floor only moves with the messages that match: a consumer that has acknowledged all of them holds
/// nothing back. Without one, only the floor counts: the server adds a message to `num_pending` some time after storing
/// it, and those of a new consumer some time after creating it.
fn progress_of(consumer: &ConsumerInfo, state: &State) -> ConsumerProgress {
    let pending = consumer.num_ack_pending as u64;
    let backlog = consumer.num_pending + pending;
    let has_filter = !consumer.config.filter_subject.is_empty() || !consumer.config.filter_subjects.is_empty();
    let is_done = has_filter && backlog == 0;
    let acknowledged_to = if is_done { state.last_sequence } else { consumer.ack_floor.stream_sequence };
    ConsumerProgress { name: consumer.name.clone(), acknowledged_to, backlog, pending }
}

pub(super) async fn status(shared: &Shared) -> Result<BusStatus, BusError> {
    let info = shared.stream_info().await?;
    let mut consumers = Vec::new();
    for ConsumerProgress { name, acknowledged_to: ack_floor, backlog, pending } in
        all_progress(shared, &info.state).await?
    {
        let oldest_age_ms = match backlog {
            0 => None,
            _ => {
                let oldest = dead_letter::raw(&shared.stream, (ack_floor + 1).max(info.state.first_sequence)).await?;
                oldest.map(|message| (unix_ms() - unix_ms_of(message.time)).max(0) as u64)
            }
        };
        metrics::bus_consumer(&name, backlog, pending, oldest_age_ms.unwrap_or_default());
        consumers.push(ConsumerStatus { name, backlog, pending, oldest_age_ms, ack_floor });
    }
    metrics::bus_stored(info.state.bytes, shared.settings.bytes_max);
    let dead_letters = dead_letter::count(shared).await?;
    metrics::bus_dead_letters(dead_letters);
    let full = full(shared);
    Ok(BusStatus {
        engine: "nats",
        messages: info.state.messages,
        bytes: info.state.bytes,
        bytes_max: shared.settings.bytes_max,
        last_sequence: info.state.last_sequence,
        dead_letters,
        refused: full.clone(),
        full,
        consumers,
    })
}

#[cfg(test)]
mod tests {
    use async_nats::jetstream::consumer::{Config, Info};
    use serde_json::{Value, json};

    use super::progress_of;

    /// A consumer as the server shows it before it has counted the last messages.
    fn shown(filter: &str, ack_floor: u64) -> Info {
        let config = Config { filter_subject: filter.to_owned(), ..Config::default() };
        let position = json!({"consumer_seq": ack_floor, "stream_seq": ack_floor});
        let info: Value = json!({
            "stream_name": "S", "name": "c", "created": "2026-01-01T00:00:00Z", "config": config, "delivered": position,
            "ack_floor": position, "num_ack_pending": 0, "num_redelivered": 0, "num_waiting": 1, "num_pending": 0,
        });
        serde_json::from_value(info).unwrap()
    }

    #[test]
    fn a_message_that_the_server_has_not_counted_is_not_acknowledged() {
        let state = serde_json::from_value(json!({
            "messages": 7, "bytes": 700, "first_seq": 1, "last_seq": 7, "consumer_count": 1,
            "first_ts": "2026-01-01T00:00:00Z", "last_ts": "2026-01-01T00:00:00Z",
        }));
        let state = state.unwrap();
        assert_eq!(progress_of(&shown("", 5), &state).acknowledged_to, 5);
        assert_eq!(progress_of(&shown("", 0), &state).acknowledged_to, 0, "just created");
        assert_eq!(progress_of(&shown("a.b", 5), &state).acknowledged_to, 7, "the others may not match");
    }
}
