//! Compaction: replaces the small files of a partition by few large ones with the same rows, sorted by time and device.
//!
//! ```text
//! events_A.parquet  events_B.parquet  events_C.parquet     in the table, small, no longer written to
//!        └──────────────┬─┴───────────────┘
//!             rows, sorted, in bounded memory               1  outputs in _compaction/, invisible
//! events_compacted_D.parquet                                2  renamed
//! _delta_log/…: remove A, B, C, add D; dataChange false     3  one commit: readers of the log see A, B, C or D
//!                                                           4  A, B, C removed, unless they are kept for readers of
//!                                                              older versions of the table
//! ```
//!
//! Invariants: a compacted file enters the table by its writer's own commit or never; its rows are those of files that
//! were in the table before that commit and leave it by that commit, each once; its footer holds their sequences, so a
//! redelivered message is found. A commit whose inputs another process replaced is refused. Two workers on one partition
//! therefore do no harm, and a process may be killed or stall at any point: its leftovers are abandoned in the log and
//! removed by the partition's next worker, or by a vacuum.
//!
//! A reader that lists directories sees rows twice from the first rename of step 2 to the last removal of step 4.

mod record;
mod sort;
mod survey;
mod vacuum;

#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod tests_s3;

use super::WarehouseError;
use super::delta::{Change, FileState};
use super::error::WarehouseErrorKind;
use super::fenced;
use super::handle::{Shared, Warehouse};
use super::layout::Partition;
use super::maintenance::{
    CompactionProgress, CompactionSettings, Halt, Input, Job, JobOutcome, Output, OutputSettings, Outputs, Scratch,
    Throttle, complete_log, each_row, run_job, streams,
};
use super::storage::Listed;
use sort::Sorter;

pub use survey::{Candidate, LakeStatus};
pub use vacuum::Vacuumed;

/// Rows between two progress callbacks while rows are written.
const TICK_ROWS: u64 = 4_096;

/// The result for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactionOutcome {
    Done(Compacted),
    /// The partition has too few small files.
    Nothing,
    /// A file was stored there recently.
    Warm,
    /// Another worker holds the lease.
    Busy,
    /// Another worker, or the reconciling of a fenced write, changed its files meanwhile. Nothing was done.
    Overtaken,
    Stopped,
    /// A file cannot be read.
    Damaged {
        file: String,
    },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    pub files_read: u64,
    pub bytes_read: u64,
    pub files_written: u64,
    pub bytes_written: u64,
    pub rows: u64,
    /// Rows with the sequence and id of another row, which were dropped.
    pub repeated: u64,
}

impl Warehouse {
    /// Compacts one partition. Fails unless there is a log that has all files.
    pub async fn compact(
        &self,
        partition: &Partition,
        settings: &CompactionSettings,
        throttle: impl Fn(CompactionProgress) -> bool + Send + Sync + 'static,
    ) -> Result<CompactionOutcome, WarehouseError> {
        let (partition, settings) = (partition.clone(), settings.clone());
        self.in_background(move |shared| compact(shared, &partition, &settings, &throttle)).await
    }

    /// Fails with the reason if compaction is not possible.
    pub async fn check_compaction(&self) -> Result<(), WarehouseError> {
        self.in_background(|shared| complete_log(shared).map(drop)).await
    }
}

fn compact(
    shared: &Shared,
    partition: &Partition,
    settings: &CompactionSettings,
    throttle: Throttle<'_>,
) -> Result<CompactionOutcome, WarehouseError> {
    let outcome = run_job(shared, complete_log(shared)?, partition, settings, throttle, |job| {
        let listed = job.clean_up()?;
        let candidates = match candidates(job, &listed)? {
            Ok(candidates) => candidates,
            Err(outcome) => return Ok(outcome),
        };
        let inputs = job.inputs(&candidates)?;
        if inputs.len() < settings.files_min.max(2) {
            return Ok(CompactionOutcome::Nothing);
        }
        let scratch = job.scratch()?;
        let (outputs, compacted) = rewrite(job, &inputs, &scratch)?;
        job.replace(&inputs, &outputs, &scratch, Change::Layout)?;
        Ok(CompactionOutcome::Done(compacted))
    })?;
    Ok(match outcome {
        JobOutcome::Done(outcome) => outcome,
        JobOutcome::Busy => CompactionOutcome::Busy,
        JobOutcome::Overtaken => CompactionOutcome::Overtaken,
        JobOutcome::Stopped => CompactionOutcome::Stopped,
        JobOutcome::Damaged { file } => CompactionOutcome::Damaged { file },
    })
}

