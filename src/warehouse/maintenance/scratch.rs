//! The temporary files of a job: sorted runs, and outputs until they are complete.
//!
//! ```text
//! _compaction/{job}.1.run     a sorted run, unlinked as soon as it is open
//!             {job}.2.part    an incomplete output
//! ```
//!
//! Each name begins with the job's id, so that any process can tell whether the job may still be running.

use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use uuid::Uuid;

use crate::warehouse::WarehouseError;

/// The suffix of an incomplete output. Query engines look for `.parquet`.
pub(super) const PART: &str = ".part";

/// The scratch files of one job. Outputs that were not moved away are removed on drop.
#[derive(Debug)]
pub(in crate::warehouse) struct Scratch {
    pub(super) directory: PathBuf,
    pub(super) job: Uuid,
    files: AtomicUsize,
}

impl Scratch {
    pub(in crate::warehouse) fn new(directory: PathBuf, job: Uuid) -> Result<Self, WarehouseError> {
        fs::create_dir_all(&directory).map_err(|error| failed("create scratch directory", error))?;
        Ok(Self { directory, job, files: AtomicUsize::new(0) })
    }

    fn next_name(&self, end: &str) -> String {
        format!("{}.{}{end}", self.job, self.files.fetch_add(1, Ordering::Relaxed))
    }

    /// Creates a file without a name: it goes away when it is closed, even if the process is killed.
    pub(in crate::warehouse) fn run(&self) -> Result<File, WarehouseError> {
        let path = self.directory.join(self.next_name(".run"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
        let file = file.map_err(|error| failed("create scratch file", error))?;
        fs::remove_file(&path).map_err(|error| failed("unlink scratch file", error))?;
        Ok(file)
    }

    /// Creates a file for an output and returns its name in the scratch directory.
    pub(super) fn part(&self) -> Result<(String, File), WarehouseError> {
        let name = self.next_name(PART);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.directory.join(&name));
        Ok((name, file.map_err(|error| failed("create scratch file", error))?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for number in 0..self.files.load(Ordering::Relaxed) {
            // Best effort: a later sweep finds leftovers by the id of their job.
            let _ = fs::remove_file(self.directory.join(format!("{}.{number}{PART}", self.job)));
        }
    }
}

/// The job that a scratch file belongs to.
pub(super) fn job_of(name: &str) -> Option<Uuid> {
    let (job, rest) = name.split_once('.')?;
    (rest.ends_with(PART) || rest.ends_with(".run")).then(|| job.parse().ok())?
}

fn failed(context: &'static str, error: std::io::Error) -> WarehouseError {
    WarehouseError::io(context, error, false)
}
