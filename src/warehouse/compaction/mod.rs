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

mod hidden;
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
mod tests;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::delta::{Delta, Named, NewFile};
use super::error::WarehouseErrorKind;
use super::footers::FooterCache;
use super::layout::Partition;
use super::objects::{Listed, Objects};
use super::promoted::PromotedColumns;
use super::{Compression, Shared, Warehouse, WarehouseError, is_compacted, is_data_file, late};
use crate::backoff::{Backoff, random_unit};
use crate::faults;
use lease::Lease;
use output::{Output, OutputSettings, Outputs};
use read::Input;
use scratch::Scratch;
use sort::Sorter;

pub(super) use hidden::Hidden;
pub(super) use lease::SeenLeases;
pub use survey::{Candidate, CompactionFilter, LakeStatus};
pub use vacuum::Vacuumed;

/// How often a commit is tried of which nobody knows whether it arrived.
const COMMIT_ATTEMPTS_MAX: u32 = 5;
const RETRY: Backoff = Backoff { initial: Duration::from_millis(200), multiplier: 2.0, max: Duration::from_secs(5) };
/// Who takes longer for one partition has stood still: what it noted in the log may be forgotten there.
const JOB_MAX: Duration = Duration::from_secs(24 * 3_600);
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

/// Why the work ends early.
#[derive(Debug)]
enum Halt {
    With(CompactionOutcome),
    Damaged { file: Listed, error: WarehouseError },
    Failed(WarehouseError),
}

impl From<WarehouseError> for Halt {
    fn from(error: WarehouseError) -> Self {
        Self::Failed(error)
    }
}

