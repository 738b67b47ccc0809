//! The chunks in flight to a subscription, and which of their messages are resolved.
//!
//! Invariant: a chunk is complete only when each of its messages was answered or is known not to be for this consumer;
//! only then may it be acknowledged.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use crate::base::clock;
use crate::bus::Receipt;

/// Identifies one delivery of a chunk within a subscription.
pub(crate) type ChunkKey = u64;

#[derive(Debug, Default)]
pub(crate) struct InFlightChunks(Mutex<Chunks>);

#[derive(Debug, Default)]
struct Chunks {
    last_key: ChunkKey,
    in_flight: HashMap<ChunkKey, InFlightChunk>,
}

#[derive(Debug)]
struct InFlightChunk {
    /// The receipt of the chunk itself.
    receipt: Receipt,
    sequences: RangeInclusive<u64>,
    resolved: Vec<u64>,
    /// Messages that are not resolved.
    open: u64,
    /// Set when some of its messages must be redelivered: the delay.
    redeliver_after: Option<Duration>,
    /// A lower bound of the start of the lease.
    leased_at: Instant,
}

/// A chunk without unresolved messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CompletedChunk {
    pub(super) key: ChunkKey,
    pub(super) receipt: Receipt,
    pub(super) redeliver_after: Option<Duration>,
}

impl InFlightChunks {
    /// Adds a chunk. Drops chunks whose leases have expired: they will be redelivered.
    pub(super) fn add(
        &self,
        receipt: Receipt,
        sequences: &RangeInclusive<u64>,
        leased_at: Instant,
        ack_wait: Duration,
    ) -> ChunkKey {
        let (mut chunks, now) = (self.chunks(), clock::now());
        chunks.in_flight.retain(|_, chunk| clock::between(chunk.leased_at, now) < ack_wait);
        chunks.last_key += 1;
        let key = chunks.last_key;
        let open = (sequences.end() + 1).saturating_sub(*sequences.start());
        let (sequences, resolved) = (sequences.clone(), vec![0; open.div_ceil(64) as usize]);
        chunks
            .in_flight
            .insert(key, InFlightChunk { receipt, sequences, resolved, open, redeliver_after: None, leased_at });
        key
    }

    /// Resolves messages of a chunk that do not exist or are not for this consumer.
    pub(super) fn skip(&self, key: ChunkKey, sequences: RangeInclusive<u64>) -> Option<CompletedChunk> {
        let mut chunks = self.chunks();
        let chunk = chunks.in_flight.get_mut(&key)?;
        sequences.for_each(|sequence| chunk.resolve(sequence));
        chunk.complete(key)
    }

    /// Resolves messages. Returns those of their chunks that are complete, including chunks that were complete before.
    /// With `redeliver_after`, the chunks are redelivered after that delay.
    pub(super) fn resolve(&self, receipts: &[Receipt], redeliver_after: Option<Duration>) -> Vec<CompletedChunk> {
        let mut chunks = self.chunks();
        for run in receipts.chunk_by(|one, next| key(one) == key(next)) {
            let Some(chunk) = chunks.in_flight.get_mut(&key(&run[0])) else { continue };
            run.iter().for_each(|receipt| chunk.resolve(receipt.sequence));
            chunk.redeliver_after = chunk.redeliver_after.max(redeliver_after);
        }
        let complete = |key| chunks.in_flight.get(&key)?.complete(key);
        keys(receipts).into_iter().filter_map(complete).collect()
    }

    /// All chunks, to be redelivered immediately where messages are unresolved.
    pub(super) fn release_all(&self) -> Vec<CompletedChunk> {
        let redeliver_after =
            |chunk: &InFlightChunk| if chunk.open > 0 { Some(Duration::ZERO) } else { chunk.redeliver_after };
        let released = |(key, chunk): (&ChunkKey, &InFlightChunk)| CompletedChunk {
            key: *key,
            receipt: chunk.receipt,
            redeliver_after: redeliver_after(chunk),
        };
        self.chunks().in_flight.iter().map(released).collect()
    }

    /// Removes chunks that the server knows to be complete.
    pub(super) fn release(&self, complete: &[CompletedChunk]) {
        let mut chunks = self.chunks();
        for complete in complete {
            chunks.in_flight.remove(&complete.key);
        }
    }

    /// The chunks of these messages; `None` when one of them is no longer in flight.
    pub(super) fn chunks_of(&self, receipts: &[Receipt]) -> Option<Vec<(ChunkKey, Receipt)>> {
        let chunks = self.chunks();
        keys(receipts).into_iter().map(|key| Some((key, chunks.in_flight.get(&key)?.receipt))).collect()
    }

