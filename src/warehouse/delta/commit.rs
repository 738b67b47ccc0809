//! Commits: what waits goes into one, and who comes second reads what came first and goes on behind it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::action::{Action, Add};
use super::seen::Fate;
use super::table::TableFile;
use super::tail::{Tail, now_ms};
use super::{CHECKPOINT_COMMITS, Delta};
use crate::base::backoff::random_unit;
use crate::metrics;
use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::file::footer;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;

/// Versions that others may put before ours until the caller is told.
const ATTEMPTS_MAX: usize = 200;
/// The longest wait for a version that is taken and cannot be read yet.
const IN_FLIGHT: Duration = Duration::from_millis(200);

/// Files that are to be committed together.
#[derive(Debug)]
pub(in crate::warehouse) struct Entry {
    adds: Vec<Add>,
    committed: AtomicBool,
}

impl Entry {
    pub(in crate::warehouse) fn is_committed(&self) -> bool {
        self.committed.load(Ordering::Acquire)
    }
}

impl Delta {
    /// Puts files in the queue for the next commit. `files` are partitions, names and contents.
    pub(in crate::warehouse) fn enqueue(
        &self,
        objects: &Objects,
        files: Vec<(Partition, String, Bytes)>,
    ) -> Result<Arc<Entry>, WarehouseError> {
        let add = |(partition, name, bytes): (Partition, String, Bytes)| {
            let metadata = footer::read(&bytes)?;
            Ok(TableFile::new(objects, &partition, &name).add(&metadata, bytes.len() as u64, now_ms()))
        };
        let adds = files.into_iter().map(add).collect::<Result<_, WarehouseError>>()?;
        let entry = Arc::new(Entry { adds, committed: AtomicBool::new(false) });
        self.waiting().push(entry.clone());
        Ok(entry)
    }

    /// Commits the entry, if nobody did, and what else waits.
    pub(in crate::warehouse) fn commit(&self, objects: &Objects, entry: &Arc<Entry>) -> Result<(), WarehouseError> {
        let mut tail = self.tail();
        if entry.is_committed() {
            return Ok(());
        }
        let mut entries = std::mem::take(&mut *self.waiting());
        if !entries.iter().any(|waiting| Arc::ptr_eq(waiting, entry)) {
            entries.push(entry.clone());
        }
        let done = self.append(objects, &mut tail, "WRITE", |tail| {
            let adds = entries.iter().flat_map(|entry| &entry.adds);
            // A file that is named was added by those who got its messages, or by an attempt of ours whose answer
            // was lost; or it was added and then replaced. Its name was never given to another.
            let unnamed = adds.filter(|add| matches!(tail.seen.fate(&add.path), Fate::Unnamed | Fate::Unknown));
            Ok(unnamed.cloned().map(Action::from).collect())
        });
        match &done {
            Ok(()) => entries.iter().for_each(|entry| entry.committed.store(true, Ordering::Release)),
            // Those that nobody waits for are found by their messages.
            Err(_) => self.waiting().extend(entries.into_iter().filter(|entry| Arc::strong_count(entry) > 1)),
        }
        done
    }

    /// Commits what `decide` says. It is asked again when others committed meanwhile.
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
                // It is on its way, or the store says so of one that failed.
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

    /// After a long silence the versions after ours may have been cleaned up: theirs must not be put again.
    pub(super) fn refresh(&self, objects: &Objects, tail: &mut Tail) -> Result<(), WarehouseError> {
        if !tail.is_outdated(self.settings.retention) {
            return Ok(());
        }
        let missing = || WarehouseError::new(WarehouseErrorKind::Corrupt, "find log").at(super::LOG);
        let mut fresh = Tail::open(objects)?.ok_or_else(missing)?;
        if fresh.version < tail.version {
            return Err(
                WarehouseError::new(WarehouseErrorKind::Corrupt, "find the log's latest commits").at(super::LOG)
            );
        }
        self.seen.replace(&fresh.seen);
        fresh.seen = self.seen.clone();
        *tail = fresh;
        let waiting = self.waiting().clone();
        let paths: Vec<String> = waiting.iter().flat_map(|entry| &entry.adds).map(|add| add.path.clone()).collect();
        tail.fates(objects, &paths).map(drop)
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        lock(&self.queue)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
