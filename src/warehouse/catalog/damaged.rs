//! Unreadable stored files, by name.
//!
//! Such a file is reported once, stays where it is, and counts as empty: its messages are
//! written again if they are redelivered. This is for damage only; a failing store is retried.

use std::collections::BTreeMap;

use parking_lot::{Mutex, MutexGuard};
use tracing::error;

use crate::metrics;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::storage::Listed;

/// Files that are remembered. Any beyond that are reported again.
const DAMAGED_MAX: usize = 10_000;
/// Files that a warning names.
const NAMED_MAX: usize = 3;

/// The unreadable files by directory and name, as they were listed.
#[derive(Debug, Default)]
pub(crate) struct Damaged(Mutex<BTreeMap<(String, String), Listed>>);

impl Damaged {
    /// Records and reports an unreadable file.
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

    /// Forgets the files of a directory that no longer exist or were replaced.
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

    /// A warning for operators, if there are unreadable files.
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
        self.0.lock()
    }
}
