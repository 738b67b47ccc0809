//! Files that were stored late, when others may have stored some of their rows as well: each row
//! stays in one file.
//!
//! Several late files may hold the same rows and be settled at once, and none may give a row up for
//! a file that gives it up too. So whoever settles a file puts a mark for it, then lists the
//! marks, then the files, and decides row by row:
//!
//! 1. The row is in another file without a mark: it goes. Who wrote that file is not settling it.
//! 2. It is in a marked file with a smaller name: wait until that mark is gone, and look again.
//! 3. It is in marked files with greater names only: it stays. Those wait for this one.
//!
//! The mark goes when the file is what it shall be. Why no row is lost: had A given a row up for B
//! and B for A (or round a longer circle), then A saw no mark of B. Either B was done by then, and A
//! looked into a B without the row; or B's mark came after A's look, hence B's look after A's mark,
//! and B saw that mark or an A that was done. Each must have looked after the other.
//!
//! The mark is put as soon as a process notices that it was late, long before it settles the file: it
//! says what there is to do, so that any other process does it when this one died meanwhile. Marks lie
//! in a directory of their own, which is nearly always empty and costs one look.
//!
//! What is left: a request that was given up and that the store carries out after all, later than a
//! lease's time, puts the rows back that went; they are doubled then, not lost. So are those of a
//! process that is killed in the moment between the end of a late request and its mark.

use std::collections::HashSet;

use super::marks::{self, MARKS, mark_name, marked_by};
use super::write::LateFile;
use crate::warehouse::catalog::footers::{FooterCache, PartitionFooters, Suspect};
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::delta::{Delta, Named};
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::file::{rewrite, scan};
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::Objects;

/// What became of a file that was perhaps stored late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It is not there, or it was settled before, or no other file holds any of its rows.
    Alone,
    /// Others hold all of its rows: it was removed.
    Removed { rows: usize },
    /// It was replaced by one without the rows that others hold. `doubled` are still in both.
    Replaced { given_up: usize, kept: usize, doubled: usize },
    /// Another late file with these rows is being settled, and has to be waited for.
    MustWait { rows: usize },
    /// It was damaged since it was stored: nobody can tell what it holds.
    Unreadable,
}

/// Where the rows of a file go.
#[derive(Default)]
struct Verdict {
    kept: Vec<bool>,
    given_up: usize,
    /// Rows that wait for another late file.
    contested: usize,
}

/// Gives up the rows that others hold. With `patient` nothing is done while others have to be waited for.
pub(crate) fn settle(
    objects: &Objects,
    footers: &FooterCache,
    log: Option<&Delta>,
    columns: &PromotedColumns,
    late: &LateFile,
    patient: bool,
) -> Result<Settled, WarehouseError> {
    marks::mark(objects, late)?;
    // The marks first: the proof above needs contents that are not older than them.
    let listed = objects.list(MARKS)?;
    let marked: HashSet<&str> = listed.iter().filter_map(|file| marked_by(&file.name)).collect();
    let all = footers.list(objects, &late.partition)?;
    let unfinished = unfinished(objects, log, &late.partition, &all)?;
    let all = all.only(|name| !unfinished.contains(name));
    let settled = match all.listed(&late.name).filter(|file| file.bytes == late.bytes.len() as u64) {
        // Never stored, or settled by an earlier attempt whose answer was lost.
        None => Settled::Alone,
        Some(file) => {
            let decided = judge(objects, footers, late, &all, &marked)
                .and_then(|verdict| carry_out(objects, log, columns, late, &verdict, patient));
            match decided {
                Ok(Settled::MustWait { rows }) => return Ok(Settled::MustWait { rows }),
                // Others that are damaged count as holding nothing: it is the late file itself.
                Err(error) if error.kind == WarehouseErrorKind::Corrupt => {
                    footers.damaged.note(&objects.directory(&late.partition), file, &error);
                    Settled::Unreadable
                }
                decided => decided?,
            }
        }
    };
    if let Some(log) = log {
        // An earlier attempt may have replaced it.
        let is_other = all.listed(&late.name).is_some_and(|file| file.bytes != late.bytes.len() as u64);
        let replaced = is_other || matches!(settled, Settled::Replaced { .. });
        log.settle(objects, &footers.damaged, &late.partition, &late.name, replaced)?;
    }
    objects.remove(MARKS, &mark_name(&late.name))?;
    Ok(settled)
}

/// Compacted files that are not in the table, or not yet: no row may be given up for one that may be given up itself.
fn unfinished(
    objects: &Objects,
    log: Option<&Delta>,
    partition: &Partition,
    all: &PartitionFooters,
) -> Result<HashSet<String>, WarehouseError> {
    let names = all.compacted();
    let Some(log) = log.filter(|_| !names.is_empty()) else { return Ok(HashSet::new()) };
    let named = log.named(objects, partition, &names)?;
    let unfinished = names.into_iter().zip(named).filter(|(_, named)| *named != Named::InTable);
    Ok(unfinished.map(|(name, _)| name.to_owned()).collect())
}

fn judge(
    objects: &Objects,
    footers: &FooterCache,
    late: &LateFile,
    all: &PartitionFooters,
    marked: &HashSet<&str>,
) -> Result<Verdict, WarehouseError> {
    let rows = scan::rows(late.bytes.clone())?;
    let rows: Vec<Suspect> = rows.into_iter().map(|(sequence, id)| Suspect { sequence, id }).collect();
    let sequences = || rows.iter().map(|row| row.sequence);
    let all = all.clone().reaching(sequences().min().unwrap_or(0), sequences().max().unwrap_or(0));
    let safe = all.only(|name| name != late.name && !marked.contains(name));
    let first = all.only(|name| name < late.name.as_str() && marked.contains(name));
    let (goes, waits) = (footers.holds(objects, &safe, &rows)?, footers.holds(objects, &first, &rows)?);
    Ok(Verdict {
        given_up: goes.iter().filter(|goes| **goes).count(),
        contested: goes.iter().zip(&waits).filter(|(goes, waits)| !**goes && **waits).count(),
        kept: goes.into_iter().map(|goes| !goes).collect(),
    })
}

fn carry_out(
    objects: &Objects,
    log: Option<&Delta>,
    columns: &PromotedColumns,
    late: &LateFile,
    verdict: &Verdict,
    patient: bool,
) -> Result<Settled, WarehouseError> {
    let (directory, Verdict { kept, given_up, contested }) = (objects.directory(&late.partition), verdict);
    let (given_up, contested) = (*given_up, *contested);
    if contested > 0 && patient {
        return Ok(Settled::MustWait { rows: contested });
    }
    if given_up == 0 && contested == 0 {
        return Ok(Settled::Alone);
    }
    if given_up == kept.len() {
        // Readers of the log are not to look for it.
        log.map_or(Ok(()), |log| log.forget(objects, &late.partition, &late.name))?;
        objects.remove(&directory, &late.name)?;
        return Ok(Settled::Removed { rows: given_up });
    }
    if given_up > 0 {
        // The same name: readers see the one content or the other, and no row twice or not at all.
        let fewer = rewrite::keep(&late.bytes, &late.partition.app_id, columns, kept)?;
        objects.store(&directory, &late.name, &fewer, || true)?;
    }
    Ok(Settled::Replaced { given_up, kept: kept.len() - given_up, doubled: contested })
}
