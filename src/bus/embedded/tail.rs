//! The most recent groups in memory, for consumers near the head.
//!
//! Invariant: holds contiguous committed groups up to the head, within its bound of bytes (the newest group always
//! stays). Knows nothing of consumers or files.

use std::collections::VecDeque;
use std::sync::Arc;

use super::group::Group;

pub(crate) struct Tail {
    groups: VecDeque<Arc<Group>>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { groups: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(super) fn push(&mut self, group: Arc<Group>) {
        self.bytes += group.bytes();
        self.groups.push_back(group);
        while self.bytes > self.bytes_max && self.groups.len() > 1 {
            if let Some(oldest) = self.groups.pop_front() {
                self.bytes -= oldest.bytes();
            }
        }
    }

    /// Replaces the group with the same sequences, if it is in the tail.
    pub(super) fn replace(&mut self, group: &Arc<Group>) {
        let index = self.groups.partition_point(|held| held.first_sequence < group.first_sequence);
        if let Some(held) = self.groups.get_mut(index)
            && held.first_sequence == group.first_sequence
        {
            self.bytes = self.bytes - held.bytes() + group.bytes();
            *held = group.clone();
        }
    }

    /// The first sequence of the newer half. A consumer below it will soon fall out of the tail.
    pub(super) fn middle(&self) -> u64 {
        self.groups.get(self.groups.len() / 2).map_or(0, |group| group.first_sequence)
    }

    /// The group with this sequence, if it is recent enough.
    pub(super) fn find(&self, sequence: u64) -> Option<&Arc<Group>> {
        find(&self.groups, sequence)
    }
}

/// The group with this sequence, among groups in order.
pub(super) fn find(groups: &VecDeque<Arc<Group>>, sequence: u64) -> Option<&Arc<Group>> {
    let index = groups.partition_point(|group| group.last_sequence() < sequence);
    groups.get(index).filter(|group| group.first_sequence <= sequence)
}

#[cfg(test)]
mod tests {
    use super::super::group::Draft;
    use super::*;
    use crate::bus::Batch;

    fn group(first_sequence: u64, count: usize) -> Arc<Group> {
        let mut batch = Batch::new();
        (0..count).for_each(|_| batch.push("a", None, |out| out.resize(out.len() + 90, 0)));
        let parts = batch.into_parts();
        let mut draft = Draft::new(first_sequence, 0);
        draft.extend(&parts.records, 0, &parts.ends, parts.subject_prefix);
        draft.into_group()
    }

    #[test]
    fn finds_recent_groups_and_stays_within_its_bytes() {
        let mut tail = Tail::new(3_500);
        for n in 0..10 {
            tail.push(group(1 + n * 10, 10));
            assert!(tail.bytes <= 3_500);
        }
        assert_eq!(tail.find(100).map(|group| group.first_sequence), Some(91));
        assert_eq!(tail.find(91).map(|group| group.first_sequence), Some(91));
        assert_eq!(tail.find(90).map(|group| group.first_sequence), Some(81));
        assert!(tail.find(101).is_none());
        assert!(tail.find(1).is_none());
        tail.push(group(101, 1_000));
        assert_eq!(tail.groups.len(), 1, "one group over the bound is still served");
    }
}
