//! The work on one partition in which files take the place of others, whatever for: under a lease, in one commit.
//!
//! Invariant: from the first new name to the commit nothing is decided that could be decided before, and a commit whose
//! inputs somebody else touched is refused. Knows nothing of what is in the new files.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::lease::{self, Lease};
use super::output::Output;
use super::read::{self, Input};
use super::scratch::Scratch;
use super::{CompactionOutcome, CompactionProgress, CompactionSettings, Pace, tidy};
use crate::base::backoff::{Backoff, random_unit};
use crate::base::faults;
use crate::warehouse::catalog::footers::FooterCache;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::delta::{Change, Delta, Named, NewFile};
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, fenced};

/// How often a commit is tried of which nobody knows whether it arrived.
const COMMIT_ATTEMPTS_MAX: u32 = 5;
const RETRY: Backoff = Backoff { initial: Duration::from_millis(200), multiplier: 2.0, max: Duration::from_secs(5) };
/// Who takes longer for one partition has stood still: what it noted in the log may be forgotten there.
const JOB_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Why the work ends early.
#[derive(Debug)]
pub(in crate::warehouse) enum Halt {
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
    pub(in crate::warehouse) fn of(error: WarehouseError, directory: &str, file: &Listed) -> Self {
        match error.kind {
            WarehouseErrorKind::Corrupt => Self::Damaged { file: file.clone(), error },
            _ => Self::Failed(error.at(format!("{directory}/{}", file.name))),
        }
    }
}

/// Does `work` with the partition's lease. The outcome is one of those in which nothing was done.
pub(in crate::warehouse) fn leased<T>(
    shared: &Shared,
    delta: &Delta,
    partition: &Partition,
    settings: &CompactionSettings,
    pace: Pace<'_>,
    work: impl FnOnce(&mut Job<'_>) -> Result<T, Halt>,
) -> Result<Result<T, CompactionOutcome>, WarehouseError> {
    let objects = &shared.objects;
    let id = Uuid::now_v7();
    let Some(lease) = Lease::acquire(objects, &shared.leases, partition, id)? else {
        return Ok(Err(CompactionOutcome::Busy));
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
        id,
        lease,
        began: (Instant::now(), SystemTime::now()),
        progress: CompactionProgress::default(),
    };
    let mut done = work(&mut job);
    // A worker that stood still finds its inputs gone: somebody else has replaced them.
    if matches!(done, Err(Halt::Failed(_))) && job.lease.is_ours(objects).is_ok_and(|ours| !ours) {
        done = Err(Halt::With(CompactionOutcome::Overtaken));
    }
    if let Err(error) = job.lease.release(objects) {
        tracing::debug!(%error, "the lease of a partition was not given back, it ends by itself");
    }
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(Halt::With(outcome)) => Ok(Err(outcome)),
        Err(Halt::Failed(error)) => Err(error),
        Err(Halt::Damaged { file, error }) => {
            shared.footers.damaged.note(&directory, &file, &error);
            Ok(Err(CompactionOutcome::Damaged { file: format!("{directory}/{}", file.name) }))
        }
    }
}

/// The work on one partition.
pub(in crate::warehouse) struct Job<'a> {
    pub(in crate::warehouse) objects: &'a Objects,
    pub(in crate::warehouse) footers: &'a FooterCache,
    pub(in crate::warehouse) delta: &'a Delta,
    pub(in crate::warehouse) promoted: &'a PromotedColumns,
    pub(in crate::warehouse) partition: &'a Partition,
    pub(in crate::warehouse) directory: &'a str,
    pub(in crate::warehouse) settings: &'a CompactionSettings,
    pace: Pace<'a>,
    id: Uuid,
    lease: Lease,
    began: (Instant, SystemTime),
    pub(in crate::warehouse) progress: CompactionProgress,
}

impl Job<'_> {
    /// The data files of the partition, after what interrupted work left was removed.
    pub(in crate::warehouse) fn tidied(&self) -> Result<Vec<Listed>, WarehouseError> {
        tidy::tidy(self.objects, self.delta, self.footers, self.partition, self.settings.keep_replaced)
    }

    /// The files with their footers, but for those that are not of our columns.
    pub(in crate::warehouse) fn inputs(&mut self, files: &[Listed]) -> Result<Vec<Input>, Halt> {
        read::inputs(self.objects, self.directory, files, &mut || self.tick())
    }

    pub(in crate::warehouse) fn scratch(&self) -> Result<Scratch, WarehouseError> {
        Scratch::new(self.objects.staging_directory(lease::DIRECTORY, &self.settings.scratch), self.id)
    }

    /// Puts the outputs in the place of the inputs.
    pub(in crate::warehouse) fn replace(
        &mut self,
        inputs: &[Input],
        outputs: &[Output],
        scratch: &Scratch,
        change: Change,
    ) -> Result<(), Halt> {
        for output in outputs {
            self.tick()?;
            self.objects.store_staged(&scratch.directory, lease::DIRECTORY, &output.part)?;
        }
        faults::end_process_at("compaction written");
        self.check_unchanged(inputs)?;
        self.publish(inputs, outputs, change)
    }

    /// To be called often. Ends the work when it is told to, or when the lease is lost.
    pub(in crate::warehouse) fn tick(&mut self) -> Result<(), Halt> {
        if !(self.pace)(self.progress) {
            return Err(Halt::With(CompactionOutcome::Stopped));
        }
        let age = self.began.0.elapsed().max(self.began.1.elapsed().unwrap_or_default());
        if age > JOB_MAX || !self.lease.keep(self.objects)? {
            return Err(Halt::With(CompactionOutcome::Overtaken));
        }
        Ok(())
    }

    pub(in crate::warehouse) fn late_files(&self) -> Result<HashSet<String>, WarehouseError> {
        Ok(self.objects.list(fenced::MARKS)?.into_iter().map(|mark| mark.name).collect())
    }

    /// Nobody may have touched the inputs since they were read.
    fn check_unchanged(&self, inputs: &[Input]) -> Result<(), Halt> {
        let listed = self.objects.list(self.directory)?;
        let (there, late) = (listed.iter().collect::<Vec<_>>(), self.late_files()?);
        let names: Vec<&str> = inputs.iter().map(|input| input.file.name.as_str()).collect();
        let named = self.delta.named(self.objects, self.partition, &names)?;
        let is_same = |(input, named): (&Input, Named)| {
            named == Named::InTable
                && there.contains(&&input.file)
                && !late.contains(&fenced::mark_name(&input.file.name))
        };
        let same = inputs.iter().zip(named).all(is_same);
        if same && self.lease.is_ours(self.objects)? {
            return Ok(());
        }
        Err(Halt::With(CompactionOutcome::Overtaken))
    }

    /// From here on readers see something of it.
    fn publish(&self, inputs: &[Input], outputs: &[Output], change: Change) -> Result<(), Halt> {
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
        if !self.commit(&old, &new, change)? {
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
    fn commit(&self, old: &[&str], new: &[NewFile<'_>], change: Change) -> Result<bool, WarehouseError> {
        let mut attempt = 1;
        loop {
            match self.delta.replace(self.objects, self.partition, old, new, change) {
                Err(error) if attempt < COMMIT_ATTEMPTS_MAX && error.kind != WarehouseErrorKind::Fsync => {
                    tracing::warn!(%error, attempt, "files could not be replaced in the log, trying again");
                    std::thread::sleep(RETRY.delay(attempt, random_unit()));
                    attempt += 1;
                }
                done => return done,
            }
        }
    }
}
