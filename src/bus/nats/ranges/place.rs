//! How far the consumers that lease ranges have come, and which ranges are of no more use.

use async_nats::jetstream::stream::State;

use super::cutter::{last_range, range_from};
use crate::bus::BusError;
use crate::bus::nats::Shared;
use crate::bus::nats::retention::Place;
use crate::bus::nats::streams::failed;

/// Where a consumer of the queue is in the stream. Its ranges in hand count with the mean length of those since
/// its floor: exact as soon as it has acknowledged nothing, or everything, behind that.
pub(in crate::bus::nats) async fn place(shared: &Shared, name: String, state: &State) -> Result<Place, BusError> {
    // Read before what is open: a range that is cut in between counts as not acknowledged.
    let last = last_range(shared, &name).await?;
    let consumer = shared.ranges.consumer_info(&name).await.map_err(|error| failed("read consumer", error))?;
    let Some((last_message, last)) = last else {
        return Ok(Place::at_the_start(name, state));
    };
    let floor = consumer.ack_floor.stream_sequence;
    let pending_ranges = consumer.num_ack_pending as u64;
    let open_ranges = consumer.num_pending + pending_ranges;
    let oldest = if open_ranges == 0 { None } else { range_from(shared, &name, floor + 1).await? };
    let (acknowledged_to, ranges) = match oldest {
        Some((message, range)) => (range.first - 1, last_message.sequence + 1 - message.sequence),
        None => (last.last, 1),
    };
    let cut = last.last.saturating_sub(acknowledged_to);
    let messages = |open: u64| (cut * open.min(ranges)).div_ceil(ranges);
    let uncut = state.last_sequence.saturating_sub(last.last);
    let (backlog, pending) = (messages(open_ranges) + uncut, messages(pending_ranges));
    Ok(Place { name, acknowledged_to, backlog, pending })
}

/// Purges the ranges of messages that the stream no longer holds, but for the last, behind which the next is cut.
pub(in crate::bus::nats) async fn purge(shared: &Shared, consumer: &str, first_sequence: u64) -> Result<(), BusError> {
    let Some((last, _)) = last_range(shared, consumer).await? else { return Ok(()) };
    let Some((first, range)) = range_from(shared, consumer, 0).await? else { return Ok(()) };
    if range.last >= first_sequence || first.sequence >= last.sequence {
        return Ok(());
    }
    // The first is of no more use, so there is a last such one.
    let (mut gone, mut kept) = (first.sequence, last.sequence);
    while kept - gone > 1 {
        let middle = gone + (kept - gone) / 2;
        match range_from(shared, consumer, middle).await? {
            Some((message, range)) if message.sequence < kept && range.last < first_sequence => gone = message.sequence,
            _ => kept = middle,
        }
    }
    let subject = shared.settings.range_subject(consumer);
    let purged = shared.ranges.purge().filter(subject).sequence(kept).await;
    purged.map(drop).map_err(|error| failed("purge ranges", error))
}
