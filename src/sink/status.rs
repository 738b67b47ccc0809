//! Figures of the sink's workers, for readiness and the admin API.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};

/// The status of all workers. Cheap to clone; readable while the workers update it.
#[derive(Clone, Debug, Default)]
pub struct SinkStatus(Arc<Mutex<Vec<Figures>>>);

/// One worker's part of the status.
#[derive(Clone, Debug)]
pub(super) struct WorkerStatus {
    all: SinkStatus,
    place: usize,
}

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
        self.0.lock().iter().find_map(|figures| figures.trouble.clone())
    }

    /// Whether the sink is short of memory or waits for the warehouse. Work that can wait should.
    pub fn is_pressed(&self, bytes_max: usize) -> bool {
        let figures = total(&self.0.lock());
        figures.trouble.is_some() || figures.open_bytes + figures.writing_bytes > bytes_max / 2
    }

    pub fn snapshot(&self) -> Value {
        let workers = self.0.lock().len();
        let figures = total(&self.0.lock());
        let oldest_ms = figures.oldest_opened_at.map(|opened_at| opened_at.elapsed().as_millis() as u64);
        json!({
            "running": figures.running,
            "workers": workers,
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

    /// Adds a worker.
    pub(super) fn worker(&self) -> WorkerStatus {
        let mut workers = self.0.lock();
        workers.push(Figures::default());
        WorkerStatus { all: self.clone(), place: workers.len() - 1 }
    }
}

impl WorkerStatus {
    /// Updates this worker's figures and returns the totals.
    pub(super) fn update(&self, change: impl FnOnce(&mut Figures)) -> Figures {
        let mut workers = self.all.0.lock();
        change(&mut workers[self.place]);
        total(&workers)
    }

    /// The warehouse works again: clears the trouble of all workers.
    pub(super) fn recovered(&self) {
        self.all.0.lock().iter_mut().for_each(|figures| figures.trouble = None);
    }

    /// Resets the figures of open files and uploads, and keeps the counts of stored ones.
    pub(super) fn stopped(&self) {
        self.update(|figures| {
            let Figures { stored_files, stored_rows, stored_bytes, .. } = *figures;
            *figures = Figures { stored_files, stored_rows, stored_bytes, ..Figures::default() };
        });
    }
}

fn total(workers: &[Figures]) -> Figures {
    let sum = |part: fn(&Figures) -> usize| workers.iter().map(part).sum();
    let stored = |part: fn(&Figures) -> u64| workers.iter().map(part).sum();
    Figures {
        running: !workers.is_empty() && workers.iter().all(|figures| figures.running),
        open_batches: sum(|figures| figures.open_batches),
        open_rows: sum(|figures| figures.open_rows),
        open_bytes: sum(|figures| figures.open_bytes),
        oldest_opened_at: workers.iter().filter_map(|figures| figures.oldest_opened_at).min(),
        writing_files: sum(|figures| figures.writing_files),
        writing_bytes: sum(|figures| figures.writing_bytes),
        stored_files: stored(|figures| figures.stored_files),
        stored_rows: stored(|figures| figures.stored_rows),
        stored_bytes: stored(|figures| figures.stored_bytes),
        trouble: workers.iter().find_map(|figures| figures.trouble.clone()),
    }
}