/// The small files of the table, or the outcome if the partition is not to be compacted.
fn candidates(job: &Job<'_>, listed: &[Listed]) -> Result<Result<Vec<Listed>, CompactionOutcome>, Halt> {
    let damaged = &job.footers.damaged;
    damaged.keep(job.directory, listed);
    if let Some(file) = listed.iter().find(|file| damaged.has(job.directory, file)) {
        let file = format!("{}/{}", job.directory, file.name);
        return Ok(Err(CompactionOutcome::Damaged { file }));
    }
    if !survey::is_cold(listed, job.objects.now_ms()?, job.settings.age_min) {
        return Ok(Err(CompactionOutcome::Warm));
    }
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let states = job.delta.file_states(job.objects, job.partition, &names)?;
    let fenced_marks = job.fenced_marks()?;
    let is_candidate = |(file, state): &(&Listed, FileState)| {
        *state == FileState::InTable
            && survey::is_small(file, job.settings.target_bytes)
            && !fenced_marks.contains(&fenced::mark_name(&file.name))
    };
    let mut candidates: Vec<Listed> =
        listed.iter().zip(states).filter(is_candidate).map(|(file, _)| file.clone()).collect();
    if candidates.len() < job.settings.files_min.max(2) {
        return Ok(Err(CompactionOutcome::Nothing));
    }
    candidates.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(Ok(candidates))
}

/// Writes all rows of the inputs, sorted, to files in the scratch directory.
fn rewrite(job: &mut Job<'_>, inputs: &[Input], scratch: &Scratch) -> Result<(Vec<Output>, Compacted), Halt> {
    job.progress.bytes = inputs.iter().map(|input| input.file.bytes).sum();
    let (objects, directory) = (job.objects, job.directory);
    let mut sorter = Sorter::new(scratch, sort::ROWS_BYTES_MAX);
    for input in inputs {
        each_row(objects, directory, input, |row| sorter.push(row), &mut || job.tick())?;
        job.progress.bytes_read += input.file.bytes;
    }
    let settings = OutputSettings {
        compression: job.settings.compression,
        row_group_rows: job.settings.row_group_rows,
        target_bytes: job.settings.target_bytes,
        stream: streams(inputs),
        app_id: job.partition.app_id.clone(),
        promoted: job.promoted.clone(),
    };
    let mut outputs = Outputs::new(settings, scratch)?;
    sorter.finish(|record| -> Result<(), Halt> {
        outputs.push_unique(&record::row(record)?)?;
        job.progress.rows_written = outputs.rows;
        if outputs.rows.is_multiple_of(TICK_ROWS) { job.tick() } else { Ok(()) }
    })?;
    let (rows, repeated) = (outputs.rows, outputs.repeated);
    let expected: u64 = inputs.iter().map(|input| input.rows).sum();
    if rows + repeated != expected {
        let what = format!("{rows} rows and {repeated} repeated ones came out of {expected}");
        return Err(WarehouseError::caused(WarehouseErrorKind::Encode, "compact files", what).into());
    }
    let replaced: Vec<&str> = inputs.iter().map(|input| input.file.name.as_str()).collect();
    let outputs = outputs.finish(&replaced)?;
    let compacted = Compacted {
        files_read: inputs.len() as u64,
        bytes_read: job.progress.bytes,
        files_written: outputs.len() as u64,
        bytes_written: outputs.iter().map(|output| output.bytes).sum(),
        rows,
        repeated,
    };
    Ok((outputs, compacted))
}
