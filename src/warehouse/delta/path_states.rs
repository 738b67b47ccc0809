//! A bounded cache of the state of each file in the log, as far as this process has read the log.
//!
//! Invariant: the latest commit that names a file wins. The oldest entries are evicted first; as long as none was evicted
//! and the whole log was read, a file that is not here is not in the log.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Files per generation, at 32 bytes each.
const GENERATION_FILES_MAX: usize = 500_000;

/// Cheap to clone; clones share the cache. The lock is held only briefly, so that looking up a cached file never waits
/// for a commit.
#[derive(Clone, Debug, Default)]
pub(super) struct PathStates(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// Keyed hash of the path to whether the file is in the table (true) or was removed.
    young: HashMap<u128, bool>,
    old: HashMap<u128, bool>,
    complete: bool,
    has_evicted: bool,
    hasher: PathHasher,
}

/// Hashes paths with secret keys, so that no outsider can construct a collision.
#[derive(Clone, Debug, Default)]
pub(super) struct PathHasher(RandomState, RandomState);

/// The state of a file according to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathState {
    Added,
    Removed,
    Unlogged,
    /// An earlier part of the log may name it.
    Unknown,
}

impl PathStates {
    pub(super) fn note(&self, path: &str, is_there: bool) {
        let mut files = self.files();
        let key = files.hasher.hash(path);
        if files.young.len() >= GENERATION_FILES_MAX && !files.young.contains_key(&key) {
            files.has_evicted |= !files.old.is_empty();
            files.complete &= !files.has_evicted;
            files.old = std::mem::take(&mut files.young);
        }
        files.young.insert(key, is_there);
    }

    /// Notes an entry from an earlier part of the log than all entries so far.
    pub(super) fn note_earlier(&self, path: &str, is_there: bool) {
        let mut files = self.files();
        let key = files.hasher.hash(path);
        if !files.young.contains_key(&key) {
            files.old.entry(key).or_insert(is_there);
        }
    }

    /// The whole log was noted.
    pub(super) fn completed(&self) {
        let mut files = self.files();
        files.complete = !files.has_evicted;
    }

    /// Whether this many entries fit without evicting any.
    pub(super) fn has_room(&self, files: usize) -> bool {
        self.files().old.len() + files <= GENERATION_FILES_MAX
    }

    pub(super) fn get(&self, path: &str) -> PathState {
        let files = self.files();
        let key = files.hasher.hash(path);
        match files.young.get(&key).or_else(|| files.old.get(&key)) {
            Some(true) => PathState::Added,
            Some(false) => PathState::Removed,
            None if files.complete => PathState::Unlogged,
            None => PathState::Unknown,
        }
    }

    /// Replaces the content by that of another cache.
    pub(super) fn replace(&self, other: &Self) {
        let other = std::mem::take(&mut *other.files());
        *self.files() = other;
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock()
    }
}

impl PathHasher {
    pub(super) fn hash(&self, path: &str) -> u128 {
        u128::from(self.0.hash_one(path)) << 64 | u128::from(self.1.hash_one(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_state_wins_and_evicted_files_are_unknown() {
        let states = PathStates::default();
        assert_eq!(states.get("a"), PathState::Unknown);
        states.note("a", true);
        states.note("b", true);
        states.note("b", false);
        states.note_earlier("b", true);
        states.note_earlier("c", true);
        states.completed();
        let found = ["a", "b", "c", "d"].map(|path| states.get(path));
        assert_eq!(found, [PathState::Added, PathState::Removed, PathState::Added, PathState::Unlogged]);
        for n in 0..GENERATION_FILES_MAX + GENERATION_FILES_MAX / 2 {
            states.note(&n.to_string(), true);
        }
        assert_eq!((states.get("c"), states.get("0")), (PathState::Unknown, PathState::Added));
        let files = states.files();
        assert!(files.young.len() <= GENERATION_FILES_MAX && files.old.len() <= GENERATION_FILES_MAX);
    }
}
