//! The first messages of duplicates, found by the groups that hold them.
//!
//! A batch that is sent again mostly lies in one group or two: each group is read once, one at a time. Knows nothing
//! of when a key is forgotten.

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use super::dedup::key::Key;
use super::file;
use super::group::Group;
use super::shared::{Shared, lock};
use crate::bus::batch::FLAG_REPLAY;
use crate::bus::{BusError, Original};

/// What `read` makes of each first message; none where its group is not known, or has left the bus.
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
        let recent = lock(&shared.tail).find(first_sequence).cloned();
        let group = match recent {
            Some(group) => Some(group),
            None => file::read_groups(connection, &shared.path, first_sequence, 1)?.pop_front(),
        };
        // Of one that was purged, the next comes.
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
        // What a replay carries in its place is a consumer's name.
        if layout.message_id.is_empty() || layout.flags & FLAG_REPLAY != 0 {
            continue;
        }
        let key = Key::of(&group.data()[layout.message_id]);
        for index in keys.remove(&key.0).unwrap_or_default() {
            found[index] = read(&group.data()[layout.payload.clone()]);
        }
    }
}
