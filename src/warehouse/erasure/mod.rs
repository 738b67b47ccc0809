//! Erasure: removes the rows of one person by replacing every file that contains some with a file without them.
//!
//! ```text
//! every file:  footer ── bounds of the column ── Bloom filter ── the column itself      → files with rows of the person
//! each partition with such files:  lease, rewrite without these rows, one commit, remove the old files
//! ```
//!
//! Invariants: a reader of the log sees a file with all of the person's rows or with none; the other rows of a file are in
//! the table at all times, each once, and their sequences stay in the footer. An erasure may be killed at any point and
//! restarted; completed work stays. This module knows nothing of the bus: events in flight there reach the lake later, so
//! the caller erases them from the bus first.

mod search;

#[cfg(test)]
mod tests;

use super::delta::{Change, Delta, FileState};
use super::error::WarehouseErrorKind;
use super::layout::Partition;
use super::maintenance::{
    CompactionProgress, CompactionSettings, Halt, Input, Job, JobOutcome, Output, OutputSettings, Outputs,
    PartitionFilter, Scratch, Throttle, complete_log, data_files, each_partition, each_row, run_job, streams,
};
use super::{Warehouse, WarehouseError};
use crate::event::{Person, PersonId};
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::fenced;
use crate::warehouse::handle::Shared;
use crate::warehouse::storage::Listed;

/// Files replaced per commit. The footers of the new files are in memory until then.
const COMMIT_FILES_MAX: usize = 256;
/// Attempts to search a partition whose files are being replaced.
const SEARCH_ATTEMPTS_MAX: u32 = 5;

/// A partition that holds rows of the person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersonalFiles {
    pub partition: Partition,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
}

/// The result of a search.
#[derive(Clone, Debug, Default)]
pub struct PersonSearch {
    pub partitions: u64,
    pub files: u64,
    pub found: Vec<PersonalFiles>,
    /// Unreadable files, which may hold rows of the person.
    pub unreadable: Vec<String>,
}

/// The result for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErasureOutcome {
    Done(Erased),
    /// Another worker holds the lease.
    Busy,
    /// Another process changed its files meanwhile. Nothing was done.
    Overtaken,
    Stopped,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Erased {
    pub files_replaced: u64,
    pub bytes_read: u64,
    pub files_written: u64,
    pub bytes_written: u64,
    pub rows_erased: u64,
    pub rows_kept: u64,
    /// Files that left the table but still hold rows of the person. A vacuum removes them.
    pub files_waiting: u64,
    /// Remaining files that hold or may hold rows of the person, each with the reason.
    pub left: Vec<String>,
}

impl Erased {
    pub fn add(&mut self, other: Self) {
        self.files_replaced += other.files_replaced;
        self.bytes_read += other.bytes_read;
        self.files_written += other.files_written;
        self.bytes_written += other.bytes_written;
        self.rows_erased += other.rows_erased;
        self.rows_kept += other.rows_kept;
        self.files_waiting += other.files_waiting;
        self.left.extend(other.left);
    }
}

impl Warehouse {
    /// Searches the lake for rows of a person, in the given app or in all apps, while `go_on` returns true.
    pub async fn find_person(
        &self,
        person: &Person,
        go_on: impl Fn(&PersonSearch) -> bool + Send + Sync + 'static,
    ) -> Result<PersonSearch, WarehouseError> {
        let person = person.clone();
        self.in_background(move |shared| {
            complete_log(shared)?;
            find(shared, &person, &go_on)
        })
        .await
    }

    /// Erases the rows of a person from one partition. Ignores the person's app.
    pub async fn erase(
        &self,
        partition: &Partition,
        person: &PersonId,
        settings: &CompactionSettings,
        throttle: impl Fn(CompactionProgress) -> bool + Send + Sync + 'static,
    ) -> Result<ErasureOutcome, WarehouseError> {
        let (partition, person, settings) = (partition.clone(), person.clone(), settings.clone());
        self.in_background(move |shared| {
            erase(shared, complete_log(shared)?, &partition, &person, &settings, &throttle)
        })
        .await
    }
}

fn find(
    shared: &Shared,
    person: &Person,
    go_on: &dyn Fn(&PersonSearch) -> bool,
) -> Result<PersonSearch, WarehouseError> {
    let objects = &shared.objects;
    let filter = PartitionFilter { app_id: person.app_id.clone(), ..PartitionFilter::default() };
    let mut done = PersonSearch::default();
    each_partition(objects, &filter, &mut |partition, listed| {
        let directory = objects.directory(&partition);
        let (mut files, mut attempt) = (data_files(listed), 1);
        let counts = loop {
            match search::count_rows(objects, &directory, &files, &person.id, &mut || Ok(())) {
                Ok(counts) => break counts,
                // Other processes may replace files at any time.
                Err(Halt::Failed(error))
                    if attempt < SEARCH_ATTEMPTS_MAX && error.kind == WarehouseErrorKind::Unavailable =>
                {
                    attempt += 1;
                    files = data_files(objects.list(&directory)?);
                }
                Err(Halt::Failed(error)) => return Err(error),
                Err(Halt::Stopped | Halt::Overtaken | Halt::Damaged { .. }) => break Vec::new(),
            }
        };
        done.partitions += 1;
        done.files += files.len() as u64;
        let mut found = PersonalFiles { partition, files: 0, bytes: 0, rows: 0 };
        for (file, count) in files.iter().zip(counts) {
            match count {
                Ok(0) => {}
                Ok(rows) => {
                    found.files += 1;
                    found.bytes += file.bytes;
                    found.rows += rows;
                }
                Err(error) => {
                    shared.footers.damaged.note(&directory, file, &error);
                    done.unreadable.push(format!("{directory}/{}", file.name));
                }
            }
        }
        if found.files > 0 {
            done.found.push(found);
        }
        Ok(go_on(&done))
    })?;
    Ok(done)
}

