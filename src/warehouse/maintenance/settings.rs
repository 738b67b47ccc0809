//! How files are rewritten, and the progress of a job.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::settings::{Reader, Size};
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

/// Smaller files would be the size of a row group.
const TARGET_BYTES_LEAST: u64 = 1 << 20;
/// Beyond this, readers do not split a file among themselves, and an object store does not copy it in one request.
const TARGET_BYTES_MAX: u64 = 1 << 30;

impl CompactionSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let allowed = TARGET_BYTES_LEAST..=TARGET_BYTES_MAX;
        let target: Size =
            from.get_if("compaction_target_size", "a size from 1MiB to 1GiB", |Size(size)| allowed.contains(size));
        Self {
            target_bytes: target.0,
            files_min: from.get_if("compaction_min_files", "a whole number from 2", |count| *count >= 2),
            age_min: from.get("compaction_min_age"),
            keep_replaced: from.get("compaction_keep_replaced"),
            compression: from.get("compaction_compression"),
            row_group_rows: from.get("parquet_row_group_size"),
            scratch: from.get::<PathBuf>("data_dir").join("compaction"),
        }
    }
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
