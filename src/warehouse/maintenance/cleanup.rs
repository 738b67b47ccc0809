//! Removes the leftovers of workers that were killed or overtaken, in partitions and in scratch directories.
//!
//! Partitions are cleaned only under their lease: then an output that is not in the table has no owner, or belongs to a
//! worker whose lease has expired, which can no longer commit it once the log says that it was abandoned.

use std::path::Path;

use super::lease::{self, SeenLeases};
use super::partitions::{data_files, is_orphan};
use super::scratch;
use crate::warehouse::WarehouseError;
use crate::warehouse::catalog::footers::FooterCache;
use crate::warehouse::delta::{Delta, FileState};
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};

/// Removes outputs that never entered the table and, unless `keep_replaced`, files that were replaced. Returns the
/// remaining data files.
pub(in crate::warehouse) fn clean_up(
    objects: &Objects,
    delta: &Delta,
    footers: &FooterCache,
    partition: &Partition,
    keep_replaced: bool,
) -> Result<Vec<Listed>, WarehouseError> {
    let directory = objects.directory(partition);
    let listed = data_files(objects.list(&directory)?);
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let states = delta.file_states(objects, partition, &names)?;
    let orphans = names.iter().zip(&states).filter(|(name, state)| is_orphan(name, **state)).map(|(name, _)| *name);
    let mut gone = abandon(objects, delta, partition, orphans)?;
    if !keep_replaced {
        for (file, state) in listed.iter().zip(&states) {
            if *state == FileState::Removed && !footers.damaged.has(&directory, file) {
                objects.remove(&directory, &file.name)?;
                gone.push(file.name.clone());
            }
        }
    }
    if !gone.is_empty() {
        tracing::info!(files = gone.len(), directory, "files of an interrupted compaction removed");
    }
    Ok(listed.into_iter().filter(|file| !gone.contains(&file.name)).collect())
}

/// Removes files that are not in the table, after noting in the log that they never will be. Returns their names.
pub(super) fn abandon<'a>(
    objects: &Objects,
    delta: &Delta,
    partition: &Partition,
    names: impl Iterator<Item = &'a str>,
) -> Result<Vec<String>, WarehouseError> {
    let names: Vec<&str> = names.collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let states = delta.abandon(objects, partition, &names)?;
    let mut gone = Vec::new();
    for (name, state) in names.into_iter().zip(states) {
        if state != FileState::InTable {
            objects.remove(&objects.directory(partition), name)?;
            gone.push(name.to_owned());
        }
    }
    Ok(gone)
}

/// Removes the scratch files of jobs that are no longer running. Returns how many.
pub(in crate::warehouse) fn sweep_scratch(
    objects: &Objects,
    seen: &SeenLeases,
    scratch_directory: &Path,
) -> Result<u64, WarehouseError> {
    let mut left = objects.list(lease::DIRECTORY)?;
    left.retain(|file| scratch::job_of(&file.name).is_some());
    let staging = objects.staging_directory(lease::DIRECTORY, scratch_directory);
    let here: Vec<String> = match std::fs::read_dir(&staging) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect(),
        Err(_) => Vec::new(),
    };
    if left.is_empty() && here.iter().all(|name| scratch::job_of(name).is_none()) {
        return Ok(0);
    }
    // Read after the files: a job takes its lease before it creates a file.
    let running = lease::running_jobs(objects, seen)?;
    let is_left = |name: &str| scratch::job_of(name).is_some_and(|job| !running.contains(&job));
    let mut removed = 0;
    for file in left.iter().filter(|file| is_left(&file.name)) {
        objects.remove(lease::DIRECTORY, &file.name)?;
        removed += 1;
    }
    for name in here.iter().filter(|name| is_left(name)) {
        removed += u64::from(std::fs::remove_file(staging.join(name)).is_ok());
    }
    Ok(removed)
}
