//! The partitions that were written to: those that the metastore is known to have, and those that it is to be told.
//!
//! Invariant: whoever stores a file never waits here, and neither set grows without bound. What does not fit is found
//! by the next reconciliation.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::base::backoff::random_unit;
use crate::metrics;
use crate::warehouse::layout::Partition;

/// Partitions that are remembered as registered; beyond it all are forgotten, and told once more when they are written to.
const KNOWN_MAX: usize = 50_000;
/// Partitions that wait; beyond it the whole lake is compared with the metastore.
const WAITING_MAX: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    sets: Mutex<Sets>,
    pub(super) came: Notify,
}

#[derive(Debug, Default)]
struct Sets {
    known: HashSet<Partition>,
    waiting: HashSet<Partition>,
    /// Some did not fit.
    overflowed: bool,
}

impl Waiting {
    /// A file of the partition is stored.
    pub(super) fn note(&self, partition: &Partition) {
        let mut sets = self.sets();
        if sets.known.contains(partition) || sets.waiting.contains(partition) {
            return;
        }
        if sets.waiting.len() == WAITING_MAX {
            sets.overflowed = true;
            return;
        }
        sets.waiting.insert(partition.clone());
        metrics::hive_waiting(sets.waiting.len());
        drop(sets);
        self.came.notify_one();
    }

    /// So many of those that wait, at most: any, so that one that is refused is not always among them. They go on
    /// waiting until they are registered.
    pub(super) fn some(&self, count_max: usize) -> Vec<Partition> {
        let sets = self.sets();
        let count = sets.waiting.len();
        let from = if count > count_max { (random_unit() * count as f64) as usize } else { 0 };
        sets.waiting.iter().cycle().skip(from).take(count_max.min(count)).cloned().collect()
    }

    /// The metastore has them.
    pub(super) fn registered<'a>(&self, partitions: impl IntoIterator<Item = &'a Partition>) {
        let mut sets = self.sets();
        for partition in partitions {
            sets.waiting.remove(partition);
            if sets.known.len() == KNOWN_MAX {
                sets.known.clear();
            }
            sets.known.insert(partition.clone());
        }
        metrics::hive_waiting(sets.waiting.len());
    }

    /// The metastore does not have it any more: it is told of it once more when it is written to.
    pub(super) fn dropped(&self, partition: &Partition) {
        let mut sets = self.sets();
        sets.known.remove(partition);
        sets.waiting.remove(partition);
        metrics::hive_waiting(sets.waiting.len());
    }

    /// The metastore may have none of them any more.
    pub(super) fn forget(&self) {
        self.sets().known.clear();
    }

    /// Whether some did not fit since this was asked last.
    pub(super) fn take_overflowed(&self) -> bool {
        std::mem::take(&mut self.sets().overflowed)
    }

    pub(super) fn len(&self) -> usize {
        self.sets().waiting.len()
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(hour: usize) -> Partition {
        Partition { app_id: "shop".to_owned(), hour: hour as i64 }
    }

    #[test]
    fn a_partition_waits_once_until_it_is_registered() {
        let waiting = Waiting::default();
        [1, 1, 2].into_iter().for_each(|hour| waiting.note(&partition(hour)));
        assert_eq!((waiting.len(), waiting.some(1).len(), waiting.some(9).len()), (2, 1, 2));
        waiting.registered(&[partition(1)]);
        waiting.note(&partition(1));
        assert_eq!(waiting.some(9), [partition(2)]);
        waiting.forget();
        waiting.note(&partition(1));
        assert_eq!(waiting.len(), 2);
        waiting.registered(&[partition(1), partition(2)]);
        waiting.dropped(&partition(2));
        [1, 2].into_iter().for_each(|hour| waiting.note(&partition(hour)));
        assert_eq!(waiting.some(9), [partition(2)]);
    }

    #[test]
    fn neither_set_grows_without_bound() {
        let waiting = Waiting::default();
        (0..WAITING_MAX + 1).for_each(|hour| waiting.note(&partition(hour)));
        assert_eq!(waiting.len(), WAITING_MAX);
        assert!(waiting.take_overflowed() && !waiting.take_overflowed());
        (0..KNOWN_MAX + 1).for_each(|hour| waiting.registered(&[partition(hour)]));
        assert_eq!((waiting.len(), waiting.sets().known.len()), (0, 1));
    }
}
