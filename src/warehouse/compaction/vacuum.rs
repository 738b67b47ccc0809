//! Removes files that left the table long enough ago, and the leftovers of interrupted jobs.

use std::time::Duration;

use uuid::Uuid;

use crate::warehouse::delta::{Delta, FileState};
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::Partition;
use crate::warehouse::maintenance::{
    CompactionSettings, Lease, PartitionFilter, clean_up, complete_log, data_files, each_partition, is_orphan,
    sweep_scratch,
};
use crate::warehouse::storage::Listed;
use crate::warehouse::{Warehouse, WarehouseError};

/// Files whose removal times are looked up together.
const BATCH_FILES: usize = 20_000;

/// The result of a vacuum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files that were replaced.
    pub files: u64,
    pub bytes: u64,
    /// Scratch files and outputs of interrupted jobs.
    pub orphans: u64,
    /// Replaced files that are still within the retention.
    pub waiting: u64,
}

impl Warehouse {
    /// Removes files that left the table longer than `retention` ago, while `go_on` returns true.
    pub async fn vacuum(
        &self,
        settings: &CompactionSettings,
        retention: Duration,
        go_on: impl Fn(&Vacuumed) -> bool + Send + 'static,
    ) -> Result<Vacuumed, WarehouseError> {
        let settings = settings.clone();
        self.in_background(move |shared| vacuum(shared, complete_log(shared)?, &settings, retention, &go_on)).await
    }
}

fn vacuum(
    shared: &Shared,
    delta: &Delta,
    settings: &CompactionSettings,
    retention: Duration,
    go_on: &dyn Fn(&Vacuumed) -> bool,
) -> Result<Vacuumed, WarehouseError> {
    let objects = &shared.objects;
    delta.read_all(objects)?;
    let mut done =
        Vacuumed { orphans: sweep_scratch(objects, &shared.leases, &settings.scratch)?, ..Vacuumed::default() };
    let mut replaced: Vec<(Partition, Listed)> = Vec::new();
    let mut with_orphans = Vec::new();
    each_partition(objects, &PartitionFilter::default(), &mut |partition, listed| {
        let mut has_orphans = false;
        for file in data_files(listed) {
            match delta.cached_state(objects, &partition, &file.name) {
                Some(FileState::Removed) => replaced.push((partition.clone(), file)),
                Some(state) => has_orphans |= is_orphan(&file.name, state),
                None => {}
            }
        }
        if has_orphans && with_orphans.len() < BATCH_FILES {
            with_orphans.push(partition);
        }
        if replaced.len() >= BATCH_FILES {
            remove(shared, delta, retention, &mut replaced, &mut done)?;
        }
        Ok(go_on(&done))
    })?;
    remove(shared, delta, retention, &mut replaced, &mut done)?;
    for partition in with_orphans {
        let Some(lease) = Lease::acquire(objects, &shared.leases, &partition, Uuid::now_v7())? else { continue };
        // Replaced files were handled above.
        let counts = objects.list(&objects.directory(&partition)).and_then(|listed| {
            let before = data_files(listed).len();
            Ok((before, clean_up(objects, delta, &shared.footers, &partition, true)?.len()))
        });
        lease.release(objects)?;
        let (before, after) = counts?;
        done.orphans += (before - after) as u64;
    }
    Ok(done)
}

fn remove(
    shared: &Shared,
    delta: &Delta,
    retention: Duration,
    replaced: &mut Vec<(Partition, Listed)>,
    done: &mut Vacuumed,
) -> Result<(), WarehouseError> {
    if replaced.is_empty() {
        return Ok(());
    }
    let wanted: Vec<(Partition, String)> =
        replaced.iter().map(|(partition, file)| (partition.clone(), file.name.clone())).collect();
    let removed_at = delta.removed_at(&shared.objects, &wanted)?;
    let now_ms = crate::base::clock::unix_ms();
    let retention_ms = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
    for ((partition, file), removed_at) in replaced.drain(..).zip(removed_at) {
        let directory = shared.objects.directory(&partition);
        let is_expired = removed_at.is_some_and(|at| now_ms.saturating_sub(at) >= retention_ms);
        if is_expired && !shared.footers.damaged.has(&directory, &file) {
            shared.objects.remove(&directory, &file.name)?;
            // Retention may have removed the whole partition.
            shared.objects.remove_empty(&directory);
            done.files += 1;
            done.bytes += file.bytes;
        } else {
            done.waiting += 1;
        }
    }
    Ok(())
}
