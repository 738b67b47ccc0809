//! Stored files that nobody can read, by name.
//!
//! Such a file is told of once, stays where it is, and counts as holding nothing: what may have been in it is
//! written again. Only damage gets here. A store that fails is asked again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::error;

use crate::metrics;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::storage::Listed;

/// Files that are remembered; of a disk that damages more, those are told of again.
const DAMAGED_MAX: usize = 10_000;
/// Files that are named to people.
const NAMED_MAX: usize = 3;

/// By directory and name, what the file was when it could not be read.
#[derive(Debug, Default)]
pub(crate) struct Damaged(Mutex<BTreeMap<(String, String), Listed>>);

impl Damaged {
    /// Takes note of a file that cannot be read.
    pub(crate) fn note(&self, directory: &str, file: &Listed, error: &WarehouseError) {
        let mut files = self.files();
        let key = (directory.to_owned(), file.name.clone());
        if files.get(&key) == Some(file) {
            return;
        }
        error!(
            %error, directory, name = file.name,
            "a stored file cannot be read; it is left as it is, and what it may hold of what comes again is written again"
        );
        if files.len() < DAMAGED_MAX {
            files.insert(key, file.clone());
        }
        metrics::warehouse_unreadable_files(files.len());
    }

    pub(crate) fn has(&self, directory: &str, file: &Listed) -> bool {
        let files = self.files();
        !files.is_empty() && files.get(&(directory.to_owned(), file.name.clone())) == Some(file)
    }

    /// Forgets those of a directory that are not there any more, or were replaced.
    pub(crate) fn keep(&self, directory: &str, listed: &[Listed]) {
        let mut files = self.files();
        if files.is_empty() {
            return;
        }
        let before = files.len();
        files.retain(|(of, _), file| of != directory || listed.contains(file));
        if files.len() != before {
            metrics::warehouse_unreadable_files(files.len());
        }
    }

    /// What people are told; none when all is well.
    pub(crate) fn warning(&self) -> Option<String> {
        let files = self.files();
        let named: Vec<String> =
            files.keys().take(NAMED_MAX).map(|(directory, name)| format!("{directory}/{name}")).collect();
        let more = match files.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let one = if files.len() == 1 { "file" } else { "files" };
        (!named.is_empty()).then(|| format!("{} stored {one} cannot be read: {}{more}", files.len(), named.join(", ")))
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<(String, String), Listed>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
