//! The log of one warehouse as this process holds it: its tail, and the files that wait for the next commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::action::Add;
use super::path_states::PathStates;
use super::tail::Tail;
use crate::base::settings::Reader;

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct DeltaSettings {
    /// How long commits stay after a checkpoint made them superfluous.
    pub retention: Duration,
}

/// The latest commits must outlive a stalled process.
const RETENTION_MIN: Duration = Duration::from_secs(3_600);

impl DeltaSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        Self { retention: from.duration_from("delta_log_retention", RETENTION_MIN) }
    }
}

/// The log of one warehouse.
#[derive(Debug)]
pub(in crate::warehouse) struct Delta {
    pub(super) settings: DeltaSettings,
    /// Locked during a commit.
    tail: Mutex<Tail>,
    /// Shared with the tail, and readable while a commit is running.
    pub(super) states: PathStates,
    /// Files that wait for the next commit.
    queue: Mutex<Vec<Arc<PendingFiles>>>,
    /// Orders committers, so that they wait without blocking a thread.
    pub(in crate::warehouse) turn: tokio::sync::Mutex<()>,
    /// The version for which a checkpoint is due, or -1.
    pub(super) checkpoint_due: AtomicI64,
    pub(super) checkpointing: AtomicBool,
    /// Why the last checkpoint was not written, or old commits were not removed.
    pub(super) trouble: Mutex<Option<String>>,
}

/// Files that are committed together.
#[derive(Debug)]
pub(in crate::warehouse) struct PendingFiles {
    pub(super) adds: Vec<Add>,
    pub(super) committed: AtomicBool,
}

impl PendingFiles {
    pub(in crate::warehouse) fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Acquire)
    }
}

impl Delta {
    pub(super) fn new(settings: DeltaSettings, tail: Tail) -> Self {
        Self {
            settings,
            states: tail.states.clone(),
            tail: Mutex::new(tail),
            queue: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            checkpoint_due: AtomicI64::new(-1),
            checkpointing: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    pub(in crate::warehouse) fn is_checkpoint_due(&self) -> bool {
        self.checkpoint_due.load(Ordering::Acquire) >= 0
    }

    /// A message for operators; `None` when all is well.
    pub(in crate::warehouse) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    pub(super) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock()
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Vec<Arc<PendingFiles>>> {
        self.queue.lock()
    }
}
