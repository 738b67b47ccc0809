//! Commits: all pending files go into one commit. A committer that loses the race reads the winner's commit and tries the
//! next version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::action::Action;
use super::log::LOG;
use super::path_states::PathState;
use super::state::{Delta, PendingFiles};
use super::table::TableFile;
use super::tail::Tail;
use crate::base::backoff::random_unit;
use crate::base::clock::unix_ms;
use crate::metrics;
use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;

/// Commits between two checkpoints.
const CHECKPOINT_COMMITS: i64 = 100;
/// Versions that others may put before ours until the commit fails.
const ATTEMPTS_MAX: usize = 200;
/// The longest wait for a version that is taken but not readable yet.
const IN_FLIGHT: Duration = Duration::from_millis(200);

impl Delta {
    /// Queues files for the next commit. `files` are partitions, names and contents.
    pub(in crate::warehouse) fn enqueue(
        &self,
        objects: &Objects,
        files: Vec<(Partition, String, Bytes)>,
    ) -> Result<Arc<PendingFiles>, WarehouseError> {
        let add = |(partition, name, bytes): (Partition, String, Bytes)| {
            let metadata = footer::read(&bytes)?;
            Ok(TableFile::new(objects, &partition, &name).add(&metadata, bytes.len() as u64, unix_ms()))
        };
        let adds = files.into_iter().map(add).collect::<Result<_, WarehouseError>>()?;
        let entry = Arc::new(PendingFiles { adds, committed: AtomicBool::new(false) });
        self.queue().push(entry.clone());
        Ok(entry)
    }

    /// Commits the entry, unless it is committed already, along with all other queued files.
    pub(in crate::warehouse) fn commit(
        &self,
        objects: &Objects,
        entry: &Arc<PendingFiles>,
    ) -> Result<(), WarehouseError> {
        let mut tail = self.tail();
        if entry.is_committed() {
            return Ok(());
        }
        let mut entries = std::mem::take(&mut *self.queue());
        if !entries.iter().any(|waiting| Arc::ptr_eq(waiting, entry)) {
            entries.push(entry.clone());
        }
        let done = self.append(objects, &mut tail, "WRITE", |tail| {
            let adds = entries.iter().flat_map(|entry| &entry.adds);
            // A file in the log was added by a process to which its messages were redelivered, or by an attempt of
            // ours whose answer was lost; or it was added and then replaced. Names are never reused.
            let unlogged =
                adds.filter(|add| matches!(tail.states.get(&add.path), PathState::Unlogged | PathState::Unknown));
            Ok(unlogged.cloned().map(Action::from).collect())
        });
        match &done {
            Ok(()) => entries.iter().for_each(|entry| entry.committed.store(true, Ordering::Release)),
            // Entries without a waiter are found when their messages are redelivered.
            Err(_) => self.queue().extend(entries.into_iter().filter(|entry| Arc::strong_count(entry) > 1)),
        }
        done
    }

    /// Commits the actions that `decide` returns. Calls it again when others committed meanwhile.
    pub(super) fn append(
        &self,
        objects: &Objects,
        tail: &mut Tail,
        operation: &str,
        mut decide: impl FnMut(&mut Tail) -> Result<Vec<Action>, WarehouseError>,
    ) -> Result<(), WarehouseError> {
        let began = Instant::now();
        self.refresh(objects, tail)?;
        for _ in 0..ATTEMPTS_MAX {
            let actions = decide(tail)?;
            if actions.is_empty() {
                return Ok(());
            }
            let files = actions.iter().filter(|action| action.file().is_some()).count();
            if tail.append(objects, operation, &actions)? {
                self.committed(tail, files, began.elapsed());
                return Ok(());
            }
            metrics::delta_conflict();
            if !tail.catch_up(objects)? {
                // The other commit is in flight, or the store reports one that failed.
                std::thread::sleep(IN_FLIGHT.mul_f64(random_unit()));
            }
        }
        let why = format!("others committed first {ATTEMPTS_MAX} times");
        Err(WarehouseError::caused(WarehouseErrorKind::Unavailable, "commit files", why))
    }

    pub(super) fn committed(&self, tail: &Tail, files: usize, elapsed: Duration) {
        metrics::delta_committed(tail.version, files, elapsed);
        if tail.version % CHECKPOINT_COMMITS == 0 {
            self.checkpoint_due.store(tail.version, Ordering::Release);
        }
    }

    /// Reads the log again after a long time without reading: versions after ours may have been cleaned up, and must not be
    /// put again.
    pub(super) fn refresh(&self, objects: &Objects, tail: &mut Tail) -> Result<(), WarehouseError> {
        if !tail.is_outdated(self.settings.retention) {
            return Ok(());
        }
        let missing = || WarehouseError::new(WarehouseErrorKind::Corrupt, "find log").at(LOG);
        let mut fresh = Tail::open(objects)?.ok_or_else(missing)?;
        if fresh.version < tail.version {
            return Err(WarehouseError::new(WarehouseErrorKind::Corrupt, "find the log's latest commits").at(LOG));
        }
        self.states.replace(&fresh.states);
        fresh.states = self.states.clone();
        *tail = fresh;
        let waiting = self.queue().clone();
        let paths: Vec<String> = waiting.iter().flat_map(|entry| &entry.adds).map(|add| add.path.clone()).collect();
        tail.states_of(objects, &paths).map(drop)
    }
}
