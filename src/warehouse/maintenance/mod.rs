//! Maintenance of stored files: what compaction, erasure and retention have in common.
//!
//! Maintenance works partition by partition, under a lease in the warehouse. A job replaces files of one partition by
//! others in a single commit: it reads inputs, writes outputs to a scratch directory, and renames them into place.
//! Nothing here knows why files are rewritten.

mod background;
mod log;
mod settings;

mod partitions;

mod lease;
mod scratch;

mod halt;
mod input;
mod output;

mod cleanup;
mod job;

pub(super) use background::{THREAD, lower_priority};
pub(super) use cleanup::{clean_up, sweep_scratch};
pub(super) use halt::Halt;
#[cfg(test)]
pub(super) use input::inputs;
pub(super) use input::{Input, each_row, streams};
pub(super) use job::{Job, JobOutcome, run_job};
pub(super) use lease::{Lease, SeenLeases, with_lease};
pub(super) use log::complete_log;
pub(super) use output::{Output, OutputSettings, Outputs};
pub use partitions::PartitionFilter;
pub(super) use partitions::{data_files, each_partition, is_orphan};
pub(super) use scratch::Scratch;
pub use settings::{CompactionProgress, CompactionSettings, Throttle};
