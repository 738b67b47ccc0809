//! The progress of consumers that lease chunks, and purging chunks that are no longer needed.

use async_nats::jetstream::stream::State;

use super::allocator::{chunk_from, last_chunk};
use crate::bus::BusError;
use crate::bus::nats::failed::failed;
use crate::bus::nats::progress::ConsumerProgress;
use crate::bus::nats::shared::Shared;

/// The progress of a consumer in the stream. Its chunks in flight count with the mean length of those since its ack
/// floor; the figure is exact once it has acknowledged nothing, or everything, after that.
pub(crate) async fn progress(shared: &Shared, name: String, state: &State) -> Result<ConsumerProgress, BusError> {
    // Read before the open chunks: a chunk allocated in between counts as not acknowledged.
    let last = last_chunk(shared, &name).await?;
    let consumer = shared.chunks.consumer_info(&name).await.map_err(|error| failed("read consumer", error))?;
    let Some((last_message, last)) = last else {
        return Ok(ConsumerProgress::unread(name, state));
    };
    let floor = consumer.ack_floor.stream_sequence;
    let pending_chunks = consumer.num_ack_pending as u64;
    // The server adds a chunk to `num_pending` some time after storing it.
    let is_done = pending_chunks == 0 && consumer.delivered.stream_sequence >= last_message.sequence;
    let oldest = if is_done { None } else { chunk_from(shared, &name, floor + 1).await? };
    let open_chunks = (consumer.num_pending + pending_chunks).max(u64::from(oldest.is_some()));
    let oldest = oldest.map(|(message, chunk)| (message.sequence, chunk.first));
    let (acknowledged_to, backlog, pending) =
        figures((last_message.sequence, last.last), oldest, (open_chunks, pending_chunks), state.last_sequence);
    Ok(ConsumerProgress { name, acknowledged_to, backlog, pending })
}

/// Returns the sequence up to which all is acknowledged, the number of unacknowledged messages, and the number in
/// flight. `last` is the last known chunk, given by its sequence in the queue and its last message. `oldest` is the
/// first open chunk, given by its sequence in the queue and its first message; it may have been allocated after `last`
/// was read.
fn figures(
    last: (u64, u64),
    oldest: Option<(u64, u64)>,
    (open_chunks, pending_chunks): (u64, u64),
    stream_end: u64,
) -> (u64, u64, u64) {
    let (acknowledged_to, chunks) = match oldest {
        Some((place, first)) => (first.saturating_sub(1), (last.0 + 1).saturating_sub(place).max(1)),
        None => (last.1, 1),
    };
    let allocated = last.1.saturating_sub(acknowledged_to);
    let messages = |open: u64| (allocated * open.min(chunks)).div_ceil(chunks);
    let unallocated = stream_end.saturating_sub(last.1.max(acknowledged_to));
    (acknowledged_to, messages(open_chunks) + unallocated, messages(pending_chunks))
}

/// Purges chunks whose messages the stream no longer holds, except the last one, after which the next is allocated.
pub(crate) async fn purge(shared: &Shared, consumer: &str, first_sequence: u64) -> Result<(), BusError> {
    let Some((last, _)) = last_chunk(shared, consumer).await? else { return Ok(()) };
    let Some((first, chunk)) = chunk_from(shared, consumer, 0).await? else { return Ok(()) };
    if chunk.last >= first_sequence || first.sequence >= last.sequence {
        return Ok(());
    }
    // The first one is no longer needed, so there is a last such chunk.
    let (mut gone, mut kept) = (first.sequence, last.sequence);
    while kept - gone > 1 {
        let middle = gone + (kept - gone) / 2;
        match chunk_from(shared, consumer, middle).await? {
            Some((message, chunk)) if message.sequence < kept && chunk.last < first_sequence => gone = message.sequence,
            _ => kept = middle,
        }
    }
    let subject = shared.settings.chunk_subject(consumer);
    let purged = shared.chunks.purge().filter(subject).sequence(kept).await;
    purged.map(drop).map_err(|error| failed("purge ranges", error))
}

#[cfg(test)]
mod tests {
    use super::figures;

    #[test]
    fn chunks_count_with_their_mean_length() {
        assert_eq!(figures((4, 400), None, (0, 0), 450), (400, 50, 0));
        assert_eq!(figures((4, 400), Some((1, 1)), (4, 2), 400), (0, 400, 200));
        assert_eq!(figures((4, 400), Some((3, 201)), (2, 2), 450), (200, 250, 200));
    }

    #[test]
    fn a_chunk_allocated_meanwhile_is_open() {
        assert_eq!(figures((4, 400), Some((5, 401)), (1, 1), 450), (400, 50, 0));
        assert_eq!(figures((4, 400), Some((7, 601)), (1, 1), 650), (600, 50, 0));
        assert_eq!(figures((4, 400), Some((5, 401)), (1, 1), 390), (400, 0, 0), "the stream was looked at before");
    }
}
