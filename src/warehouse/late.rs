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

use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};
use serde::{Deserialize, Serialize};

use super::error::WarehouseErrorKind;
use super::footers::FooterCache;
use super::layout::Partition;
use super::objects::{Listed, Objects};
use super::{WarehouseError, is_data_file, keep, scan};

/// Where the marks are. Query engines skip names that begin with an underscore.
pub(super) const MARKS: &str = "_late";

/// What a mark says of its file.
#[derive(Deserialize, Serialize)]
struct Mark {
    app_id: String,
    /// The hour of the partition, counted from the Unix epoch.
    hour: i64,
    oldest_published_at_ms: i64,
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
}

/// One late file: `bytes` are its content, `oldest_published_at_ms` belongs to its oldest message.
#[derive(Clone, Debug)]
pub struct LateFile {
    pub partition: Partition,
    pub name: String,
    pub bytes: Bytes,
    pub oldest_published_at_ms: i64,
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
    let mark = Mark { app_id, hour, oldest_published_at_ms: late.oldest_published_at_ms };
    let text = serde_json::to_vec(&mark)
        .map_err(|error| WarehouseError::caused(WarehouseErrorKind::Encode, "write mark of late file", error))?;
    objects.store(MARKS, &mark_of(&late.name), &Bytes::from(text), || true).map(drop)
}

/// The late files that were marked before `marked_before_ms` and are marked still: whoever stored them has died, or
/// stands still.
pub(super) fn abandoned(objects: &Objects, marked_before_ms: i64) -> Result<Vec<LateFile>, WarehouseError> {
    let mut abandoned = Vec::new();
    for listed in objects.list(MARKS)? {
        let Some(name) = marked_by(&listed.name).filter(|_| listed.modified_ms < marked_before_ms) else { continue };
        let at = |error: WarehouseError| error.at(format!("{MARKS}/{}", listed.name));
        let text = read_whole(objects, MARKS, &listed).map_err(at)?;
        let mark: Mark = serde_json::from_slice(&text).map_err(|error| {
            at(WarehouseError::caused(WarehouseErrorKind::Corrupt, "read mark of late file", error))
        })?;
        let partition = Partition { app_id: mark.app_id, hour: mark.hour };
        let file = objects.list(&partition.path())?.into_iter().find(|file| file.name == name);
        match file {
            Some(file) => abandoned.push(LateFile {
                name: name.to_owned(),
                bytes: read_whole(objects, &partition.path(), &file)?,
                partition,
                oldest_published_at_ms: mark.oldest_published_at_ms,
            }),
            // Never stored, or removed and the mark not yet.
            None => objects.remove(MARKS, &listed.name)?,
        }
    }
    Ok(abandoned)
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
    late: &LateFile,
    patient: bool,
) -> Result<Settled, WarehouseError> {
    let directory = late.partition.path();
    mark(objects, late)?;
    let settled = match judge(objects, footers, late)? {
        Verdict { contested, .. } if contested > 0 && patient => return Ok(Settled::MustWait { rows: contested }),
        Verdict { given_up: 0, contested: 0, .. } => Settled::Alone,
        Verdict { given_up, kept, .. } if given_up == kept.len() => {
            objects.remove(&directory, &late.name)?;
            Settled::Removed { rows: given_up }
        }
        Verdict { given_up, kept, contested } => {
            if given_up > 0 {
                // The same name: readers see the one content or the other, and no row twice or not at all.
                objects.store(&directory, &late.name, &keep::keep(&late.bytes, &kept)?, || true)?;
            }
            Settled::Replaced { given_up, kept: kept.len() - given_up, doubled: contested }
        }
    };
    objects.remove(MARKS, &mark_of(&late.name))?;
    Ok(settled)
}

fn judge(objects: &Objects, footers: &FooterCache, late: &LateFile) -> Result<Verdict, WarehouseError> {
    // The marks first: the proof above needs contents that are not older than them.
    let listed = objects.list(MARKS)?;
    let marked: HashSet<&str> = listed.iter().filter_map(|file| marked_by(&file.name)).collect();
    let all = footers.list(objects, &late.partition, late.oldest_published_at_ms)?;
    if all.bytes_of(&late.name) != Some(late.bytes.len() as u64) {
        // Never stored, or settled by an earlier attempt whose answer was lost.
        return Ok(Verdict::default());
    }
    let safe = all.only(|name| name != late.name && !marked.contains(name));
    let first = all.only(|name| name < late.name.as_str() && marked.contains(name));
    let mut verdict = Verdict::default();
    for (sequence, id) in scan::rows(late.bytes.clone())? {
        let held = |files| footers.holds(objects, files, sequence, late.oldest_published_at_ms, &id);
        let goes = held(&safe)?;
        verdict.given_up += usize::from(goes);
        verdict.contested += usize::from(!goes && held(&first)?);
        verdict.kept.push(!goes);
    }
    Ok(verdict)
}

/// The mark's own name, which no query engine takes for a file of rows.
pub(super) fn mark_of(name: &str) -> String {
    format!("{name}.late")
}

/// The file that a mark is for.
fn marked_by(mark: &str) -> Option<&str> {
    mark.strip_suffix(".late").filter(|name| is_data_file(name))
}
