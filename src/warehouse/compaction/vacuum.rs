//! Removes files that have gone out of the table long enough ago, and what interrupted compactions left.

use std::time::Duration;

use uuid::Uuid;

use crate::warehouse::delta::{Delta, Named};
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::Partition;
use crate::warehouse::maintenance::{
    CompactionSettings, Lease, PartitionFilter, clean_up, complete_log, data_files, each_partition, is_orphan,
    sweep_scratch,
};
use crate::warehouse::storage::Listed;
use crate::warehouse::{Warehouse, WarehouseError};

/// Files whose times of removal are looked up together.
const TOGETHER: usize = 20_000;

/// What a vacuum did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Files that others replaced.
    pub files: u64,
    pub bytes: u64,
    /// Files in the making, and outputs, of compactions that were interrupted.
    pub orphans: u64,
    /// Replaced files that stay until the retention is over.
    pub waiting: u64,
}

impl Warehouse {
    /// Removes what has been out of the table for longer than `retention`, as long as `go_on` says so.
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
    let mut littered = Vec::new();
    each_partition(objects, &PartitionFilter::default(), &mut |partition, listed| {
        let mut has_orphans = false;
        for file in data_files(listed) {
            match delta.remembered(objects, &partition, &file.name) {
                Some(Named::Removed) => replaced.push((partition.clone(), file)),
                Some(named) => has_orphans |= is_orphan(&file.name, named),
                None => {}
            }
        }
        if has_orphans && littered.len() < TOGETHER {
            littered.push(partition);
        }
        if replaced.len() >= TOGETHER {
            remove(shared, delta, retention, &mut replaced, &mut done)?;
        }
        Ok(go_on(&done))
    })?;
    remove(shared, delta, retention, &mut replaced, &mut done)?;
    for partition in littered {
        let Some(lease) = Lease::acquire(objects, &shared.leases, &partition, Uuid::now_v7())? else { continue };
        let before = data_files(objects.list(&objects.directory(&partition))?).len();
        // Replaced files have had their turn.
        let after = clean_up(objects, delta, &shared.footers, &partition, true);
        lease.release(objects)?;
        done.orphans += (before - after?.len()) as u64;
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
        let is_over = removed_at.is_some_and(|at| now_ms.saturating_sub(at) >= retention_ms);
        if is_over && !shared.footers.damaged.has(&directory, &file) {
            shared.objects.remove(&directory, &file.name)?;
            // Of a whole partition that was removed.
            shared.objects.remove_empty(&directory);
            done.files += 1;
            done.bytes += file.bytes;
        } else {
            done.waiting += 1;
        }
    }
    Ok(())
}
