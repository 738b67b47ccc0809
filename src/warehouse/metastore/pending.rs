//! Partitions that were written to: those registered to be registered, and those still to be registered.
//!
//! Invariant: storing a file never waits here, and neither set grows without bound. The next reconciliation finds
//! partitions that did not fit.

use std::collections::HashSet;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::base::backoff::random_unit;
use crate::metrics;
use crate::warehouse::layout::Partition;

/// Partitions remembered as registered. Beyond it all are forgotten, and registered again when they are written to.
const REGISTERED_MAX: usize = 50_000;
/// Partitions that wait to be registered. Beyond it the whole lake is compared with the metastore.
const PENDING_MAX: usize = 50_000;

#[derive(Debug, Default)]
pub(super) struct PendingPartitions {
    sets: Mutex<Sets>,
    pub(super) arrived: Notify,
}

#[derive(Debug, Default)]
struct Sets {
    registered: HashSet<Partition>,
    pending: HashSet<Partition>,
    /// Set when a partition did not fit.
    overflowed: bool,
}

impl PendingPartitions {
    /// Adds a partition of which a file was stored.
    pub(super) fn add(&self, partition: &Partition) {
        let mut sets = self.sets.lock();
        if sets.registered.contains(partition) || sets.pending.contains(partition) {
            return;
        }
        if sets.pending.len() == PENDING_MAX {
            sets.overflowed = true;
            return;
        }
        sets.pending.insert(partition.clone());
        metrics::hive_waiting(sets.pending.len());
        drop(sets);
        self.arrived.notify_one();
    }

    /// Returns at most `count_max` pending partitions, starting at random so that a refused one is not always among them.
    /// They stay pending until they are marked as registered.
    pub(super) fn sample(&self, count_max: usize) -> Vec<Partition> {
        let sets = self.sets.lock();
        let count = sets.pending.len();
        let from = if count > count_max { (random_unit() * count as f64) as usize } else { 0 };
        sets.pending.iter().cycle().skip(from).take(count_max.min(count)).cloned().collect()
    }

    /// Marks partitions as registered.
    pub(super) fn mark_registered<'a>(&self, partitions: impl IntoIterator<Item = &'a Partition>) {
        let mut sets = self.sets.lock();
        for partition in partitions {
            sets.pending.remove(partition);
            if sets.registered.len() == REGISTERED_MAX {
                sets.registered.clear();
            }
            sets.registered.insert(partition.clone());
        }
        metrics::hive_waiting(sets.pending.len());
    }

    /// Marks a partition as dropped: it is registered again when it is written to.
    pub(super) fn mark_dropped(&self, partition: &Partition) {
        let mut sets = self.sets.lock();
        sets.registered.remove(partition);
        sets.pending.remove(partition);
        metrics::hive_waiting(sets.pending.len());
    }

    /// Forgets all registered partitions: the metastore may have lost them.
    pub(super) fn forget_registered(&self) {
        self.sets.lock().registered.clear();
    }

    /// Whether a partition did not fit since the last call.
    pub(super) fn take_overflowed(&self) -> bool {
        std::mem::take(&mut self.sets.lock().overflowed)
    }

    pub(super) fn len(&self) -> usize {
        self.sets.lock().pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(hour: usize) -> Partition {
        Partition { app_id: "shop".to_owned(), hour: hour as i64 }
    }

    #[test]
    fn a_partition_is_pending_once_until_it_is_registered() {
        let pending = PendingPartitions::default();
        [1, 1, 2].into_iter().for_each(|hour| pending.add(&partition(hour)));
        assert_eq!((pending.len(), pending.sample(1).len(), pending.sample(9).len()), (2, 1, 2));
        pending.mark_registered(&[partition(1)]);
        pending.add(&partition(1));
        assert_eq!(pending.sample(9), [partition(2)]);
        pending.forget_registered();
        pending.add(&partition(1));
        assert_eq!(pending.len(), 2);
        pending.mark_registered(&[partition(1), partition(2)]);
        pending.mark_dropped(&partition(2));
        [1, 2].into_iter().for_each(|hour| pending.add(&partition(hour)));
        assert_eq!(pending.sample(9), [partition(2)]);
    }

    #[test]
    fn neither_set_grows_without_bound() {
        let pending = PendingPartitions::default();
        (0..PENDING_MAX + 1).for_each(|hour| pending.add(&partition(hour)));
        assert_eq!(pending.len(), PENDING_MAX);
        assert!(pending.take_overflowed() && !pending.take_overflowed());
        (0..REGISTERED_MAX + 1).for_each(|hour| pending.mark_registered(&[partition(hour)]));
        assert_eq!((pending.len(), pending.sets.lock().registered.len()), (0, 1));
    }
}