fn erase(
    shared: &Shared,
    delta: &Delta,
    partition: &Partition,
    person: &PersonId,
    settings: &CompactionSettings,
    throttle: Throttle<'_>,
) -> Result<ErasureOutcome, WarehouseError> {
    let done = run_job(shared, delta, partition, settings, throttle, |job| {
        let mut erased = Erased::default();
        let files = personal_files(job, person, &mut erased)?;
        let inputs = job.inputs(&files)?;
        for file in files.iter().filter(|file| !inputs.iter().any(|input| input.file == **file)) {
            erased.left.push(left(job, file, "it has columns that are not this version's"));
        }
        job.progress.bytes = inputs.iter().map(|input| input.file.bytes).sum();
        for inputs in inputs.chunks(COMMIT_FILES_MAX) {
            let scratch = job.scratch()?;
            let (mut replaced, mut outputs) = (Vec::new(), Vec::new());
            for input in inputs {
                match rewrite_without(job, input, person, &scratch, &mut erased) {
                    Ok(parts) => {
                        replaced.push(input.clone());
                        outputs.extend(parts);
                    }
                    // An unreadable file does not stop the others from being erased.
                    Err(Halt::Damaged { file, error }) => {
                        job.footers.damaged.note(job.directory, &file, &error);
                        erased.left.push(left(job, &file, "it cannot be read"));
                    }
                    Err(halt) => return Err(halt),
                }
            }
            if replaced.is_empty() {
                continue;
            }
            job.replace(&replaced, &outputs, &scratch, Change::Rows)?;
            erased.files_replaced += replaced.len() as u64;
            erased.files_waiting += if settings.keep_replaced { replaced.len() as u64 } else { 0 };
            erased.files_written += outputs.len() as u64;
            erased.bytes_written += outputs.iter().map(|output| output.bytes).sum::<u64>();
        }
        Ok(erased)
    })?;
    Ok(match done {
        JobOutcome::Done(erased) => ErasureOutcome::Done(erased),
        JobOutcome::Busy => ErasureOutcome::Busy,
        JobOutcome::Overtaken => ErasureOutcome::Overtaken,
        JobOutcome::Stopped => ErasureOutcome::Stopped,
        JobOutcome::Damaged { file } => {
            let left = vec![format!("{file}: it cannot be read")];
            ErasureOutcome::Done(Erased { left, ..Erased::default() })
        }
    })
}

/// Returns the files of the table that hold rows of the person. Adds other files that do to `erased`.
fn personal_files(job: &mut Job<'_>, person: &PersonId, erased: &mut Erased) -> Result<Vec<Listed>, Halt> {
    let listed = job.clean_up()?;
    let (objects, directory) = (job.objects, job.directory);
    let counts = search::count_rows(objects, directory, &listed, person, &mut || job.tick())?;
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let states = job.delta.file_states(objects, job.partition, &names)?;
    let fenced_marks = job.fenced_marks()?;
    let mut files = Vec::new();
    for ((file, count), state) in listed.iter().zip(counts).zip(states) {
        match (count, state) {
            (Ok(0), _) => {}
            (Ok(_), FileState::Removed) => erased.files_waiting += 1,
            (Ok(_), FileState::Unlogged) => {
                erased.left.push(left(
                    job,
                    file,
                    "it is not in the table yet: run causality lake init, and this again",
                ));
            }
            (Ok(_), FileState::InTable) if fenced_marks.contains(&fenced::mark_name(&file.name)) => {
                erased.left.push(left(
                    job,
                    file,
                    "it was stored late and waits to be settled by a sink: try again then",
                ));
            }
            (Ok(_), FileState::InTable) => files.push(file.clone()),
            (Err(error), _) => {
                job.footers.damaged.note(directory, file, &error);
                erased.left.push(left(job, file, "it cannot be read"));
            }
        }
    }
    Ok(files)
}

fn left(job: &Job<'_>, file: &Listed, why: &str) -> String {
    format!("{}/{}: {why}", job.directory, file.name)
}

fn is_of(person: &PersonId, row: &StoredRow<'_>) -> bool {
    match person {
        PersonId::Device(id) => row.device_id() == id,
        PersonId::User(id) => row.user_id() == id,
    }
}

/// Rewrites a file without the person's rows. Returns no file if there are no other rows.
fn rewrite_without(
    job: &mut Job<'_>,
    input: &Input,
    person: &PersonId,
    scratch: &Scratch,
    erased: &mut Erased,
) -> Result<Vec<Output>, Halt> {
    let settings = OutputSettings {
        compression: input.compression.unwrap_or(job.settings.compression),
        row_group_rows: job.settings.row_group_rows,
        target_bytes: job.settings.target_bytes.max(input.file.bytes),
        stream: streams(std::slice::from_ref(input)),
        app_id: job.partition.app_id.clone(),
        promoted: job.promoted.clone(),
    };
    let mut outputs = Outputs::new(settings, scratch)?;
    let mut rows = 0;
    let (objects, directory) = (job.objects, job.directory);
    let each = |row: &StoredRow<'_>| {
        if is_of(person, row) {
            rows += 1;
            return Ok(());
        }
        outputs.push(row)
    };
    each_row(objects, directory, input, each, &mut || job.tick())?;
    job.progress.bytes_read += input.file.bytes;
    job.progress.rows_written += outputs.rows;
    erased.rows_erased += rows;
    erased.rows_kept += outputs.rows;
    erased.bytes_read += input.file.bytes;
    Ok(outputs.finish(&[&input.file.name])?)
}
