//! Reconciling a fenced write: rows that other files hold too stay in one file only.
//!
//! Several fenced writes may hold the same rows and be reconciled concurrently, and none may drop a row
//! for a file that drops it too. So a process puts a mark for its file, then lists the
//! marks, then the files, and decides row by row:
//!
//! 1. The row is in another file without a mark: drop it. The writer of that file is not reconciling it.
//! 2. It is in a marked file with a smaller name: wait until that mark is gone, and look again.
//! 3. It is only in marked files with greater names: keep it. Those wait for this one.
//!
//! The mark is removed when the file has its final content. Why no row is lost: suppose A dropped a row for B
//! and B dropped it for A (or likewise round a longer cycle). Then A saw no mark of B. Either B was done by then, and A
//! looked into a B without the row; or B put its mark after A had looked, so B looked after A put its mark,
//! and saw either that mark or an A that was done. Each must have looked after the other: a contradiction.
//!
//! A process puts the mark as soon as it notices that its write was late, long before it reconciles the file,
//! so that any other process can do so if this one dies. Marks have a directory
//! of their own, which is nearly always empty and takes one request to list.
//!
//! Two cases remain in which rows are duplicated, though never lost: an aborted request that the store still
//! carries out more than a lease's time later restores dropped rows; and a process may be
//! killed between the end of a late request and putting its mark.

use std::collections::HashSet;

use super::marks::{self, marked_by};
use super::write::FencedWrite;
use crate::warehouse::catalog::footers::{FooterCache, PartitionFooters, RowId};
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::delta::{Delta, FileState};
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::file::{rewrite, scan};
use crate::warehouse::layout::{MARKS, Partition, mark_name};
use crate::warehouse::storage::Objects;

/// The outcome of reconciling a fenced write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// The file does not exist, was reconciled before, or shares no row with another file.
    Unchanged,
    /// Other files hold all of its rows, so it was removed.
    Removed { rows: usize },
    /// It was replaced by a file without the rows that others hold. `duplicated` rows are still in both.
    Replaced { removed: usize, kept: usize, duplicated: usize },
    /// Another fenced write with these rows has to be reconciled first.
    Blocked { rows: usize },
    /// It was damaged after it was stored, so its rows are unknown.
    Unreadable,
}

/// Which rows of a file stay.
#[derive(Default)]
struct RowDecision {
    kept: Vec<bool>,
    dropped: usize,
    /// Rows that have to wait for another fenced write.
    contested: usize,
}

/// Drops the rows that other files hold. If `patient`, does nothing while another fenced write has to go first.
pub(crate) fn reconcile(
    objects: &Objects,
    footers: &FooterCache,
    log: Option<&Delta>,
    columns: &PromotedColumns,
    write: &FencedWrite,
    patient: bool,
) -> Result<Reconciled, WarehouseError> {
    marks::mark(objects, write)?;
    // List the marks first: the proof above requires contents that are not older.
    let listed = objects.list(MARKS)?;
    let marked: HashSet<&str> = listed.iter().filter_map(|file| marked_by(&file.name)).collect();
    let all = footers.list(objects, &write.partition)?;
    let unfinished = unfinished(objects, log, &write.partition, &all)?;
    let all = all.only(|name| !unfinished.contains(name));
    let outcome = match all.listed(&write.name).filter(|file| file.bytes == write.bytes.len() as u64) {
        // Never stored, or reconciled by an earlier attempt whose response was lost.
        None => Reconciled::Unchanged,
        Some(file) => {
            let outcome = decide(objects, footers, write, &all, &marked)
                .and_then(|decision| apply(objects, log, columns, write, &decision, patient));
            match outcome {
                Ok(Reconciled::Blocked { rows }) => return Ok(Reconciled::Blocked { rows }),
                // Other damaged files count as empty, so it is this file that is damaged.
                Err(error) if error.kind == WarehouseErrorKind::Corrupt => {
                    footers.damaged.note(&objects.directory(&write.partition), file, &error);
                    Reconciled::Unreadable
                }
                outcome => outcome?,
            }
        }
    };
    if let Some(log) = log {
        // An earlier attempt may have replaced it.
        let is_other = all.listed(&write.name).is_some_and(|file| file.bytes != write.bytes.len() as u64);
        let replaced = is_other || matches!(outcome, Reconciled::Replaced { .. });
        log.reconcile(objects, &footers.damaged, &write.partition, &write.name, replaced)?;
    }
    objects.remove(MARKS, &mark_name(&write.name))?;
    Ok(outcome)
}

/// Compacted files that are not in the table (yet): no row may be dropped for a file that may itself be abandoned.
fn unfinished(
    objects: &Objects,
    log: Option<&Delta>,
    partition: &Partition,
    all: &PartitionFooters,
) -> Result<HashSet<String>, WarehouseError> {
    let names = all.compacted();
    let Some(log) = log.filter(|_| !names.is_empty()) else { return Ok(HashSet::new()) };
    let states = log.file_states(objects, partition, &names)?;
    let unfinished = names.into_iter().zip(states).filter(|(_, state)| *state != FileState::InTable);
    Ok(unfinished.map(|(name, _)| name.to_owned()).collect())
}

fn decide(
    objects: &Objects,
    footers: &FooterCache,
    write: &FencedWrite,
    all: &PartitionFooters,
    marked: &HashSet<&str>,
) -> Result<RowDecision, WarehouseError> {
    let rows = scan::rows(write.bytes.clone())?;
    let rows: Vec<RowId> = rows.into_iter().map(|(sequence, id)| RowId { sequence, id }).collect();
    let sequences = || rows.iter().map(|row| row.sequence);
    let all = all.clone().reaching(sequences().min().unwrap_or(0), sequences().max().unwrap_or(0));
    let unmarked = all.only(|name| name != write.name && !marked.contains(name));
    let earlier = all.only(|name| name < write.name.as_str() && marked.contains(name));
    let (drops, blocked) = (footers.holds(objects, &unmarked, &rows)?, footers.holds(objects, &earlier, &rows)?);
    Ok(RowDecision {
        dropped: drops.iter().filter(|drops| **drops).count(),
        contested: drops.iter().zip(&blocked).filter(|(drops, blocked)| !**drops && **blocked).count(),
        kept: drops.into_iter().map(|drops| !drops).collect(),
    })
}

fn apply(
    objects: &Objects,
    log: Option<&Delta>,
    columns: &PromotedColumns,
    write: &FencedWrite,
    decision: &RowDecision,
    patient: bool,
) -> Result<Reconciled, WarehouseError> {
    let (directory, RowDecision { kept, dropped, contested }) = (objects.directory(&write.partition), decision);
    let (dropped, contested) = (*dropped, *contested);
    if contested > 0 && patient {
        return Ok(Reconciled::Blocked { rows: contested });
    }
    if dropped == 0 && contested == 0 {
        return Ok(Reconciled::Unchanged);
    }
    if dropped == kept.len() {
        // Readers of the log must not look for it.
        log.map_or(Ok(()), |log| log.remove_file(objects, &write.partition, &write.name))?;
        objects.remove(&directory, &write.name)?;
        return Ok(Reconciled::Removed { rows: dropped });
    }
    if dropped > 0 {
        // Under the same name readers see one content or the other: no row twice, none missing.
        let fewer = rewrite::keep_rows(&write.bytes, &write.partition.app_id, columns, kept)?;
        objects.store(&directory, &write.name, &fewer, || true)?;
    }
    Ok(Reconciled::Replaced { removed: dropped, kept: kept.len() - dropped, duplicated: contested })
}