    pub(super) fn renewed(&self, keys: impl Iterator<Item = ChunkKey>, at: Instant) {
        let mut chunks = self.chunks();
        for key in keys {
            if let Some(chunk) = chunks.in_flight.get_mut(&key) {
                chunk.leased_at = at;
            }
        }
    }

    pub(super) fn leased_at(&self, key: ChunkKey) -> Option<Instant> {
        Some(self.chunks().in_flight.get(&key)?.leased_at)
    }

    fn chunks(&self) -> MutexGuard<'_, Chunks> {
        self.0.lock()
    }
}

impl InFlightChunk {
    fn resolve(&mut self, sequence: u64) {
        if !self.sequences.contains(&sequence) {
            return;
        }
        let at = sequence - self.sequences.start();
        let (word, bit) = (&mut self.resolved[(at / 64) as usize], 1 << (at % 64));
        self.open -= u64::from(*word & bit == 0);
        *word |= bit;
    }

    fn complete(&self, key: ChunkKey) -> Option<CompletedChunk> {
        (self.open == 0).then_some(CompletedChunk { key, receipt: self.receipt, redeliver_after: self.redeliver_after })
    }
}

/// The receipt of a message carries the key of its chunk in place of the consumer sequence.
fn key(receipt: &Receipt) -> ChunkKey {
    receipt.consumer_sequence
}

fn keys(receipts: &[Receipt]) -> Vec<ChunkKey> {
    let mut keys: Vec<ChunkKey> =
        receipts.chunk_by(|one, next| key(one) == key(next)).map(|run| key(&run[0])).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);

    fn receipt(sequence: u64, consumer_sequence: u64) -> Receipt {
        Receipt { sequence, consumer_sequence, delivery_count: 1 }
    }

    #[test]
    fn a_chunk_is_complete_when_every_message_is_resolved() {
        let in_flight = InFlightChunks::default();
        let queued = receipt(7, 3);
        let key = in_flight.add(queued, &(100..=299), Instant::now(), WAIT);
        let of = |sequences: RangeInclusive<u64>| sequences.map(|n| receipt(n, key)).collect::<Vec<_>>();
        assert_eq!(in_flight.resolve(&of(100..=200), None), []);
        assert_eq!(in_flight.resolve(&of(100..=250), None), [], "to settle twice counts once");
        assert_eq!(in_flight.skip(key, 251..=298), None);
        assert_eq!(in_flight.resolve(&of(300..=400), None), [], "what is not in the range settles nothing");
        let complete = CompletedChunk { key, receipt: queued, redeliver_after: None };
        assert_eq!(in_flight.resolve(&of(299..=299), None), [complete]);
        assert_eq!(in_flight.resolve(&of(150..=150), None), [complete], "until the server knows it");
        in_flight.release(&[complete]);
        assert_eq!(in_flight.resolve(&of(150..=150), None), []);
        assert_eq!(in_flight.chunks_of(&of(150..=150)), None);
    }

    #[test]
    fn one_message_to_redeliver_redelivers_the_chunk() {
        let in_flight = InFlightChunks::default();
        let (one, other) = (
            in_flight.add(receipt(1, 1), &(1..=2), Instant::now(), WAIT),
            in_flight.add(receipt(2, 2), &(3..=3), Instant::now(), WAIT),
        );
        assert_eq!(in_flight.resolve(&[receipt(2, one)], Some(WAIT)), []);
        let complete = in_flight.resolve(&[receipt(3, other), receipt(1, one)], None);
        assert_eq!(
            complete.iter().map(|chunk| (chunk.key, chunk.redeliver_after)).collect::<Vec<_>>(),
            [(one, Some(WAIT)), (other, None)]
        );
    }

    #[test]
    fn expired_chunks_are_dropped_unless_renewed() {
        let in_flight = InFlightChunks::default();
        let long_ago = Instant::now() - 2 * WAIT;
        let lapsed = in_flight.add(receipt(1, 1), &(1..=2), long_ago, WAIT);
        let renewed = in_flight.add(receipt(2, 2), &(3..=4), Instant::now(), WAIT);
        assert_eq!(in_flight.leased_at(lapsed), None);
        in_flight.renewed([renewed].into_iter(), Instant::now());
        in_flight.add(receipt(3, 3), &(5..=6), Instant::now(), WAIT);
        assert_eq!(in_flight.chunks_of(&[receipt(3, renewed)]), Some(vec![(renewed, receipt(2, 2))]));
    }
}
