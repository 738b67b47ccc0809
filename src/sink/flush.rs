//! The files that closed together, on their way into one commit of the warehouse's log.
//!
//! Invariant: a file takes part in exactly one commit, after it is stored. Those that are given up hold nobody up, and
//! neither do those that cannot be stored for long.

use std::mem::take;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::warehouse::{Commit, Partition, Warehouse, WarehouseError};

/// How long a stored file waits for the others before it is committed without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file that is stored and not committed.
type Stored = (Partition, String, Bytes);

/// One file's part in its flush. Dropped, the file takes no part any more.
pub(super) struct Part {
    flush: Arc<Flush>,
    /// Told when none of the files is on its way to the store.
    settled: watch::Receiver<bool>,
}

struct Flush {
    state: Mutex<State>,
    settle: watch::Sender<bool>,
    /// Held while the stored files become a commit.
    beginning: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    on_their_way: usize,
    /// With the place that each has among all.
    stored: Vec<(usize, Stored)>,
    /// Which commit each of the files is in, by its place.
    commits: Vec<Option<Commit>>,
}

/// A part for each of so many files.
pub(super) fn flush(files: usize) -> Vec<Part> {
    let (settle, settled) = watch::channel(files == 0);
    let state = State { on_their_way: files, ..State::default() };
    let flush = Arc::new(Flush { state: Mutex::new(state), settle, beginning: tokio::sync::Mutex::default() });
    (0..files).map(|_| Part { flush: flush.clone(), settled: settled.clone() }).collect()
}

impl Part {
    /// Waits for the others, and then for the commit with the file. What it answers is of this attempt: another may
    /// follow. Nothing to be done where the warehouse keeps no log.
    pub(super) async fn commit(self, warehouse: &Warehouse, file: Stored) -> Committing {
        let (flush, mut settled) = (self.flush.clone(), self.settled.clone());
        let place = {
            let mut state = flush.state();
            state.commits.push(None);
            let place = state.commits.len() - 1;
            state.stored.push((place, file));
            place
        };
        drop(self);
        // The sender is in the flush.
        let _ = tokio::time::timeout(PATIENCE, settled.wait_for(|settled| *settled)).await;
        Committing { flush, place, warehouse: warehouse.clone() }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.flush.state();
        state.on_their_way -= 1;
        if state.on_their_way == 0 {
            self.flush.settle.send_replace(true);
        }
    }
}

/// A stored file before its commit.
pub(super) struct Committing {
    flush: Arc<Flush>,
    place: usize,
    warehouse: Warehouse,
}

impl Committing {
    /// Brings the commit about, with all files of the flush that are stored by now.
    pub(super) async fn attempt(&self) -> Result<(), WarehouseError> {
        match self.begun().await? {
            Some(commit) => commit.bring_about().await,
            None => Ok(()),
        }
    }

    async fn begun(&self) -> Result<Option<Commit>, WarehouseError> {
        let _beginning = self.flush.beginning.lock().await;
        if let Some(commit) = self.flush.state().commits[self.place].clone() {
            return Ok(Some(commit));
        }
        let stored = take(&mut self.flush.state().stored);
        let files = stored.iter().map(|(_, file)| file.clone()).collect();
        match self.warehouse.begin_commit(files).await {
            Ok(commit) => {
                let mut state = self.flush.state();
                stored.into_iter().for_each(|(place, _)| state.commits[place] = commit.clone());
                Ok(commit)
            }
            Err(error) => {
                self.flush.state().stored.extend(stored);
                Err(error)
            }
        }
    }
}

impl Flush {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::{Compression, DeltaSettings, EncodeSettings, Encoder};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_stored_files_of_a_flush_are_one_commit() {
        let dir = tempfile::tempdir().unwrap();
        let settings = DeltaSettings { retention: Duration::from_secs(3_600) };
        let warehouse = Warehouse::open_local(dir.path().to_owned()).unwrap().keep_log(settings).await.unwrap();
        let settings =
            EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 10, stream: "S".to_owned() };
        let mut encoder = Encoder::new(settings).unwrap();
        let file = encoder.finish(encoder.open("shop"), std::iter::empty()).unwrap();
        let mut parts = flush(4);
        let given_up = parts.pop();
        let each = parts.into_iter().enumerate().map(async |(n, part)| {
            let partition = Partition { app_id: format!("app{n}"), hour: 491_000 };
            // One is slower to be stored than the others.
            tokio::time::sleep(Duration::from_millis(if n == 0 { 300 } else { 0 })).await;
            part.commit(&warehouse, (partition, Warehouse::new_file_name(), file.clone()))
                .await
                .attempt()
                .await
                .unwrap();
        });
        let all = futures_util::future::join_all(each);
        drop(given_up);
        all.await;
        let log = dir.path().join("_delta_log");
        let commit = std::fs::read_to_string(log.join("00000000000000000001.json")).unwrap();
        assert_eq!(commit.matches("\"add\"").count(), 3, "{commit}");
        assert!(!log.join("00000000000000000002.json").exists());
    }
}
