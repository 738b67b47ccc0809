//! Small files of a partition become few large ones, sorted by time and device, with the same rows.
//!
//! ```text
//! events_A.parquet  events_B.parquet  events_C.parquet     in the table, small, not written to any more
//!        └──────────────┬─┴───────────────┘
//!             rows, sorted, in bounded memory               1  outputs in _compaction/, invisible
//! events_compacted_D.parquet                                2  renamed
//! _delta_log/…: remove A, B, C, add D; dataChange false     3  one commit: readers of the log see A, B, C or D
//!                                                           4  A, B, C removed, unless they are kept for readers of
//!                                                              older versions of the table
//! ```
//!
//! Invariants: a compacted file is in the table by the commit of whoever made it, or never; its rows are those of files
//! that were in the table before that commit and go out of it by that commit, each once; its footer holds their
//! sequences, so that a message that comes again is found. A commit whose inputs somebody else replaced is refused. So two
//! workers of one partition do no harm, and a process may be killed, or stand still, at any moment: what it leaves is
//! given up in the log and removed by the next worker of the partition, or by a vacuum.
//!
//! Who reads the directories sees rows twice from the first rename of step 2 to the last removal of step 4.

mod job;
mod lease;
mod output;
mod read;
mod record;
mod scratch;
mod sort;
mod survey;
mod tidy;
mod vacuum;

#[cfg(test)]
pub(super) mod tests;
#[cfg(test)]
mod tests_s3;

use std::path::PathBuf;
use std::time::Duration;

use super::delta::{Change, Delta, Named};
use super::error::WarehouseErrorKind;
use super::layout::Partition;
use super::{Compression, Warehouse, WarehouseError};
use crate::warehouse::fenced;
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::{is_compacted, is_data_file};
use crate::warehouse::storage::Listed;
use sort::Sorter;

pub(super) use job::{Halt, Job, leased};
pub(super) use lease::{Lease, SeenLeases};
pub(super) use output::{Output, OutputSettings, Outputs};
pub(super) use read::{Input, each_row, streams};
pub(super) use scratch::Scratch;
pub(super) use survey::each_partition;
pub use survey::{Candidate, CompactionFilter, LakeStatus};
pub(super) use tidy::tidy;
pub use vacuum::Vacuumed;

/// The name of every thread that works on files.
const THREAD: &str = "compaction";
/// Rows between two looks at whether to go on.
const TICK_ROWS: u64 = 4_096;

/// What is compacted, and into what.
#[derive(Clone, Debug)]
pub struct CompactionSettings {
    /// Of the files that are made; files under half of it are small.
    pub target_bytes: u64,
    /// Small files that a partition has at least when it is compacted.
    pub files_min: usize,
    /// Nothing was stored in the partition for this long.
    pub age_min: Duration,
    /// Replaced files stay for readers of older versions of the table, until a vacuum.
    pub keep_replaced: bool,
    pub compression: Compression,
    pub row_group_rows: usize,
    /// Where files are made when the warehouse is in an object store.
    pub scratch: PathBuf,
}

/// How far the work on one partition is.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionProgress {
    pub bytes: u64,
    pub bytes_read: u64,
    pub rows_written: u64,
}

/// Told of progress; may sleep to hold the work up, for less than a lease; false ends it.
pub type Pace<'a> = &'a (dyn Fn(CompactionProgress) -> bool + Send + Sync);

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompactionOutcome {
    Done(Compacted),
    /// It has too few small files.
    Nothing,
    /// Something was stored there lately.
    Warm,
    /// Another worker is at it.
    Busy,
    /// Another worker, or whoever settles a late file, changed its files meanwhile: nothing was done.
    Overtaken,
    Stopped,
    /// A file that cannot be read.
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
    /// Rows that repeated others, sequence and id, and were left out.
    pub repeated: u64,
}

impl Warehouse {
    /// Compacts one partition. Only where a log is kept that has all files.
    pub async fn compact(
        &self,
        partition: &Partition,
        settings: &CompactionSettings,
        pace: impl Fn(CompactionProgress) -> bool + Send + Sync + 'static,
    ) -> Result<CompactionOutcome, WarehouseError> {
        let (partition, settings) = (partition.clone(), settings.clone());
        self.quietly(move |shared| compact(shared, log_of(shared)?, &partition, &settings, &pace)).await
    }

    /// Fails, with the reason, where nothing can be compacted.
    pub async fn check_compaction(&self) -> Result<(), WarehouseError> {
        self.quietly(|shared| log_of(shared).map(drop)).await
    }