impl Halt {
    /// An error about a stored file.
    fn of(error: WarehouseError, directory: &str, file: &Listed) -> Self {
        match error.kind {
            WarehouseErrorKind::Corrupt => Self::Damaged { file: file.clone(), error },
            _ => Self::Failed(error.at(format!("{directory}/{}", file.name))),
        }
    }
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
    async fn quietly<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, WarehouseError> + Send + 'static,
    ) -> Result<T, WarehouseError> {
        let (done, answer) = tokio::sync::oneshot::channel();
        let shared = self.0.clone();
        let thread = std::thread::Builder::new().name("compaction".to_owned()).spawn(move || {
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

fn log_of(shared: &Shared) -> Result<&Delta, WarehouseError> {
    let refused = |why: &str| WarehouseError::caused(WarehouseErrorKind::Refused, "compact files", why.to_owned());
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
    let objects = &shared.objects;
    let id = Uuid::now_v7();
    let Some(lease) = Lease::acquire(objects, &shared.leases, partition, id)? else {
        return Ok(CompactionOutcome::Busy);
    };
    let directory = objects.directory(partition);
    let mut job = Job {
        objects,
        footers: &shared.footers,
        delta,
        promoted: shared.columns.get_or_init(PromotedColumns::default),
        partition,
        directory: &directory,
        settings,
        pace,
        lease,
        began: (Instant::now(), SystemTime::now()),
        progress: CompactionProgress::default(),
    };
    let mut done = job.run(id);
    // A worker that stood still finds its inputs gone: somebody else has compacted them.
    if matches!(done, Err(Halt::Failed(_))) && job.lease.is_ours(objects).is_ok_and(|ours| !ours) {
        done = Err(Halt::With(CompactionOutcome::Overtaken));
    }
    if let Err(error) = job.lease.release(objects) {
        tracing::debug!(%error, "the lease of a partition was not given back, it ends by itself");
    }
    match done {
        Ok(compacted) => Ok(CompactionOutcome::Done(compacted)),
        Err(Halt::With(outcome)) => Ok(outcome),
        Err(Halt::Failed(error)) => Err(error),
        Err(Halt::Damaged { file, error }) => {
            shared.footers.damaged.note(&directory, &file, &error);
            Ok(CompactionOutcome::Damaged { file: format!("{directory}/{}", file.name) })
        }
    }
}

/// The work on one partition.
struct Job<'a> {
    objects: &'a Objects,
    footers: &'a FooterCache,
    delta: &'a Delta,
    promoted: &'a PromotedColumns,
    partition: &'a Partition,
    directory: &'a str,
    settings: &'a CompactionSettings,
    pace: Pace<'a>,
    lease: Lease,
    began: (Instant, SystemTime),
    progress: CompactionProgress,
}

impl Job<'_> {
    fn run(&mut self, id: Uuid) -> Result<Compacted, Halt> {
        let listed = tidy::tidy(self.objects, self.delta, self.footers, self.partition, self.settings.keep_replaced)?;
        let candidates = self.candidates(&listed)?;
        let (objects, directory) = (self.objects, self.directory);
        let inputs = read::inputs(objects, directory, &candidates, &mut || self.tick())?;
        if inputs.len() < self.settings.files_min.max(2) {
            return Err(Halt::With(CompactionOutcome::Nothing));
        }
        let workshop = objects.workshop(lease::DIRECTORY, &self.settings.scratch);
        let scratch = Scratch::new(workshop, id)?;
        let (outputs, compacted) = self.rewrite(&inputs, &scratch)?;
        for output in &outputs {
            self.tick()?;
            objects.bring(&scratch.directory, lease::DIRECTORY, &output.part)?;
        }
        faults::end_process_at("compaction written");
        self.check_unchanged(&inputs)?;
        self.publish(&inputs, &outputs)?;
        Ok(compacted)
    }

    /// To be called often. Ends the work when it is told to, or when the lease is lost.
    fn tick(&mut self) -> Result<(), Halt> {
        if !(self.pace)(self.progress) {
            return Err(Halt::With(CompactionOutcome::Stopped));
        }
        let age = self.began.0.elapsed().max(self.began.1.elapsed().unwrap_or_default());
        if age > JOB_MAX || !self.lease.keep(self.objects)? {
            return Err(Halt::With(CompactionOutcome::Overtaken));
        }
        Ok(())
    }

    /// The small files of the table, when the partition is to be compacted at all.
    fn candidates(&self, listed: &[Listed]) -> Result<Vec<Listed>, Halt> {
        let damaged = &self.footers.damaged;
        damaged.keep(self.directory, listed);
        if let Some(file) = listed.iter().find(|file| damaged.has(self.directory, file)) {
            let file = format!("{}/{}", self.directory, file.name);
            return Err(Halt::With(CompactionOutcome::Damaged { file }));
        }
        if !survey::is_cold(listed, self.objects.now_ms()?, self.settings.age_min) {
            return Err(Halt::With(CompactionOutcome::Warm));
        }
        let names: Vec<&str> = listed.iter().map(|file| file.name.as_str()).collect();
        let named = self.delta.named(self.objects, self.partition, &names)?;
        let late = self.late_files()?;
        let is_candidate = |(file, named): &(&Listed, Named)| {
            *named == Named::InTable
                && survey::is_small(file, self.settings.target_bytes)
                && !late.contains(&late::mark_of(&file.name))
        };
        let mut candidates: Vec<Listed> =
            listed.iter().zip(named).filter(is_candidate).map(|(file, _)| file.clone()).collect();
        if candidates.len() < self.settings.files_min.max(2) {
            return Err(Halt::With(CompactionOutcome::Nothing));
        }
        candidates.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(candidates)
    }

    fn late_files(&self) -> Result<HashSet<String>, WarehouseError> {
        Ok(self.objects.list(late::MARKS)?.into_iter().map(|mark| mark.name).collect())
    }

    /// All rows of the inputs, sorted, into files of the scratch directory.
    fn rewrite(&mut self, inputs: &[Input], scratch: &Scratch) -> Result<(Vec<Output>, Compacted), Halt> {
        self.progress.bytes = inputs.iter().map(|input| input.file.bytes).sum();
        let (objects, directory) = (self.objects, self.directory);
        let mut sorter = Sorter::new(scratch, sort::ROWS_BYTES_MAX);
        for input in inputs {
            read::each_row(objects, directory, input, |row| sorter.push(row), &mut || self.tick())?;
            self.progress.bytes_read += input.file.bytes;
        }
        let settings = OutputSettings {
            compression: self.settings.compression,
            row_group_rows: self.settings.row_group_rows,
            target_bytes: self.settings.target_bytes,
            stream: read::streams(inputs),
            app_id: self.partition.app_id.clone(),
            promoted: self.promoted.clone(),
        };
        let mut outputs = Outputs::new(settings, scratch)?;
        sorter.finish(|record| -> Result<(), Halt> {
            outputs.push(record)?;
            self.progress.rows_written = outputs.rows;
            if outputs.rows.is_multiple_of(TICK_ROWS) { self.tick() } else { Ok(()) }
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
            bytes_read: self.progress.bytes,
            files_written: outputs.len() as u64,
            bytes_written: outputs.iter().map(|output| output.bytes).sum(),
            rows,
            repeated,
        };
        Ok((outputs, compacted))
    }

    /// Nobody may have touched the inputs since they were read.
    fn check_unchanged(&self, inputs: &[Input]) -> Result<(), Halt> {
        let listed = self.objects.list(self.directory)?;
        let (there, late) = (listed.iter().collect::<Vec<_>>(), self.late_files()?);
        let names: Vec<&str> = inputs.iter().map(|input| input.file.name.as_str()).collect();
        let named = self.delta.named(self.objects, self.partition, &names)?;
        let is_same = |(input, named): (&Input, Named)| {
            named == Named::InTable && there.contains(&&input.file) && !late.contains(&late::mark_of(&input.file.name))
        };
        let same = inputs.iter().zip(named).all(is_same);
        if same && self.lease.is_ours(self.objects)? {
            return Ok(());
        }
        Err(Halt::With(CompactionOutcome::Overtaken))
    }

    /// From here on readers see something of it.
    fn publish(&self, inputs: &[Input], outputs: &[Output]) -> Result<(), Halt> {
        let objects = self.objects;
        for output in outputs {
            objects.rename((lease::DIRECTORY, &output.part), (self.directory, &output.name))?;
        }
        faults::end_process_at("compaction published");
        let old: Vec<&str> = inputs.iter().map(|input| input.file.name.as_str()).collect();
        let new: Vec<NewFile<'_>> = outputs
            .iter()
            .map(|output| NewFile { name: &output.name, metadata: &output.metadata, bytes: output.bytes })
            .collect();
        if !self.commit(&old, &new)? {
            tidy::give_up(objects, self.delta, self.partition, outputs.iter().map(|output| output.name.as_str()))?;
            return Err(Halt::With(CompactionOutcome::Overtaken));
        }
        faults::end_process_at("compaction committed");
        if !self.settings.keep_replaced {
            for name in old {
                objects.remove(self.directory, name)?;
            }
        }
        Ok(())
    }

    /// An attempt whose answer was lost may have committed: the next one sees it.
    fn commit(&self, old: &[&str], new: &[NewFile<'_>]) -> Result<bool, WarehouseError> {
        let mut attempt = 1;
        loop {
            match self.delta.replace(self.objects, self.partition, old, new) {
                Err(error) if attempt < COMMIT_ATTEMPTS_MAX && error.kind != WarehouseErrorKind::Fsync => {
                    tracing::warn!(%error, attempt, "a compaction could not be committed, trying again");
                    std::thread::sleep(RETRY.delay(attempt, random_unit()));
                    attempt += 1;
                }
                done => return done,
            }
        }
    }
}

/// Files of ours among those that were listed.
fn data_files(mut listed: Vec<Listed>) -> Vec<Listed> {
    listed.retain(|file| is_data_file(&file.name));
    listed
}

fn is_orphan(name: &str, named: Named) -> bool {
    is_compacted(name) && named == Named::No
}
