//! A job replaces files of one partition by others: under a lease, in one commit.
//!
//! Invariant: all decisions are made before the first rename, and a commit whose inputs another process touched is
//! refused. Knows nothing about the contents of the new files.

use std::collections::HashSet;
use std::time::Duration;

use super::cleanup;
use super::halt::Halt;
use super::input::{self, Input};
use super::lease::{self, Lease, with_lease};
use super::output::Output;
use super::scratch::Scratch;
use super::settings::{CompactionProgress, CompactionSettings, Throttle};
use crate::base::backoff::{Backoff, random_unit};
use crate::base::clock::ClockReading;
use crate::base::faults;
use crate::warehouse::catalog::footers::FooterCache;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::delta::{Change, Delta, FileState, NewFile};
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::handle::Shared;
use crate::warehouse::layout::Partition;
use crate::warehouse::storage::{Listed, Objects};
use crate::warehouse::{WarehouseError, fenced};

/// Attempts for a commit whose result is unknown.
const COMMIT_ATTEMPTS_MAX: u32 = 5;
const RETRY: Backoff = Backoff { initial: Duration::from_millis(200), multiplier: 2.0, max: Duration::from_secs(5) };
/// A job that takes longer has stalled, and the log may have forgotten what the job noted in it.
const JOB_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The result of a job on one partition.
pub(in crate::warehouse) enum JobOutcome<T> {
    Done(T),
    /// Another worker holds the lease.
    Busy,
    /// Another worker took the lease, or changed the inputs. Nothing was done.
    Overtaken,
    Stopped,
    /// A file cannot be read. Nothing was done.
    Damaged {
        file: String,
    },
}

/// Runs `work` under the partition's lease.
pub(in crate::warehouse) fn run_job<T>(
    shared: &Shared,
    delta: &Delta,
    partition: &Partition,
    settings: &CompactionSettings,
    throttle: Throttle<'_>,
    work: impl FnOnce(&mut Job<'_>) -> Result<T, Halt>,
) -> Result<JobOutcome<T>, WarehouseError> {
    let objects = &shared.objects;
    let directory = objects.directory(partition);
    let done = with_lease(objects, &shared.leases, partition, |lease| {
        let mut job = Job {
            objects,
            footers: &shared.footers,
            delta,
            promoted: shared.columns.get_or_init(PromotedColumns::default),
            partition,
            directory: &directory,
            settings,
            throttle,
            lease,
            began: ClockReading::now(),
            progress: CompactionProgress::default(),
        };
        match work(&mut job) {
            // A worker that stalled finds its inputs gone: another one has replaced them.
            Err(Halt::Failed(_)) if job.lease.is_ours(objects).is_ok_and(|ours| !ours) => Err(Halt::Overtaken),
            done => done,
        }
    })?;
    Ok(match done {
        None => JobOutcome::Busy,
        Some(Ok(done)) => JobOutcome::Done(done),
        Some(Err(Halt::Stopped)) => JobOutcome::Stopped,
        Some(Err(Halt::Overtaken)) => JobOutcome::Overtaken,
        Some(Err(Halt::Damaged { file, error })) => {
            shared.footers.damaged.note(&directory, &file, &error);
            JobOutcome::Damaged { file: format!("{directory}/{}", file.name) }
        }
        Some(Err(Halt::Failed(error))) => return Err(error),
    })
}

/// A job on one partition.
pub(in crate::warehouse) struct Job<'a> {
    pub(in crate::warehouse) objects: &'a Objects,
    pub(in crate::warehouse) footers: &'a FooterCache,
    pub(in crate::warehouse) delta: &'a Delta,
    pub(in crate::warehouse) promoted: &'a PromotedColumns,
    pub(in crate::warehouse) partition: &'a Partition,
    pub(in crate::warehouse) directory: &'a str,
    pub(in crate::warehouse) settings: &'a CompactionSettings,
    throttle: Throttle<'a>,
    lease: &'a mut Lease,
    began: ClockReading,
    pub(in crate::warehouse) progress: CompactionProgress,
}

impl Job<'_> {
    /// Removes the leftovers of interrupted jobs and returns the data files of the partition.
    pub(in crate::warehouse) fn clean_up(&self) -> Result<Vec<Listed>, WarehouseError> {
        cleanup::clean_up(self.objects, self.delta, self.footers, self.partition, self.settings.keep_replaced)
    }

    /// Reads the footers of the files, and leaves out files whose columns are not ours.
    pub(in crate::warehouse) fn inputs(&mut self, files: &[Listed]) -> Result<Vec<Input>, Halt> {
        input::inputs(self.objects, self.directory, files, &mut || self.tick())
    }

    pub(in crate::warehouse) fn scratch(&self) -> Result<Scratch, WarehouseError> {
        Scratch::new(self.objects.staging_directory(lease::DIRECTORY, &self.settings.scratch), self.lease.job())
    }

    /// Replaces the inputs by the outputs.
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

    /// Reports progress and renews the lease. Call it often. Ends the job when it is stopped or its lease is lost.
    pub(in crate::warehouse) fn tick(&mut self) -> Result<(), Halt> {
        if !(self.throttle)(self.progress) {
            return Err(Halt::Stopped);
        }
        let age = self.began.age();
        if age > JOB_MAX || !self.lease.renew(self.objects)? {
            return Err(Halt::Overtaken);
        }
        Ok(())
    }

    /// The marks of fenced writes that wait to be reconciled.
    pub(in crate::warehouse) fn fenced_marks(&self) -> Result<HashSet<String>, WarehouseError> {
        Ok(self.objects.list(fenced::MARKS)?.into_iter().map(|mark| mark.name).collect())
    }

    /// Fails if another process touched the inputs since they were read.
    fn check_unchanged(&self, inputs: &[Input]) -> Result<(), Halt> {
        let listed = self.objects.list(self.directory)?;
        let (there, fenced_marks) = (listed.iter().collect::<Vec<_>>(), self.fenced_marks()?);
        let names: Vec<&str> = inputs.iter().map(|input| input.file.name.as_str()).collect();
        let states = self.delta.file_states(self.objects, self.partition, &names)?;
        let is_same = |(input, state): (&Input, FileState)| {
            state == FileState::InTable
                && there.contains(&&input.file)
                && !fenced_marks.contains(&fenced::mark_name(&input.file.name))
        };
        let same = inputs.iter().zip(states).all(is_same);
        if same && self.lease.is_ours(self.objects)? {
            return Ok(());
        }
        Err(Halt::Overtaken)
    }

    /// Renames the outputs, commits, and removes the inputs. Readers see the job from here on.
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
            cleanup::abandon(objects, self.delta, self.partition, outputs.iter().map(|output| output.name.as_str()))?;
            return Err(Halt::Overtaken);
        }
        faults::end_process_at("compaction committed");
        if !self.settings.keep_replaced {
            for name in old {
                objects.remove(self.directory, name)?;
            }
        }
        Ok(())
    }

    /// Retries: an attempt whose answer was lost may have committed, which the next one sees.
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
