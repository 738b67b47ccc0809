//! Finds the first messages of duplicates in their groups.
//!
//! The messages of a repeated batch mostly lie in one or two groups, so each group is read once, one at a time. Knows
//! nothing of when a key is forgotten.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use super::dedup::key::DedupKey;
use super::file;
use super::group::Group;
use super::shared::Shared;
use crate::bus::batch::FLAG_REPLAY;
use crate::bus::{BusError, Original};

/// Applies `read` to each first message. Returns `None` where the group is unknown or has left the bus.
pub(super) fn find<T>(
    shared: &Shared,
    connection: &Connection,
    wanted: &[Original],
    read: fn(&[u8]) -> Option<T>,
) -> Result<Vec<Option<T>>, BusError> {
    let mut by_group: BTreeMap<u64, HashMap<[u8; 16], Vec<usize>>> = BTreeMap::new();
    for (index, original) in wanted.iter().enumerate().filter(|(_, original)| original.sequence > 0) {
        by_group.entry(original.sequence).or_default().entry(original.key).or_default().push(index);
    }
    let mut found: Vec<Option<T>> = wanted.iter().map(|_| None).collect();
    for (first_sequence, keys) in by_group {
        let recent = shared.tail.lock().find(first_sequence).cloned();
        let group = match recent {
            Some(group) => Some(group),
            None => file::read_groups(connection, shared.path(), first_sequence, 1)?.pop_front(),
        };
        // For a purged group, the next one is returned.
        if let Some(group) = group.filter(|group| group.first_sequence == first_sequence) {
            find_in(&group, keys, read, &mut found);
        }
    }
    Ok(found)
}

fn find_in<T>(
    group: &Group,
    mut keys: HashMap<[u8; 16], Vec<usize>>,
    read: fn(&[u8]) -> Option<T>,
    found: &mut [Option<T>],
) {
    for sequence in group.first_sequence..=group.last_sequence() {
        if keys.is_empty() {
            return;
        }
        let Some(layout) = group.layout(sequence) else { return };
        // In a replay, this field holds the name of a consumer.
        if layout.message_id.is_empty() || layout.flags & FLAG_REPLAY != 0 {
            continue;
        }
        let key = DedupKey::of(&group.data()[layout.message_id]);
        for index in keys.remove(&key.0).unwrap_or_default() {
            found[index] = read(&group.data()[layout.payload.clone()]);
        }
    }
}
