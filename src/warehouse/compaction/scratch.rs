//! The files that a compaction makes for itself: runs of sorted rows, and outputs until they are complete.
//!
//! ```text
//! _compaction/{job}.1.run     nobody's but the job's: it has no name any more once it is open
//!             {job}.2.part    an output in the making
//! ```
//!
//! Each name begins with the job's, so that whoever finds one can tell whether its job may still run.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use crate::warehouse::WarehouseError;

/// Ends the name of an output that is not complete. Query engines look for `.parquet`.
pub(super) const PART: &str = ".part";

/// Of one job; what it made and did not give away goes when it is dropped.
#[derive(Debug)]
pub(in crate::warehouse) struct Scratch {
    pub(super) directory: PathBuf,
    pub(super) job: Uuid,
    files: AtomicUsize,
}

impl Scratch {
    pub(super) fn new(directory: PathBuf, job: Uuid) -> Result<Self, WarehouseError> {
        fs::create_dir_all(&directory).map_err(|error| failed("create scratch directory", error))?;
        Ok(Self { directory, job, files: AtomicUsize::new(0) })
    }

    fn next_name(&self, end: &str) -> String {
        format!("{}.{}{end}", self.job, self.files.fetch_add(1, Ordering::Relaxed))
    }

    /// A file without a name: it goes when it is closed, whatever becomes of the process.
    pub(super) fn run(&self) -> Result<File, WarehouseError> {
        let path = self.directory.join(self.next_name(".run"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("create scratch file", error))?;
        fs::remove_file(&path).map_err(|error| failed("unlink scratch file", error))?;
        Ok(file)
    }

    /// A file for an output, with its name in the scratch directory.
    pub(super) fn part(&self) -> Result<(String, File), WarehouseError> {
        let name = self.next_name(PART);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.directory.join(&name));
        Ok((name, file.map_err(|error| failed("create scratch file", error))?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for number in 0..self.files.load(Ordering::Relaxed) {
            // Best effort: what stays is found by its job's name.
            let _ = fs::remove_file(self.directory.join(format!("{}.{number}{PART}", self.job)));
        }
    }
}

/// The job that a scratch file is of.
pub(super) fn job_of(name: &str) -> Option<Uuid> {
    let (job, rest) = name.split_once('.')?;
    (rest.ends_with(PART) || rest.ends_with(".run")).then(|| job.parse().ok())?
}

fn failed(context: &'static str, error: std::io::Error) -> WarehouseError {
    WarehouseError::io(context, error, false)
}
