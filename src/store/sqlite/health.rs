//! Whether the store's file can be written, read and found again.
//!
//! Failures show on writes and reads; they are remembered here for checks in between.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::FileFault;
use crate::base::sqlite::{Fault, Watch};
use crate::store::error::{StoreError, StoreErrorKind};

pub(super) struct Health {
    path: PathBuf,
    watch: Watch,
    /// Why the last group was not stored.
    refused: Mutex<Option<String>>,
    /// The first damage that was found.
    damage: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn new(path: PathBuf, watch: Watch) -> Self {
        Self { path, watch, refused: Mutex::default(), damage: Mutex::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if a restart would not find the files that are open.
    pub(super) fn check_files(&self) -> Result<(), String> {
        self.watch.check()
    }

    /// Records whether the last group was stored.
    pub(super) fn record_group(&self, refusal: Option<String>) {
        let mut refused = lock(&self.refused);
        if let (None, Some(reason)) = (&*refused, &refusal) {
            tracing::warn!(reason, "the store refuses writes");
        }
        *refused = refusal;
    }

    pub(super) fn is_refusing(&self) -> bool {
        lock(&self.refused).is_some()
    }

    /// Adds the file's path to an error, and remembers damage.
    pub(super) fn describe(&self, error: StoreError, context: &'static str) -> StoreError {
        let Some(found) = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<FileFault>())
        else {
            return error;
        };
        let text = format!("{}: {found}", self.path.display());
        if found.fault == Fault::Corrupt {
            lock(&self.damage).get_or_insert_with(|| format!("{context}: {text}"));
        }
        StoreError::caused(error.kind.clone(), context, text)
    }

    /// Fails if a restart would not find the stored data, a page is damaged, or the disk takes no writes.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let failed = |kind| move |text: String| StoreError::caused(kind, "check store files", text);
        self.check_files().map_err(failed(StoreErrorKind::Unavailable))?;
        if let Some(damage) = lock(&self.damage).clone() {
            return Err(failed(StoreErrorKind::Corrupt)(damage));
        }
        self.watch.check_disk().map_err(failed(StoreErrorKind::Unavailable))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
