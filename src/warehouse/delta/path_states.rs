//! Which files the log names, as far as this process has seen it, in bounded memory.
//!
//! Invariant: the latest commit that names a file wins. What is forgotten is what was seen longest ago; until
//! something is, and once all was read, a file that is not here is not in the log.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files of one of the two halves, at 32 bytes each.
const HALF_FILES_MAX: usize = 500_000;

/// Cheap to clone; all clones know the same. It is never locked for long, so that whoever asks for a file that is known
/// does not wait for a commit.
#[derive(Clone, Debug, Default)]
pub(super) struct PathStates(Arc<Mutex<Files>>);

#[derive(Debug, Default)]
struct Files {
    /// By a keyed hash of the path, whether the file is there (true) or was removed.
    young: HashMap<u128, bool>,
    old: HashMap<u128, bool>,
    complete: bool,
    has_forgotten: bool,
    hasher: PathHasher,
}

/// Makes short keys of paths, of which nobody outside can make two meet.
#[derive(Clone, Debug, Default)]
pub(super) struct PathHasher(RandomState, RandomState);

/// What becomes of a file by the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathState {
    Added,
    Removed,
    Unlogged,
    /// It may be named further back.
    Unknown,
}

impl PathStates {
    pub(super) fn note(&self, path: &str, is_there: bool) {
        let mut files = self.files();
        let key = files.hasher.hash(path);
        if files.young.len() >= HALF_FILES_MAX && !files.young.contains_key(&key) {
            files.has_forgotten |= !files.old.is_empty();
            files.complete &= !files.has_forgotten;
            files.old = std::mem::take(&mut files.young);
        }
        files.young.insert(key, is_there);
    }

    /// Takes note of what was further back than all that was noted so far.
    pub(super) fn note_earlier(&self, path: &str, is_there: bool) {
        let mut files = self.files();
        let key = files.hasher.hash(path);
        if !files.young.contains_key(&key) {
            files.old.entry(key).or_insert(is_there);
        }
    }

    /// All was noted.
    pub(super) fn completed(&self) {
        let mut files = self.files();
        files.complete = !files.has_forgotten;
    }

    /// Whether so many more can be noted without forgetting any.
    pub(super) fn has_room(&self, files: usize) -> bool {
        self.files().old.len() + files <= HALF_FILES_MAX
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

    /// Knows from now on what another one knows, and nothing else.
    pub(super) fn replace(&self, other: &Self) {
        let other = std::mem::take(&mut *other.files());
        *self.files() = other;
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn what_was_seen_last_is_remembered_and_nothing_forgotten_is_called_unnamed() {
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
        for n in 0..HALF_FILES_MAX + HALF_FILES_MAX / 2 {
            states.note(&n.to_string(), true);
        }
        assert_eq!((states.get("c"), states.get("0")), (PathState::Unknown, PathState::Added));
        let files = states.files();
        assert!(files.young.len() <= HALF_FILES_MAX && files.old.len() <= HALF_FILES_MAX);
    }
}
