//! The log that makes one table of the files: `_delta_log/` by the Delta protocol, reader version 1 and writer version 2,
//! for any engine that reads Delta.
//!
//! ```text
//! app_id=shop/year=2026/…/events_A.parquet    events_B.parquet        data files, as without the log
//! _delta_log/00000000000000000000.json        protocol, metaData
//!            00000000000000000001.json        add A, add B            one flush, one commit
//!            00000000000000000100.checkpoint.parquet                  the state at 100
//!            _last_checkpoint                                         {"version":100, …}
//! ```
//!
//! Invariants: a version is put if it is absent, after all versions before it were read; a file is added once, by whoever
//! finds it in no commit; messages are acknowledged only when the file with their rows is in the log. So a file that
//! was stored and not committed is found by those who get its messages again, and nobody has to list the lake.

mod action;
mod adopt;
mod agree;
mod checkpoint;
mod commit;
mod import;
mod log;
mod replace;
mod rows;
mod seen;
mod stats;
mod table;
mod tail;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_s3;

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::WarehouseError;
use super::error::WarehouseErrorKind;
use crate::metrics;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::layout::is_data_file;
use crate::warehouse::storage::{Objects, Walked};
use action::{Action, Protocol, Txn};
use log::LOG;
use seen::Seen;
use tail::{ADOPTED, Tail};

pub(in crate::warehouse) use action::Add;
pub use adopt::Adopted;
pub(super) use commit::Entry;
pub(super) use replace::{Change, Named, NewFile};
pub(super) use tail::now_ms;

/// Commits between two checkpoints.
const CHECKPOINT_COMMITS: i64 = 100;

/// How the log is kept.
#[derive(Clone, Debug)]
pub struct DeltaSettings {
    /// How long commits stay after a checkpoint made them superfluous.
    pub retention: Duration,
}

/// The log of one warehouse.
#[derive(Debug)]
pub(super) struct Delta {
    settings: DeltaSettings,
    /// Locked while something is committed.
    tail: Mutex<Tail>,
    /// The tail's own.
    seen: Seen,
    /// What waits for the next commit.
    queue: Mutex<Vec<Arc<Entry>>>,
    /// Whoever waits for it waits without a thread.
    pub(super) turn: tokio::sync::Mutex<()>,
    /// The version that a checkpoint is due of, or -1.
    checkpoint_due: AtomicI64,
    checkpointing: AtomicBool,
    /// Why the last checkpoint was not written, or old commits not removed.
    trouble: Mutex<Option<String>>,
}

impl Delta {
    /// Reads the log, or begins it.
    pub(super) fn open(
        objects: &Objects,
        settings: DeltaSettings,
        columns: &PromotedColumns,
    ) -> Result<Self, WarehouseError> {
        objects.check_create()?;
        let tail = match Tail::open(objects)? {
            Some(tail) => tail,
            None => begin(objects, columns)?,
        };
        metrics::delta_version(tail.version);
        let delta = Self {
            settings,
            seen: tail.seen.clone(),
            tail: Mutex::new(tail),
            queue: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            checkpoint_due: AtomicI64::new(-1),
            checkpointing: AtomicBool::new(false),
            trouble: Mutex::default(),
        };
        delta.widen(objects, columns)?;
        Ok(delta)
    }

    /// Adds the columns that this version writes and the table does not have.
    fn widen(&self, objects: &Objects, columns: &PromotedColumns) -> Result<(), WarehouseError> {
        self.append(objects, &mut self.tail(), "ADD COLUMNS", |tail| {
            Ok(table::widened(&tail.metadata, columns)?.map(Action::from).into_iter().collect())
        })
    }

    /// Writes the checkpoint that is due, if one is, and removes what is superfluous. What fails is tried again with the
    /// next one.
    pub(super) fn checkpoint(&self, objects: &Objects) {
        let due = self.checkpoint_due.swap(-1, Ordering::AcqRel);
        if due < 0 || self.checkpointing.swap(true, Ordering::AcqRel) {
            return;
        }
        let written = checkpoint::write(objects, due);
        metrics::delta_checkpoint(written.is_ok());
        let failed = |what: &str, error: WarehouseError| {
            tracing::warn!(%error, version = due, "{what}, with the next checkpoint it is tried again");
            format!("{what}: {error}")
        };
        let trouble = match written.map(|()| checkpoint::clean_up(objects, self.settings.retention)) {
            Ok(Ok(removed)) => {
                tracing::debug!(version = due, removed, "checkpoint of the Delta log written");
                None
            }
            Ok(Err(error)) => Some(failed("old commits of the Delta log cannot be removed", error)),
            Err(error) => Some(failed("a checkpoint of the Delta log was not written", error)),
        };
        self.checkpointing.store(false, Ordering::Release);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn is_checkpoint_due(&self) -> bool {
        self.checkpoint_due.load(Ordering::Acquire) >= 0
    }

    /// What people are to be told.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Version 0. Somebody else may be faster: then it is theirs.
fn begin(objects: &Objects, columns: &PromotedColumns) -> Result<Tail, WarehouseError> {
    let mut has_files = false;
    objects.walk(&mut |walked: &Walked| {
        has_files |= is_data_file(&walked.file.name);
        Ok(!has_files)
    })?;
    let now = now_ms();
    let mut actions = vec![Action::from(Protocol::OURS), table::metadata(columns, now).into()];
    if !has_files {
        actions.push(adopted(now).into());
    }
    objects.create(LOG, &log::commit_name(0), &action::encode(&actions)?)?;
    Tail::open(objects)?.ok_or_else(|| WarehouseError::new(WarehouseErrorKind::Unavailable, "find new log").at(LOG))
}

fn adopted(now_ms: i64) -> Txn {
    Txn { app_id: ADOPTED.to_owned(), version: 1, last_updated: Some(now_ms) }
}
