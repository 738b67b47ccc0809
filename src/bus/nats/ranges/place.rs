//! How far the consumers that lease ranges have come, and which ranges are of no more use.

use async_nats::jetstream::stream::State;

use super::cutter::{last_range, range_from};
use crate::bus::BusError;
use crate::bus::nats::failed::failed;
use crate::bus::nats::progress::Place;
use crate::bus::nats::shared::Shared;

/// Where a consumer of the queue is in the stream. Its ranges in hand count with the mean length of those since
/// its floor: exact as soon as it has acknowledged nothing, or everything, behind that.
pub(crate) async fn place(shared: &Shared, name: String, state: &State) -> Result<Place, BusError> {
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
    let oldest = oldest.map(|(message, range)| (message.sequence, range.first));
    let (acknowledged_to, backlog, pending) =
        figures((last_message.sequence, last.last), oldest, (open_ranges, pending_ranges), state.last_sequence);
    Ok(Place { name, acknowledged_to, backlog, pending })
}

/// Up to where all is acknowledged, and how many messages are not, or are in hand. `last` is the last range that was
/// seen, by its place in the queue and its last message; `oldest` the first that is open, by its place and its first
/// message: it may have been cut later than `last` was looked at.
fn figures(
    last: (u64, u64),
    oldest: Option<(u64, u64)>,
    (open_ranges, pending_ranges): (u64, u64),
    stream_end: u64,
) -> (u64, u64, u64) {
    let (acknowledged_to, ranges) = match oldest {
        Some((place, first)) => (first.saturating_sub(1), (last.0 + 1).saturating_sub(place).max(1)),
        None => (last.1, 1),
    };
    let cut = last.1.saturating_sub(acknowledged_to);
    let messages = |open: u64| (cut * open.min(ranges)).div_ceil(ranges);
    let uncut = stream_end.saturating_sub(last.1.max(acknowledged_to));
    (acknowledged_to, messages(open_ranges) + uncut, messages(pending_ranges))
}

/// Purges the ranges of messages that the stream no longer holds, but for the last, behind which the next is cut.
pub(crate) async fn purge(shared: &Shared, consumer: &str, first_sequence: u64) -> Result<(), BusError> {
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

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn ranges_count_with_their_mean_length() {
        assert_eq!(figures((4, 400), None, (0, 0), 450), (400, 50, 0));
        assert_eq!(figures((4, 400), Some((1, 1)), (4, 2), 400), (0, 400, 200));
        assert_eq!(figures((4, 400), Some((3, 201)), (2, 2), 450), (200, 250, 200));
    }

    #[test]
    fn a_range_that_was_cut_meanwhile_is_open() {
        assert_eq!(figures((4, 400), Some((5, 401)), (1, 1), 450), (400, 50, 0));
        assert_eq!(figures((4, 400), Some((7, 601)), (1, 1), 650), (600, 50, 0));
        assert_eq!(figures((4, 400), Some((5, 401)), (1, 1), 390), (400, 0, 0), "the stream was looked at before");
    }
}
