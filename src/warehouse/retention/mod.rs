//! Partitions whose hour is older than the retention go, as a whole.
//!
//! ```text
//! Hive Metastore: the partition dropped                     1  idempotent: while it fails, nothing goes
//! _delta_log/…: remove A, B, C; dataChange true             2  one commit: readers of the log see all of it or nothing
//!                                                           3  A, B, C removed, unless they are kept for readers of
//!                                                              older versions of the table, and the empty directories
//! ```
//!
//! Invariants: a partition goes only when the clock of the store and that of this machine both say that it is over, so
//! that neither alone removes a lake; only files of ours go, and those alone that were in the table, for a sink may be
//! about to commit the others; a file that cannot be read stays, in the table too. The partition's lease is held
//! meanwhile. A process may be killed at any moment: the next pass does the rest. Whatever is stored in the partition
//! later, or is committed then, goes by the next pass.

mod rules;

#[cfg(test)]
mod tests;

use tokio::runtime::Handle;

use super::delta::{Delta, Named};
use super::layout::Partition;
use super::maintenance::{
    Lease, PartitionFilter, clean_up, complete_log, data_files, each_partition, is_orphan, with_lease,
};
use super::{Warehouse, WarehouseError};
use crate::base::clock::unix_ms;
use crate::base::faults;
use crate::warehouse::handle::Shared;
use crate::warehouse::storage::{Listed, Objects};

pub use rules::RetentionRules;

/// Partitions that one look names; the rest are named by the next, when these are gone.
const PARTITIONS_MAX: usize = 10_000;
/// Files of one partition that stay and are named.
const LEFT_MAX: usize = 5;

/// What goes, and how.
#[derive(Clone, Debug, Default)]
pub struct RetentionSettings {
    pub rules: RetentionRules,
    /// Files stay for readers of older versions of the table, until a vacuum.
    pub keep_removed: bool,
}

/// A partition that is over. Only a look at the lake makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldPartition {
    pub partition: Partition,
    /// Of the files that go.
    pub files: u64,
    pub bytes: u64,
}

/// What of the lake is over.
#[derive(Clone, Debug, Default)]
pub struct OldPartitions {
    /// By app, the oldest first.
    pub partitions: Vec<OldPartition>,
    /// There are more than are named.
    pub more: bool,
    /// Files of ours in partitions that are over and which the table does not name, or not yet.
    pub unnamed_files: u64,
    /// Files of others there: nobody touches them.
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

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expiry {
    Done(Expired),
    /// Somebody else was faster.
    Nothing,
    /// Another worker is at it.
    Busy,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    pub files: u64,
    pub bytes: u64,
    /// Files that stay: of others, not in the table, or not to be read. Not more than a few are named.
    pub left: Vec<String>,
}

impl Warehouse {
    /// Looks for partitions that are over, as long as `go_on` says so.
    pub async fn old_partitions(
        &self,
        settings: &RetentionSettings,
        app_id: Option<&str>,
        go_on: impl Fn(&OldPartitions) -> bool + Send + 'static,
    ) -> Result<OldPartitions, WarehouseError> {
        let (settings, app_id) = (settings.clone(), app_id.map(str::to_owned));
        self.in_background(move |shared| look(shared, &settings, app_id, &go_on)).await
    }

