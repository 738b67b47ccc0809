//! Files that closed together, and go into one commit of the warehouse's log.
//!
//! Invariant: a file is part of exactly one commit, after it is stored. Abandoned files, and files that cannot be stored
//! for a long time, do not block the others.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::warehouse::{Commit, Partition, Warehouse, WarehouseError};

/// How long a stored file waits for the others before it is committed without them.
const PATIENCE: Duration = Duration::from_secs(10);

/// A file that is stored and not committed.
type Stored = (Partition, String, Bytes);

/// One file's part in its flush. Dropping it removes the file from the flush.
pub(super) struct Part {
    flush: Arc<Flush>,
    /// True once none of the files is still being stored.
    drained: watch::Receiver<bool>,
}

struct Flush {
    state: Mutex<State>,
    drained: watch::Sender<bool>,
    /// Held while the stored files are turned into a commit.
    begin_lock: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    /// Files that are still being stored.
    pending: usize,
    /// With the index of each file in the flush.
    stored: Vec<(usize, Stored)>,
    /// The commit of each file, by its index.
    commits: Vec<Option<Commit>>,
}

/// Starts a flush of `files` files and returns a part for each.
pub(super) fn flush(files: usize) -> Vec<Part> {
    let (sender, drained) = watch::channel(files == 0);
    let state = State { pending: files, ..State::default() };
    let flush =
        Arc::new(Flush { state: Mutex::new(state), drained: sender, begin_lock: tokio::sync::Mutex::default() });
    (0..files).map(|_| Part { flush: flush.clone(), drained: drained.clone() }).collect()
}

impl Part {
    /// Waits for the other files of the flush. The result commits the file, and may be retried. PendingCommit does nothing
    /// if the warehouse keeps no log.
    pub(super) async fn commit(self, warehouse: &Warehouse, file: Stored) -> PendingCommit {
        let (flush, mut drained) = (self.flush.clone(), self.drained.clone());
        let place = {
            let mut state = flush.state.lock();
            state.commits.push(None);
            let place = state.commits.len() - 1;
            state.stored.push((place, file));
            place
        };
        drop(self);
        // The flush owns the sender, so it is not dropped.
        let _ = tokio::time::timeout(PATIENCE, drained.wait_for(|drained| *drained)).await;
        PendingCommit { flush, place, warehouse: warehouse.clone() }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.flush.state.lock();
        state.pending -= 1;
        if state.pending == 0 {
            self.flush.drained.send_replace(true);
        }
    }
}

/// A stored file that is not committed yet.
pub(super) struct PendingCommit {
    flush: Arc<Flush>,
    place: usize,
    warehouse: Warehouse,
}

impl PendingCommit {
    /// Commits the file, together with all files of the flush that are stored by now.
    pub(super) async fn attempt(&self) -> Result<(), WarehouseError> {
        match self.commit().await? {
            Some(commit) => commit.ensure_committed().await,
            None => Ok(()),
        }
    }

    async fn commit(&self) -> Result<Option<Commit>, WarehouseError> {
        let _beginning = self.flush.begin_lock.lock().await;
        if let Some(commit) = self.flush.state.lock().commits[self.place].clone() {
            return Ok(Some(commit));
        }
        let stored = take(&mut self.flush.state.lock().stored);
        let files = stored.iter().map(|(_, file)| file.clone()).collect();
        match self.warehouse.begin_commit(files).await {
            Ok(commit) => {
                let mut state = self.flush.state.lock();
                stored.into_iter().for_each(|(place, _)| state.commits[place] = commit.clone());
                Ok(commit)
            }
            Err(error) => {
                self.flush.state.lock().stored.extend(stored);
                Err(error)
            }
        }
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
        let abandoned = parts.pop();
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
        drop(abandoned);
        all.await;
        let log = dir.path().join("_delta_log");
        let commit = std::fs::read_to_string(log.join("00000000000000000001.json")).unwrap();
        assert_eq!(commit.matches("\"add\"").count(), 3, "{commit}");
        assert!(!log.join("00000000000000000002.json").exists());
    }
}
