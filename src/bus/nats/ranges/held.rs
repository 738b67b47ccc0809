//! The ranges that a subscription holds, and which of their messages are settled.
//!
//! Invariant: a range is complete only when each of its messages was answered or is known not
//! to be for us; only then may the server be told.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::bus::Receipt;

/// Names one delivery of one range within a subscription.
pub(crate) type Key = u64;

#[derive(Debug, Default)]
pub(crate) struct Held(Mutex<Ranges>);

#[derive(Debug, Default)]
struct Ranges {
    last_key: Key,
    held: HashMap<Key, HeldRange>,
}

#[derive(Debug)]
struct HeldRange {
    /// Of the range itself in the queue.
    receipt: Receipt,
    sequences: RangeInclusive<u64>,
    settled: Vec<u64>,
    /// Messages not settled.
    open: u64,
    /// Some of its messages are to come again, after this.
    again: Option<Duration>,
    /// The lease began no earlier than this.
    leased_at: Instant,
}

/// A range of which nothing is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Complete {
    pub(super) key: Key,
    pub(super) receipt: Receipt,
    pub(super) again: Option<Duration>,
}

impl Held {
    /// Takes a range in; what lapsed meanwhile is forgotten: it comes again.
    pub(super) fn hold(
        &self,
        receipt: Receipt,
        sequences: &RangeInclusive<u64>,
        leased_at: Instant,
        ack_wait: Duration,
    ) -> Key {
        let (mut ranges, now) = (self.ranges(), clock::now());
        ranges.held.retain(|_, range| clock::between(range.leased_at, now) < ack_wait);
        ranges.last_key += 1;
        let key = ranges.last_key;
        let open = (sequences.end() + 1).saturating_sub(*sequences.start());
        let (sequences, settled) = (sequences.clone(), vec![0; open.div_ceil(64) as usize]);
        ranges.held.insert(key, HeldRange { receipt, sequences, settled, open, again: None, leased_at });
        key
    }

    /// Messages of a range that are not there or not for us.
    pub(super) fn pass(&self, key: Key, sequences: RangeInclusive<u64>) -> Option<Complete> {
        let mut ranges = self.ranges();
        let range = ranges.held.get_mut(&key)?;
        sequences.for_each(|sequence| range.settle(sequence));
        range.complete(key)
    }

    /// Settles messages; answers the ranges among theirs that are complete, those that were before included. With
    /// `again`, theirs will come again after that time.
    pub(super) fn settle(&self, receipts: &[Receipt], again: Option<Duration>) -> Vec<Complete> {
        let mut ranges = self.ranges();
        for run in receipts.chunk_by(|one, next| key(one) == key(next)) {
            let Some(range) = ranges.held.get_mut(&key(&run[0])) else { continue };
            run.iter().for_each(|receipt| range.settle(receipt.sequence));
            range.again = range.again.max(again);
        }
        let complete = |key| ranges.held.get(&key)?.complete(key);
        keys(receipts).into_iter().filter_map(complete).collect()
    }

    /// Everything that is held, to come again at once where something is open.
    pub(super) fn release_all(&self) -> Vec<Complete> {
        let again = |range: &HeldRange| if range.open > 0 { Some(Duration::ZERO) } else { range.again };
        let given =
            |(key, range): (&Key, &HeldRange)| Complete { key: *key, receipt: range.receipt, again: again(range) };
        self.ranges().held.iter().map(given).collect()
    }

    /// The server knows that these are complete.
    pub(super) fn release(&self, complete: &[Complete]) {
        let mut ranges = self.ranges();
        for complete in complete {
            ranges.held.remove(&complete.key);
        }
    }

    /// The ranges that messages are of; none when one of them is not held any more.
    pub(super) fn ranges_of(&self, receipts: &[Receipt]) -> Option<Vec<(Key, Receipt)>> {
        let ranges = self.ranges();
        keys(receipts).into_iter().map(|key| Some((key, ranges.held.get(&key)?.receipt))).collect()
    }

