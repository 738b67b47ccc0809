//! An open database: where its files are, and whether they can be written, read and found again.
//!
//! Failures show on writes and reads; they are remembered here for checks in between.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rusqlite::Connection;

use super::error::{Fault, FileError};
use super::fatal::{FailedFsync, Fatal};
use super::loss;
use super::open::open_reader;
use super::watch::Watch;

#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    watch: Watch,
    fatal: Fatal,
    /// The first damage that was found.
    damage: Mutex<Option<String>>,
}

impl Database {
    /// `path` is open. `others` are the other files that a restart needs.
    pub fn over(path: PathBuf, others: &[PathBuf]) -> io::Result<Self> {
        let watch = Watch::over(&path, others)?;
        Ok(Self { path, watch, fatal: Fatal::default(), damage: Mutex::default() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `handler` when an fsync fails, once or more, on the thread on which it failed.
    pub fn on_failed_fsync(&self, handler: fn(&FailedFsync)) {
        self.fatal.on_failure(handler);
    }

    /// Classifies an error and names the file. A failed fsync is reported. Call it right after the error and on the same
    /// thread.
    pub fn failure(&self, context: &'static str, error: &rusqlite::Error) -> FileError {
        self.note(context, FileError::of(error))
    }

    /// As [`Self::failure`], for an error that is classified already.
    pub fn note(&self, context: &'static str, error: FileError) -> FileError {
        if error.fault == Fault::Fsync {
            let (file, text) = (self.path.clone(), error.text.clone());
            self.fatal.report(FailedFsync { file, context, error: text });
        }
        error.in_file(&self.path)
    }

    /// Fails once an fsync has failed.
    pub fn check_fsync(&self) -> Result<(), FileError> {
        match self.fatal.is_reported() {
            false => Ok(()),
            true => Err(FileError { fault: Fault::Fsync, text: "an fsync failed".to_owned() }.in_file(&self.path)),
        }
    }

    /// Fails if a restart would not find the files that are open.
    pub fn check_files(&self) -> Result<(), FileError> {
        self.watch.check().map_err(FileError::other)
    }

    /// Remembers damage, since the read that hit it may not be repeated.
    pub fn note_damage(&self, text: impl FnOnce() -> String) {
        self.damage.lock().get_or_insert_with(text);
    }

    /// Fails if stored data would not be found again, if some is damaged, or if the disk takes no writes.
    pub fn check(&self) -> Result<(), FileError> {
        self.check_fsync()?;
        self.check_files()?;
        if let Some(text) = self.damage.lock().clone() {
            return Err(FileError { fault: Fault::Corrupt, text });
        }
        self.watch.check_disk().map_err(FileError::other)
    }

    /// Losses of committed transactions that have not been acknowledged yet.
    pub fn losses(&self) -> Option<String> {
        loss::recorded(&self.path)
    }

    /// Opens a reading connection to these files.
    pub(super) fn open_reader(&self) -> Result<Connection, FileError> {
        self.check_files()?;
        let reader = open_reader(&self.path).map_err(|error| self.failure("open reader", &error))?;
        // The files may have been moved in the meantime.
        self.check_files()?;
        Ok(reader)
    }
}
