//! What a transaction did, until it is committed and made known.

use std::sync::Arc;

use crate::bus::KeptInput;
use crate::bus::embedded::consumer::Consumer;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::queue::Stored;

/// What a transaction did, to be made known once it is committed.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(super) stored: Vec<Stored>,
    pub(super) done: Vec<Done>,
    /// What the group takes in the file.
    pub(super) group_bytes: usize,
    pub(super) positions: Vec<StoredPosition>,
}

/// A consumer's position as it was stored: up to where, and what is on record about its suspects if that had changed.
pub(crate) struct StoredPosition {
    pub(super) consumer: Arc<Consumer>,
    pub(super) high: u64,
    pub(super) book: Option<Vec<u8>>,
}

/// What came of one chore.
pub(crate) enum Done {
    Nothing,
    Sequence(u64),
    Flag(bool),
    Kept(KeptInput),
    Resubmitted(Option<Stored>),
    /// How many dead letters were made.
    Buried(u64),
    /// The groups that are in the places of others now, and how many messages they lack.
    Erased(Vec<Arc<Group>>, u64),
}
