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

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::damaged::Damaged;
use super::delta::{Delta, Named};
use super::error::WarehouseErrorKind;
use super::footers::{FooterCache, PartitionFooters};
use super::layout::Partition;
use super::objects::{Listed, Objects};
use super::promoted::PromotedColumns;
use super::{Suspect, WarehouseError, is_data_file, is_path_safe, keep, scan};

/// Where the marks are. Query engines skip names that begin with an underscore.
pub(super) const MARKS: &str = "_late";

/// What a mark says of its file.
#[derive(Deserialize, Serialize)]
struct Mark {
    app_id: String,
    /// The hour of the partition, counted from the Unix epoch.
    hour: i64,
}

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

/// One late file: `bytes` are its content.
#[derive(Clone, Debug)]
pub struct LateFile {
    pub partition: Partition,
    pub name: String,
    pub bytes: Bytes,
}

/// Where the rows of a file go.
#[derive(Default)]
struct Verdict {
    kept: Vec<bool>,
    given_up: usize,
    /// Rows that wait for another late file.
    contested: usize,
}

/// Says that there is a late file to be settled.
pub(super) fn mark(objects: &Objects, late: &LateFile) -> Result<(), WarehouseError> {
    let Partition { app_id, hour } = late.partition.clone();
    let mark = Mark { app_id, hour };
    let text = serde_json::to_vec(&mark)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write mark of late file", error))?;
    objects.store(MARKS, &mark_of(&late.name), &Bytes::from(text), || true).map(drop)
}

/// The marks that were seen, and since when by this process's own clock. A mark that is put again counts anew.
#[derive(Debug, Default)]
pub(super) struct SeenMarks(Mutex<HashMap<String, (Listed, Instant)>>);

impl SeenMarks {
    /// Those of the listed marks that have been the same for as long as `patience`.
    fn older_than(&self, patience: Duration, listed: Vec<Listed>) -> Vec<Listed> {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|_, (mark, _)| listed.contains(mark));
        let old = |mark: &Listed| {
            let (_, since) = seen.entry(mark.name.clone()).or_insert_with(|| (mark.clone(), now));
            now.duration_since(*since) >= patience
        };
        listed.into_iter().filter(old).collect()
    }
}

/// The late files whose marks this process has seen for longer than `patience`: whoever stored them has died, or
/// stands still. No times of the store are compared with ours.
pub(super) fn abandoned(
    objects: &Objects,
    damaged: &Damaged,
    seen: &SeenMarks,
    patience: Duration,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Vec<LateFile>, WarehouseError> {
    let mut marks = objects.list(MARKS)?;
    marks.retain(|mark| marked_by(&mark.name).is_some());
    damaged.keep(MARKS, &marks);
    let mut abandoned = Vec::new();
    for mark in seen.older_than(patience, marks) {
        match abandoned_by(objects, &mark, gone) {
            Ok(late) => abandoned.extend(late),
            // Neither does it say where its file is, nor does it hold the others up.
            Err(error) if error.kind == WarehouseErrorKind::Corrupt => damaged.note(MARKS, &mark, &error),
            Err(error) => return Err(error.at(format!("{MARKS}/{}", mark.name))),
        }
    }
    Ok(abandoned)
}

/// The file that a mark is for; none when it is not there, and then the mark goes too, after `gone` knows.
fn abandoned_by(
    objects: &Objects,
    marked: &Listed,
    gone: &dyn Fn(&Partition, &str) -> Result<(), WarehouseError>,
) -> Result<Option<LateFile>, WarehouseError> {
    let Some(name) = marked_by(&marked.name) else { return Ok(None) };
    let text = read_whole(objects, MARKS, marked)?;
    let mark: Mark = serde_json::from_slice(&text)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, "read mark of late file", error))?;
    let partition = Partition { app_id: mark.app_id, hour: mark.hour };
    if !is_path_safe(&partition.app_id) {
        return Err(WarehouseError::new(WarehouseErrorKind::Corrupt, "find the file of a mark"));
    }
    let Some(file) = objects.list(&objects.directory(&partition))?.into_iter().find(|file| file.name == name) else {
        // Never stored, or removed and the mark not yet.
        gone(&partition, name)?;
        objects.remove(MARKS, &marked.name)?;
        return Ok(None);
    };
    let bytes = read_whole(objects, &objects.directory(&partition), &file)?;
    Ok(Some(LateFile { name: name.to_owned(), bytes, partition }))
}

fn read_whole(objects: &Objects, directory: &str, file: &Listed) -> Result<Bytes, WarehouseError> {
    objects.open(directory, file)?.read_with(|source| {
        let read = source.get_bytes(0, source.len() as usize);
        read.map_err(|error| WarehouseError::parquet("read late file", error))
    })
}

/// Gives up the rows that others hold. With `patient` nothing is done while others have to be waited for.
pub(super) fn settle(
    objects: &Objects,
    footers: &FooterCache,
    log: Option<&Delta>,
    columns: &PromotedColumns,
    late: &LateFile,
    patient: bool,
) -> Result<Settled, WarehouseError> {
    mark(objects, late)?;
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
    objects.remove(MARKS, &mark_of(&late.name))?;
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
        let fewer = keep::keep(&late.bytes, &late.partition.app_id, columns, kept)?;
        objects.store(&directory, &late.name, &fewer, || true)?;
    }
    Ok(Settled::Replaced { given_up, kept: kept.len() - given_up, doubled: contested })
}

/// The mark's own name, which no query engine takes for a file of rows.
pub(super) fn mark_of(name: &str) -> String {
    format!("{name}.late")
}

/// The file that a mark is for.
fn marked_by(mark: &str) -> Option<&str> {
    mark.strip_suffix(".late").filter(|name| is_data_file(name))
}