    pub(super) fn renewed(&self, keys: impl Iterator<Item = Key>, at: Instant) {
        let mut ranges = self.ranges();
        for key in keys {
            if let Some(range) = ranges.held.get_mut(&key) {
                range.leased_at = at;
            }
        }
    }

    pub(super) fn leased_at(&self, key: Key) -> Option<Instant> {
        Some(self.ranges().held.get(&key)?.leased_at)
    }

    fn ranges(&self) -> MutexGuard<'_, Ranges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldRange {
    fn settle(&mut self, sequence: u64) {
        if !self.sequences.contains(&sequence) {
            return;
        }
        let at = sequence - self.sequences.start();
        let (word, bit) = (&mut self.settled[(at / 64) as usize], 1 << (at % 64));
        self.open -= u64::from(*word & bit == 0);
        *word |= bit;
    }

    fn complete(&self, key: Key) -> Option<Complete> {
        (self.open == 0).then_some(Complete { key, receipt: self.receipt, again: self.again })
    }
}

/// A receipt of a message carries the key of its range where others carry what the consumer counts.
fn key(receipt: &Receipt) -> Key {
    receipt.consumer_sequence
}

fn keys(receipts: &[Receipt]) -> Vec<Key> {
    let mut keys: Vec<Key> = receipts.chunk_by(|one, next| key(one) == key(next)).map(|run| key(&run[0])).collect();
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
    fn a_range_is_complete_when_every_message_is_settled_once() {
        let held = Held::default();
        let queued = receipt(7, 3);
        let key = held.hold(queued, &(100..=299), Instant::now(), WAIT);
        let of = |sequences: RangeInclusive<u64>| sequences.map(|n| receipt(n, key)).collect::<Vec<_>>();
        assert_eq!(held.settle(&of(100..=200), None), []);
        assert_eq!(held.settle(&of(100..=250), None), [], "to settle twice counts once");
        assert_eq!(held.pass(key, 251..=298), None);
        assert_eq!(held.settle(&of(300..=400), None), [], "what is not in the range settles nothing");
        let complete = Complete { key, receipt: queued, again: None };
        assert_eq!(held.settle(&of(299..=299), None), [complete]);
        assert_eq!(held.settle(&of(150..=150), None), [complete], "until the server knows it");
        held.release(&[complete]);
        assert_eq!(held.settle(&of(150..=150), None), []);
        assert_eq!(held.ranges_of(&of(150..=150)), None);
    }

    #[test]
    fn one_message_that_is_to_come_again_brings_the_range_again() {
        let held = Held::default();
        let (one, other) = (
            held.hold(receipt(1, 1), &(1..=2), Instant::now(), WAIT),
            held.hold(receipt(2, 2), &(3..=3), Instant::now(), WAIT),
        );
        assert_eq!(held.settle(&[receipt(2, one)], Some(WAIT)), []);
        let complete = held.settle(&[receipt(3, other), receipt(1, one)], None);
        assert_eq!(
            complete.iter().map(|range| (range.key, range.again)).collect::<Vec<_>>(),
            [(one, Some(WAIT)), (other, None)]
        );
    }

    #[test]
    fn what_lapsed_is_forgotten_unless_renewed() {
        let held = Held::default();
        let long_ago = Instant::now() - 2 * WAIT;
        let lapsed = held.hold(receipt(1, 1), &(1..=2), long_ago, WAIT);
        let renewed = held.hold(receipt(2, 2), &(3..=4), Instant::now(), WAIT);
        assert_eq!(held.leased_at(lapsed), None);
        held.renewed([renewed].into_iter(), Instant::now());
        held.hold(receipt(3, 3), &(5..=6), Instant::now(), WAIT);
        assert_eq!(held.ranges_of(&[receipt(3, renewed)]), Some(vec![(renewed, receipt(2, 2))]));
    }
}
