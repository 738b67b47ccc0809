//! What the sink is doing, for readiness and the admin API.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

/// Readable from anywhere while the sink writes it. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct SinkStatus(Arc<Mutex<Figures>>);

#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    pub(super) running: bool,
    pub(super) open_batches: usize,
    pub(super) open_rows: usize,
    pub(super) open_bytes: usize,
    pub(super) oldest_opened_at: Option<Instant>,
    pub(super) writing_files: usize,
    pub(super) writing_bytes: usize,
    pub(super) stored_files: u64,
    pub(super) stored_rows: u64,
    pub(super) stored_bytes: u64,
    /// Why the warehouse refuses files at the moment.
    pub(super) trouble: Option<String>,
}

impl SinkStatus {
    pub fn new() -> Self {
        Self::default()
    }

    /// Why the warehouse refuses files at the moment.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }

    pub fn snapshot(&self) -> Value {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let oldest_ms = figures.oldest_opened_at.map(|opened_at| opened_at.elapsed().as_millis() as u64);
        json!({
            "running": figures.running,
            "open_batches": figures.open_batches,
            "open_rows": figures.open_rows,
            "open_bytes": figures.open_bytes,
            "oldest_batch_age_ms": oldest_ms,
            "writing_files": figures.writing_files,
            "writing_bytes": figures.writing_bytes,
            "stored_files": figures.stored_files,
            "stored_rows": figures.stored_rows,
            "stored_bytes": figures.stored_bytes,
            "trouble": figures.trouble,
        })
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
