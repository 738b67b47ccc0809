//! Retention: removes whole partitions whose hour is older than the retention.
//!
//! ```text
//! Hive Metastore: the partition dropped                     1  idempotent: while it fails, nothing is removed
//! _delta_log/…: remove A, B, C; dataChange true             2  one commit: readers of the log see all of it or nothing
//!                                                           3  A, B, C removed, unless they are kept for readers of
//!                                                              older versions of the table, and the empty directories
//! ```
//!
//! Invariants: a partition is removed only when both the clock of the store and that of this machine say that it has
//! expired, so that one wrong clock cannot remove a lake; only our own files that were in the table are removed, since a
//! sink may be about to commit the others; a file that cannot be read stays, in the table too. The partition's lease is
//! held throughout. A process may be killed at any point: the next pass completes the removal. The next pass also removes
//! files that are stored or committed in the partition later.

mod rules;

#[cfg(test)]
mod tests;

use tokio::runtime::Handle;

use super::delta::{Delta, FileState};
use super::layout::Partition;
use super::maintenance::{
    Lease, PartitionFilter, clean_up, complete_log, data_files, each_partition, is_orphan, with_lease,
};
use super::{Warehouse, WarehouseError};
use crate::base::clock::unix_ms;
use crate::base::faults;
use crate::warehouse::handle::Shared;
use crate::warehouse::storage::{Listed, Objects};

pub use rules::{RetentionRules, RetentionSettings};

/// Partitions returned by one search. The next one returns further ones, once these are removed.
const PARTITIONS_MAX: usize = 10_000;
/// Remaining files of one partition that are named.
const LEFT_MAX: usize = 5;

/// An expired partition. Only [`Warehouse::old_partitions`] creates one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldPartition {
    pub partition: Partition,
    /// Files to be removed.
    pub files: u64,
    pub bytes: u64,
}

/// The expired part of the lake.
#[derive(Clone, Debug, Default)]
pub struct OldPartitions {
    /// By app, oldest first.
    pub partitions: Vec<OldPartition>,
    /// There are more than `partitions` lists.
    pub more: bool,
    /// Our files in expired partitions that are not (yet) in the table.
    pub unnamed_files: u64,
    /// Files of other programs there. They are never touched.
    pub foreign_files: u64,
}

impl OldPartitions {
    pub fn files(&self) -> u64 {
        self.partitions.iter().map(|old| old.files).sum()
    }

    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|old| old.bytes).sum()
    }

    pub fn oldest(&self) -> Option<&Partition> {
        self.partitions.iter().map(|old| &old.partition).min_by_key(|partition| partition.hour)
    }

    pub fn newest(&self) -> Option<&Partition> {
        self.partitions.iter().map(|old| &old.partition).max_by_key(|partition| partition.hour)
    }
}

/// The result for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpiryOutcome {
    Done(Expired),
    /// There was nothing left to remove.
    Nothing,
    /// Another worker holds the lease.
    Busy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub files: u64,
    pub bytes: u64,
    /// The first few remaining files: of other programs, not in the table, or unreadable.
    pub left: Vec<String>,
}

impl Warehouse {
    /// Finds expired partitions, while `go_on` returns true.
    pub async fn old_partitions(
        &self,
        settings: &RetentionSettings,
        app_id: Option<&str>,
        go_on: impl Fn(&OldPartitions) -> bool + Send + 'static,
    ) -> Result<OldPartitions, WarehouseError> {
        let (settings, app_id) = (settings.clone(), app_id.map(str::to_owned));
        self.in_background(move |shared| find(shared, &settings, app_id, &go_on)).await
    }

    /// Removes a partition.
    pub async fn expire(
        &self,
        old: &OldPartition,
        settings: &RetentionSettings,
    ) -> Result<ExpiryOutcome, WarehouseError> {
        let (partition, keep, runtime) = (old.partition.clone(), settings.keep_removed, Handle::current());
        self.in_background(move |shared| {
            let unregister = || match shared.metastore.get() {
                Some(metastore) => runtime.block_on(metastore.drop_partition(&partition)),
                None => Ok(()),
            };
            let removal = Removal { shared, partition: &partition, directory: &shared.objects.directory(&partition) };
            match shared.delta.get() {
                Some(_) => removal.with_log(complete_log(shared)?, keep, &unregister),
                None => removal.without_log(&unregister),
            }
        })
        .await
    }
}

/// The earlier of two clocks.
fn now_ms(objects: &Objects) -> Result<i64, WarehouseError> {
    Ok(objects.now_ms()?.min(unix_ms()))
}

