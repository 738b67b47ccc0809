//! How files are rewritten, and the progress of a job.

use std::path::PathBuf;
use std::time::Duration;

use crate::warehouse::Compression;

/// Which files are compacted, and how files are rewritten.
#[derive(Clone, Debug)]
pub struct CompactionSettings {
    /// Target size of the files that are written. Files under half of it are small.
    pub target_bytes: u64,
    /// A partition is compacted when it has at least this many small files.
    pub files_min: usize,
    /// A partition is compacted when nothing was stored in it for this long.
    pub age_min: Duration,
    /// Keeps replaced files for readers of older versions of the table, until a vacuum removes them.
    pub keep_replaced: bool,
    pub compression: Compression,
    pub row_group_rows: usize,
    /// Where files are written before they are complete, when the warehouse is an object store.
    pub scratch: PathBuf,
}

/// Progress of the job on one partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompactionProgress {
    pub bytes: u64,
    pub bytes_read: u64,
    pub rows_written: u64,
}

/// Progress callback. It may sleep to throttle the job, for less than a lease; returning `false` stops it.
pub type Throttle<'a> = &'a (dyn Fn(CompactionProgress) -> bool + Send + Sync);