    /// Removes a partition.
    pub async fn expire(&self, old: &OldPartition, settings: &RetentionSettings) -> Result<Expiry, WarehouseError> {
        let (partition, keep, runtime) = (old.partition.clone(), settings.keep_removed, Handle::current());
        self.in_background(move |shared| {
            let unregister = || match shared.metastore.get() {
                Some(metastore) => runtime.block_on(metastore.drop_partition(&partition)),
                None => Ok(()),
            };
            let job = Job { shared, partition: &partition, directory: &shared.objects.directory(&partition) };
            match shared.delta.get() {
                Some(_) => job.with_log(complete_log(shared)?, keep, &unregister),
                None => job.without_log(&unregister),
            }
        })
        .await
    }
}

/// The earlier of two clocks.
fn now_ms(objects: &Objects) -> Result<i64, WarehouseError> {
    Ok(objects.now_ms()?.min(unix_ms()))
}

fn look(
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
        if settings.rules.is_over(&partition, now_ms) {
            let named = |name: &str| log.map_or(Some(Named::InTable), |log| log.remembered(objects, &partition, name));
            let directory = objects.directory(&partition);
            let is_damaged = |file: &Listed| shared.footers.damaged.has(&directory, file);
            let old = tally(&mut found, settings.keep_removed, &named, &is_damaged, listed);
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

/// Files and bytes that go.
fn tally(
    found: &mut OldPartitions,
    keep_removed: bool,
    named: &dyn Fn(&str) -> Option<Named>,
    is_damaged: &dyn Fn(&Listed) -> bool,
    listed: Vec<Listed>,
) -> (u64, u64) {
    let all = listed.len();
    let ours = data_files(listed);
    found.foreign_files += (all - ours.len()) as u64;
    let (mut files, mut bytes) = (0, 0);
    for file in ours.iter().filter(|file| !is_damaged(file)) {
        let goes = match named(&file.name) {
            Some(Named::InTable) | None => true,
            Some(Named::Removed) => !keep_removed,
            Some(named) => is_orphan(&file.name, named),
        };
        if goes {
            files += 1;
            bytes += file.bytes;
        } else if named(&file.name) == Some(Named::No) {
            found.unnamed_files += 1;
        }
    }
    (files, bytes)
}

type Unregister<'a> = &'a dyn Fn() -> Result<(), WarehouseError>;

/// The work on one partition.
struct Job<'a> {
    shared: &'a Shared,
    partition: &'a Partition,
    directory: &'a str,
}

impl Job<'_> {
    fn with_log(&self, log: &Delta, keep: bool, unregister: Unregister<'_>) -> Result<Expiry, WarehouseError> {
        let Shared { objects, leases, .. } = self.shared;
        let done = with_lease(objects, leases, self.partition, |lease| self.expire(log, keep, unregister, lease))?;
        done.unwrap_or(Ok(Expiry::Busy))
    }

    fn expire(
        &self,
        log: &Delta,
        keep: bool,
        unregister: Unregister<'_>,
        lease: &mut Lease,
    ) -> Result<Expiry, WarehouseError> {
        let Shared { objects, footers, .. } = self.shared;
        // Outputs of interrupted compactions go with it, which may have been all that there was.
        clean_up(objects, log, footers, self.partition, true)?;
        let files = self.files()?;
        let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        let before = log.named(objects, self.partition, &names)?;
        let goes = |named: &Named| *named == Named::InTable || *named == Named::Removed && !keep;
        if !before.iter().any(goes) {
            return Ok(Expiry::Nothing);
        }
        unregister()?;
        faults::end_process_at("retention unregistered");
        let after = log.expire(objects, self.partition, &names)?;
        faults::end_process_at("retention committed");
        let mut done = Expired::default();
        for ((file, before), after) in files.iter().zip(before).zip(after) {
            if after != Named::Removed || !goes(&before) {
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

    /// The files are all that there is, and nobody else works on them.
    fn without_log(&self, unregister: Unregister<'_>) -> Result<Expiry, WarehouseError> {
        let files = self.files()?;
        if files.is_empty() {
            return Ok(Expiry::Nothing);
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

    /// Files of ours that can be read.
    fn files(&self) -> Result<Vec<Listed>, WarehouseError> {
        let Shared { objects, footers, .. } = self.shared;
        // Takes note of those that cannot.
        footers.list(objects, self.partition)?;
        let mut files = data_files(objects.list(self.directory)?);
        files.retain(|file| !footers.damaged.has(self.directory, file));
        Ok(files)
    }

    fn finish(&self, mut done: Expired) -> Result<Expiry, WarehouseError> {
        let Shared { objects, delta, .. } = self.shared;
        let mut left = objects.list(self.directory)?;
        if left.is_empty() {
            objects.remove_empty(self.directory);
        }
        if let Some(log) = delta.get() {
            left.retain(|file| log.remembered(objects, self.partition, &file.name) != Some(Named::Removed));
        }
        done.left = left.into_iter().map(|file| file.name).take(LEFT_MAX).collect();
        Ok(Expiry::Done(done))
    }
}
