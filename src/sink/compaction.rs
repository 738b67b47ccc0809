//! Scheduled compaction in the sink's process, one partition at a time and throttled by the sink's load.
//!
//! Invariant: compaction pauses while the sink is short of memory or its warehouse fails. Any number of processes
//! may compact one lake: a partition has one worker at a time.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::error::SinkError;
use super::status::SinkStatus;
use crate::base::backoff::random_unit;
use crate::metrics;
use crate::warehouse::{
    Candidate, CompactionOutcome, CompactionProgress, CompactionSettings, LakeStatus, Partition, PartitionFilter,
    Vacuumed, Warehouse, WarehouseError, WarehouseErrorKind,
};

/// The longest pause between two steps of a few thousand rows. Less than a lease.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// The interval of removing replaced files.
const VACUUM_EVERY: Duration = Duration::from_secs(3_600);

/// Compacts the lake of one process. Cheap to clone.
#[derive(Clone)]
pub struct Compactor {
    pub warehouse: Warehouse,
    pub settings: CompactionSettings,
    /// The interval between surveys for partitions to compact.
    pub every: Duration,
    pub vacuum_retention: Duration,
    /// The memory limit of the sink in this process.
    pub sink_bytes_max: usize,
    pub sink: SinkStatus,
}

impl Compactor {
    /// Runs until `stop`. Returns only errors that a retry would hide.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SinkError> {
        // Jitter, so that processes that start together do not survey together.
        let mut wait = self.every.mul_f64(random_unit());
        let mut vacuum_at = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = self.every;
            match self.pass(&stop, &mut vacuum_at).await {
                Err(error) if error.kind == WarehouseErrorKind::Fsync => return Err(error.into()),
                // Files that are older than the log are still being added to it.
                Err(error) if error.kind == WarehouseErrorKind::Refused => debug!(%error, "nothing is compacted yet"),
                Err(error) => {
                    metrics::compaction_run("failed");
                    warn!(%error, "the lake could not be looked through for files to compact, trying again later");
                }
                Ok(()) => {}
            }
        }
    }

    async fn pass(&self, stop: &CancellationToken, vacuum_at: &mut Instant) -> Result<(), WarehouseError> {
        let status = self.survey(stop).await?;
        for candidate in &status.candidates {
            if stop.is_cancelled() {
                return Ok(());
            }
            self.compact(candidate, stop).await?;
        }
        if Instant::now() >= *vacuum_at {
            *vacuum_at = Instant::now() + VACUUM_EVERY;
            let going_on = stop.clone();
            let vacuum =
                self.warehouse.vacuum(&self.settings, self.vacuum_retention, move |_| !going_on.is_cancelled());
            let Vacuumed { files, bytes, orphans, waiting } = vacuum.await?;
            metrics::vacuum_removed(files + orphans, bytes);
            if files + orphans > 0 {
                info!(files, bytes, orphans, waiting, "replaced files removed");
            }
        }
        Ok(())
    }

    async fn survey(&self, stop: &CancellationToken) -> Result<LakeStatus, WarehouseError> {
        let going_on = stop.clone();
        let all = PartitionFilter::default();
        let status = self.warehouse.survey(&self.settings, &all, move |_| !going_on.is_cancelled()).await?;
        if !stop.is_cancelled() {
            metrics::lake(status.files, status.bytes, status.small_files, status.due_partitions() as u64);
        }
        Ok(status)
    }

    async fn compact(&self, candidate: &Candidate, stop: &CancellationToken) -> Result<(), WarehouseError> {
        let began = Instant::now();
        let (going_on, sink, sink_bytes_max) = (stop.clone(), self.sink.clone(), self.sink_bytes_max);
        let throttle = move |_: CompactionProgress| {
            let began = Instant::now();
            while sink.is_pressed(sink_bytes_max) && began.elapsed() < PAUSE_MAX && !going_on.is_cancelled() {
                std::thread::sleep(PAUSE);
            }
            !going_on.is_cancelled()
        };
        match self.warehouse.compact(&candidate.partition, &self.settings, throttle).await {
            Ok(outcome) => report(&candidate.partition, outcome, began.elapsed()),
            Err(error) if matches!(error.kind, WarehouseErrorKind::Fsync | WarehouseErrorKind::Refused) => {
                return Err(error);
            }
            Err(error) => {
                metrics::compaction_run("failed");
                warn!(%error, partition = %candidate.partition, "partition could not be compacted, trying again later");
            }
        }
        Ok(())
    }
}

fn report(partition: &Partition, outcome: CompactionOutcome, elapsed: Duration) {
    match outcome {
        CompactionOutcome::Done(done) => {
            metrics::compaction_run("done");
            metrics::compacted(done.files_read, done.bytes_read, done.files_written, done.bytes_written, elapsed);
            info!(
                %partition, files_read = done.files_read, bytes_read = done.bytes_read, files_written = done.files_written,
                bytes_written = done.bytes_written, rows = done.rows, repeated = done.repeated,
                elapsed_ms = elapsed.as_millis() as u64, "partition compacted",
            );
        }
        CompactionOutcome::Damaged { file } => {
            metrics::compaction_run("damaged");
            error!(%partition, file, "partition is not compacted: a file cannot be read, and stays as it is");
        }
        CompactionOutcome::Overtaken => {
            metrics::compaction_run("overtaken");
            info!(%partition, "partition is compacted by somebody else");
        }
        CompactionOutcome::Nothing | CompactionOutcome::Warm | CompactionOutcome::Busy | CompactionOutcome::Stopped => {
            debug!(%partition, ?outcome, "partition is not compacted now")
        }
    }
}