    /// Runs `work` on a thread of its own that leaves the processor to others.
    pub(super) async fn quietly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, WarehouseError> + Send + 'static,
    ) -> Result<T, WarehouseError> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let shared = self.0.clone();
        let thread = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            give_way();
            // Nobody may wait for it any more.
            let _ = done.send(work(&shared));
        });
        thread.map_err(|error| WarehouseError::io("start thread", error, false))?;
        let ended = |error| WarehouseError::caused(WarehouseErrorKind::Encode, "wait for compaction", error);
        answer.await.unwrap_or_else(|error| Err(ended(error)))
    }
}

/// The thread's priority, where threads have one of their own.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the standard library does not ask for this")]
fn give_way() {
    /// Half of the way to the lowest.
    const NICE: libc::c_int = 10;
    // SAFETY: it takes three numbers; on Linux 0 is the calling thread. A refusal costs priority alone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

#[cfg(not(target_os = "linux"))]
fn give_way() {}

pub(super) fn log_of(shared: &Shared) -> Result<&Delta, WarehouseError> {
    let refused = |why: &str| WarehouseError::caused(WarehouseErrorKind::Refused, "replace files", why.to_owned());
    let delta = shared.delta.get().ok_or_else(|| refused("it takes a Delta log: set delta_enabled to true"))?;
    if delta.has_adopted() {
        return Ok(delta);
    }
    Err(refused("the Delta log does not have the files from before it yet: wait for that, or run causality lake init"))
}

fn compact(
    shared: &Shared,
    delta: &Delta,
    partition: &Partition,
    settings: &CompactionSettings,
    pace: Pace<'_>,
) -> Result<CompactionOutcome, WarehouseError> {
    let done = leased(shared, delta, partition, settings, pace, |job| {
        let listed = job.tidied()?;
        let candidates = candidates(job, &listed)?;
        let inputs = job.inputs(&candidates)?;
        if inputs.len() < settings.files_min.max(2) {
            return Err(Halt::With(CompactionOutcome::Nothing));
        }
        let scratch = job.scratch()?;
        let (outputs, compacted) = rewrite(job, &inputs, &scratch)?;
        job.replace(&inputs, &outputs, &scratch, Change::Layout)?;
        Ok(compacted)
    })?;
    Ok(done.map_or_else(|outcome| outcome, CompactionOutcome::Done))
}

/// The small files of the table, when the partition is to be compacted at all.
fn candidates(job: &Job<'_>, listed: &[Listed]) -> Result<Vec<Listed>, Halt> {
    let damaged = &job.footers.damaged;
    damaged.keep(job.directory, listed);
    if let Some(file) = listed.iter().find(|file| damaged.has(job.directory, file)) {
        let file = format!("{}/{}", job.directory, file.name);
        return Err(Halt::With(CompactionOutcome::Damaged { file }));
    }
    if !survey::is_cold(listed, job.objects.now_ms()?, job.settings.age_min) {
        return Err(Halt::With(CompactionOutcome::Warm));
    }
    let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
    let named = job.delta.named(job.objects, job.partition, &names)?;
    let late = job.late_files()?;
    let is_candidate = |(file, named): &(&Listed, Named)| {
        *named == Named::InTable
            && survey::is_small(file, job.settings.target_bytes)
            && !late.contains(&fenced::mark_name(&file.name))
    };
    let mut candidates: Vec<Listed> =
        listed.iter().zip(named).filter(is_candidate).map(|(file, _)| file.clone()).collect();
    if candidates.len() < job.settings.files_min.max(2) {
        return Err(Halt::With(CompactionOutcome::Nothing));
    }
    candidates.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(candidates)
}

/// All rows of the inputs, sorted, into files of the scratch directory.
fn rewrite(job: &mut Job<'_>, inputs: &[Input], scratch: &Scratch) -> Result<(Vec<Output>, Compacted), Halt> {
    job.progress.bytes = inputs.iter().map(|input| input.file.bytes).sum();
    let (objects, directory) = (job.objects, job.directory);
    let mut sorter = Sorter::new(scratch, sort::ROWS_BYTES_MAX);
    for input in inputs {
        read::each_row(objects, directory, input, |row| sorter.push(row), &mut || job.tick())?;
        job.progress.bytes_read += input.file.bytes;
    }
    let settings = OutputSettings {
        compression: job.settings.compression,
        row_group_rows: job.settings.row_group_rows,
        target_bytes: job.settings.target_bytes,
        stream: read::streams(inputs),
        app_id: job.partition.app_id.clone(),
        promoted: job.promoted.clone(),
    };
    let mut outputs = Outputs::new(settings, scratch)?;
    sorter.finish(|record| -> Result<(), Halt> {
        outputs.push(record)?;
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

/// Files of ours among those that were listed.
pub(super) fn data_files(mut listed: Vec<Listed>) -> Vec<Listed> {
    listed.retain(|file| is_data_file(&file.name));
    listed
}

pub(super) fn is_orphan(name: &str, named: Named) -> bool {
    is_compacted(name) && named == Named::No
}
