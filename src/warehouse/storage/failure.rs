//! Failures that both engines share.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};

/// Why the store failed to return requested bytes, if it did. The Parquet reader keeps only the text of an error and
/// would report the file as damaged.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadFailure(Arc<Mutex<Option<String>>>);

impl ReadFailure {
    pub(super) fn note(&self, why: String) {
        *self.0.lock() = Some(why);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

/// The error for a store in which creating a file does not fail if it exists: a commit could be replaced.
pub(super) fn no_create(what: &str) -> WarehouseError {
    let why = format!(
        "{what}: two processes could write the same commit of the Delta log; use a store with conditional puts \
         (If-None-Match), or set DELTA_ENABLED=false (delta_enabled in a file)"
    );
    WarehouseError::caused(WarehouseErrorKind::Refused, "begin Delta log", why)
}
