//! The results of a transaction, before they are published.

use std::sync::Arc;

use crate::bus::KeptInput;
use crate::bus::embedded::consumer::Consumer;
use crate::bus::embedded::group::Group;
use crate::bus::embedded::queue::Stored;

/// The results of a transaction, published once it is committed.
#[derive(Default)]
pub(crate) struct CommitOutcome {
    pub(super) stored: Vec<Stored>,
    pub(super) done: Vec<CommandOutcome>,
    /// The stored size of the group.
    pub(super) group_bytes: usize,
    pub(super) positions: Vec<StoredPosition>,
}

/// The stored position of a consumer: its highest sequence, and the trial log if it had changed.
pub(crate) struct StoredPosition {
    pub(super) consumer: Arc<Consumer>,
    pub(super) high: u64,
    pub(super) log: Option<Vec<u8>>,
}

/// The result of one command.
pub(crate) enum CommandOutcome {
    Nothing,
    Sequence(u64),
    Flag(bool),
    Kept(KeptInput),
    Resubmitted(Option<Stored>),
    /// How many dead letters were stored.
    DeadLettered(u64),
    /// The rewritten groups, and how many messages were erased from them.
    Erased(Vec<Arc<Group>>, u64),
}
