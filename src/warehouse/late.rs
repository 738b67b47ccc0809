//! Files that were stored late, when others may have stored some of their rows as well: each row
//! stays in one file.
//!
//! Several late files may hold the same rows and be settled at once, and none may give a row up for
//! a file that gives it up too. So whoever settles a file puts a mark beside it, then lists the
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
//! What is left: a request that was given up and that the store carries out after all, later than a
//! lease's time, puts the rows back that went; they are doubled then, not lost.
//!
//! A process that dies while it settles leaves its mark, and rows doubled that are in its file and
//! others: rule 3 keeps them, and whoever waits by rule 2 gives up after a time and says so.

use std::collections::HashSet;

use bytes::Bytes;

use super::footers::FooterCache;
use super::layout::Partition;
use super::objects::Objects;
use super::{WarehouseError, is_data_file, keep, scan};

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

/// Gives up the rows that others hold. With `patient` nothing is done while others have to be waited for.
pub(super) fn settle(
    objects: &Objects,
    footers: &FooterCache,
    late: &LateFile,
    patient: bool,
) -> Result<Settled, WarehouseError> {
    let directory = late.partition.path();
    let mark = mark_of(&late.name);
    objects.store(&directory, &mark, &Bytes::new(), || true)?;
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
    objects.remove(&directory, &mark)?;
    Ok(settled)
}

fn judge(objects: &Objects, footers: &FooterCache, late: &LateFile) -> Result<Verdict, WarehouseError> {
    // The marks first: the proof above needs contents that are not older than them.
    let listed = objects.list(&late.partition.path())?;
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

/// The mark beside a file that is being settled. Query engines skip names with a dot in front.
pub(super) fn mark_of(name: &str) -> String {
    format!(".{name}.late")
}

/// The file that a mark is for.
fn marked_by(mark: &str) -> Option<&str> {
    mark.strip_prefix('.')?.strip_suffix(".late").filter(|name| is_data_file(name))
}