fn find(
    shared: &Shared,
    settings: &RetentionSettings,
    app_id: Option<String>,
    go_on: &dyn Fn(&OldPartitions) -> bool,
) -> Result<OldPartitions, WarehouseError> {
    let objects = &shared.objects;
    let log = match shared.delta.get() {
        Some(_) => Some(complete_log(shared)?),
        None => None,
    };
    if let Some(log) = log {
        log.read_all(objects)?;
    }
    let now_ms = now_ms(objects)?;
    let mut found = OldPartitions::default();
    let filter = PartitionFilter { app_id, ..PartitionFilter::default() };
    each_partition(objects, &filter, &mut |partition, listed| {
        if settings.rules.is_expired(&partition, now_ms) {
            let state_of =
                |name: &str| log.map_or(Some(FileState::InTable), |log| log.cached_state(objects, &partition, name));
            let directory = objects.directory(&partition);
            let is_damaged = |file: &Listed| shared.footers.damaged.has(&directory, file);
            let old = tally(&mut found, settings.keep_removed, &state_of, &is_damaged, listed);
            match old {
                (0, _) => {}
                _ if found.partitions.len() == PARTITIONS_MAX => found.more = true,
                (files, bytes) => found.partitions.push(OldPartition { partition, files, bytes }),
            }
        }
        Ok(go_on(&found))
    })?;
    found.partitions.sort_by(|one, other| {
        let key = |old: &OldPartition| (old.partition.app_id.clone(), old.partition.hour);
        key(one).cmp(&key(other))
    });
    Ok(found)
}

/// Returns the files and bytes to be removed.
fn tally(
    found: &mut OldPartitions,
    keep_removed: bool,
    state_of: &dyn Fn(&str) -> Option<FileState>,
    is_damaged: &dyn Fn(&Listed) -> bool,
    listed: Vec<Listed>,
) -> (u64, u64) {
    let all = listed.len();
    let ours = data_files(listed);
    found.foreign_files += (all - ours.len()) as u64;
    let (mut files, mut bytes) = (0, 0);
    for file in ours.iter().filter(|file| !is_damaged(file)) {
        let is_removed = match state_of(&file.name) {
            Some(FileState::InTable) | None => true,
            Some(FileState::Removed) => !keep_removed,
            Some(state) => is_orphan(&file.name, state),
        };
        if is_removed {
            files += 1;
            bytes += file.bytes;
        } else if state_of(&file.name) == Some(FileState::Unlogged) {
            found.unnamed_files += 1;
        }
    }
    (files, bytes)
}

type Unregister<'a> = &'a dyn Fn() -> Result<(), WarehouseError>;

/// The removal of one partition.
struct Removal<'a> {
    shared: &'a Shared,
    partition: &'a Partition,
    directory: &'a str,
}

impl Removal<'_> {
    fn with_log(&self, log: &Delta, keep: bool, unregister: Unregister<'_>) -> Result<ExpiryOutcome, WarehouseError> {
        let Shared { objects, leases, .. } = self.shared;
        let done = with_lease(objects, leases, self.partition, |lease| self.expire(log, keep, unregister, lease))?;
        done.unwrap_or(Ok(ExpiryOutcome::Busy))
    }

    fn expire(
        &self,
        log: &Delta,
        keep: bool,
        unregister: Unregister<'_>,
        lease: &mut Lease,
    ) -> Result<ExpiryOutcome, WarehouseError> {
        let Shared { objects, footers, .. } = self.shared;
        // Removes outputs of interrupted compactions, which may be the only files.
        clean_up(objects, log, footers, self.partition, true)?;
        let files = self.files()?;
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let before = log.file_states(objects, self.partition, &names)?;
        let is_removed = |state: &FileState| *state == FileState::InTable || *state == FileState::Removed && !keep;
        if !before.iter().any(is_removed) {
            return Ok(ExpiryOutcome::Nothing);
        }
        unregister()?;
        faults::end_process_at("retention unregistered");
        let after = log.expire(objects, self.partition, &names)?;
        faults::end_process_at("retention committed");
        let mut done = Expired::default();
        for ((file, before), after) in files.iter().zip(before).zip(after) {
            if after != FileState::Removed || !is_removed(&before) {
                continue;
            }
            if !keep {
                lease.renew(objects)?;
                objects.remove(self.directory, &file.name)?;
            }
            done.files += 1;
            done.bytes += file.bytes;
        }
        self.finish(done)
    }

    /// Without a log no other worker changes the files.
    fn without_log(&self, unregister: Unregister<'_>) -> Result<ExpiryOutcome, WarehouseError> {
        let files = self.files()?;
        if files.is_empty() {
            return Ok(ExpiryOutcome::Nothing);
        }
        unregister()?;
        let mut done = Expired::default();
        for file in &files {
            self.shared.objects.remove(self.directory, &file.name)?;
            done.files += 1;
            done.bytes += file.bytes;
        }
        self.finish(done)
    }

    /// Our readable files.
    fn files(&self) -> Result<Vec<Listed>, WarehouseError> {
        let Shared { objects, footers, .. } = self.shared;
        // Notes those that cannot be read.
        footers.list(objects, self.partition)?;
        let mut files = data_files(objects.list(self.directory)?);
        files.retain(|file| !footers.damaged.has(self.directory, file));
        Ok(files)
    }

    fn finish(&self, mut done: Expired) -> Result<ExpiryOutcome, WarehouseError> {
        let Shared { objects, delta, .. } = self.shared;
        let mut left = objects.list(self.directory)?;
        if left.is_empty() {
            objects.remove_empty(self.directory);
        }
        if let Some(log) = delta.get() {
            left.retain(|file| log.cached_state(objects, self.partition, &file.name) != Some(FileState::Removed));
        }
        done.left = left.into_iter().map(|file| file.name).take(LEFT_MAX).collect();
        Ok(ExpiryOutcome::Done(done))
    }
}
