//! The handle on the warehouse: the files, the caches of their footers, and the log of the table.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::catalog::footers::{FooterCache, PartitionFooters, RowId};
use super::columns::promoted::PromotedColumns;
use super::delta::{Adopted, Delta, DeltaSettings, PendingFiles};
use super::error::{WarehouseError, WarehouseErrorKind};
use super::fenced::{self, FencedWrite, Reconciled, SeenMarks};
use super::layout::{self, Partition};
use super::maintenance::SeenLeases;
use super::metastore::Metastore;
use super::storage::{ObjectSettings, Objects};

/// The warehouse, over the configured engine. Cheap to clone.
#[derive(Clone)]
pub struct Warehouse(pub(super) Arc<Shared>);

pub(crate) struct Shared {
    pub(super) objects: Objects,
    pub(super) footers: FooterCache,
    pub(super) marks: SeenMarks,
    pub(super) leases: SeenLeases,
    pub(super) columns: OnceLock<PromotedColumns>,
    /// Absent when no Delta log is kept.
    pub(super) delta: OnceLock<Delta>,
    /// Absent when no Hive Metastore is registered with.
    pub(super) metastore: OnceLock<Metastore>,
}

/// A pending commit of stored files to the log. Cheap to clone; any holder may carry it out.
#[derive(Clone)]
pub struct Commit {
    warehouse: Warehouse,
    entry: Arc<PendingFiles>,
}

impl Warehouse {
    /// Opens a directory on this machine and creates it if it is missing. Blocks for the disk.
    pub fn open_local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self::of(Objects::local(root)?))
    }

    /// Opens an object store. Checks that the bucket exists and is writable.
    pub async fn open_objects(settings: ObjectSettings) -> Result<Self, WarehouseError> {
        Ok(Self::of(Objects::remote(&settings).await?))
    }

    pub(super) fn of(objects: Objects) -> Self {
        Self(Arc::new(Shared {
            objects,
            footers: FooterCache::default(),
            marks: SeenMarks::default(),
            leases: SeenLeases::default(),
            columns: OnceLock::new(),
            delta: OnceLock::new(),
            metastore: OnceLock::new(),
        }))
    }

    /// Promotes payload fields to columns. Call it before [`Warehouse::keep_log`].
    pub fn promote(self, columns: PromotedColumns) -> Self {
        // A second call has no effect.
        let _ = self.0.columns.set(columns);
        self
    }

    /// The promoted columns.
    pub fn promoted(&self) -> &PromotedColumns {
        self.0.columns.get_or_init(PromotedColumns::default)
    }

    /// Keeps a Delta log of the files from now on, and creates it if there is none. Call it before storing anything.
    pub async fn keep_log(self, settings: DeltaSettings) -> Result<Self, WarehouseError> {
        let keep = move |shared: &Shared| {
            let delta = Delta::open(&shared.objects, settings, shared.columns.get_or_init(PromotedColumns::default))?;
            // A second call has no effect.
            let _ = shared.delta.set(delta);
            Ok(())
        };
        self.blocking(keep).await?;
        Ok(self)
    }

    pub fn has_log(&self) -> bool {
        self.0.delta.get().is_some()
    }

    /// Queues stored files for the next commit to the log. Returns `None` when no log is kept.
    pub async fn begin_commit(&self, files: Vec<(Partition, String, Bytes)>) -> Result<Option<Commit>, WarehouseError> {
        if !self.has_log() {
            return Ok(None);
        }
        let entry = self
            .blocking(|shared| shared.delta.get().map(|delta| delta.enqueue(&shared.objects, files)).transpose())
            .await?;
        Ok(entry.map(|entry| Commit { warehouse: self.clone(), entry }))
    }

    /// Adds files that are older than the log to the table, until `go_on` returns false. Returns `None` when no log is
    /// kept, or when it already has them and `again` is false.
    pub async fn adopt_files(
        &self,
        again: bool,
        go_on: impl Fn() -> bool + Send + 'static,
        tell: impl Fn(Adopted) + Send + 'static,
    ) -> Result<Option<Adopted>, WarehouseError> {
        let adopt = move |shared: &Shared| match shared.delta.get() {
            Some(delta) if again || !delta.has_adopted() => {
                let adopted = delta.adopt(&shared.objects, &shared.footers.damaged, go_on, tell);
                delta.checkpoint(&shared.objects);
                adopted.map(Some)
            }
            _ => Ok(None),
        };
        self.blocking(adopt).await
    }

    /// A unique file name.
    pub fn new_file_name() -> String {
        layout::new_file_name()
    }

    /// Stores one file of `partition`, durably. Retry under the same name: an attempt that seemed to fail may have
    /// stored the file. `commit` runs last, just before the file becomes visible; if it returns false, nothing is
    /// stored and the result is false.
    pub async fn store(
        &self,
        partition: &Partition,
        name: &str,
        file: Bytes,
        commit: impl FnOnce() -> bool + Send + 'static,
    ) -> Result<bool, WarehouseError> {
        let (place, name) = (partition.clone(), name.to_owned());
        let store =
            move |shared: &Shared| shared.objects.store(&shared.objects.directory(&place), &name, &file, commit);
        let stored = self.blocking(store).await?;
        if stored && let Some(metastore) = self.0.metastore.get() {
            metastore.note(partition);
        }
        Ok(stored)
    }

    /// Lists the files of `partition` and reads their footers.
    pub async fn footers(&self, partition: &Partition) -> Result<PartitionFooters, WarehouseError> {
        let partition = partition.clone();
        self.blocking(move |shared| shared.footers.list(&shared.objects, &partition)).await
    }

    /// Looks up which of the messages are stored: a message is if its id is in a file whose sequences include its own.
    /// Where a log is kept, the files found are committed to it if they are not yet: the process that stored them may
    /// have been killed before it did.
    pub async fn confirm(&self, footers: PartitionFooters, messages: Vec<RowId>) -> Result<Vec<bool>, WarehouseError> {
        let confirm = move |shared: &Shared| {
            let holders = shared.footers.holders(&shared.objects, &footers, &messages)?;
            if let Some(delta) = shared.delta.get()
                && let Some(partition) = shared.objects.partition(footers.directory())
            {
                let places: BTreeSet<usize> = holders.iter().copied().flatten().collect();
                // Only its compaction commits a compacted file; the files it replaces were committed before.
                let names: Vec<&str> = places.into_iter().filter_map(|place| footers.original(place)).collect();
                delta.ensure(&shared.objects, &shared.footers.damaged, &partition, &names)?;
            }
            Ok(holders.iter().map(Option::is_some).collect())
        };
        self.blocking(confirm).await
    }

    /// A warning about the log for operators, if there is one.
    pub fn log_trouble(&self) -> Option<String> {
        self.0.delta.get().and_then(Delta::trouble)
    }

    /// A warning about unreadable files for operators, if there are any.
    pub fn damage(&self) -> Option<String> {
        self.0.footers.damaged.warning()
    }

    /// Records durably that a write may have outlived its lease, so that it is reconciled even if this process dies.
    pub async fn mark_fenced_write(&self, write: &FencedWrite) -> Result<(), WarehouseError> {
        let write = write.clone();
        self.blocking(move |shared| fenced::mark(&shared.objects, &write)).await
    }

    /// The fenced writes that this process has seen unreconciled for longer than `patience`: the processes that made them
    /// are gone.
    pub async fn abandoned_fenced_writes(&self, patience: Duration) -> Result<Vec<FencedWrite>, WarehouseError> {
        let log = |shared: &Shared, partition: &Partition, name: &str| match shared.delta.get() {
            Some(delta) => delta.reconcile(&shared.objects, &shared.footers.damaged, partition, name, false),
            None => Ok(()),
        };
        self.blocking(move |shared| {
            let gone = |partition: &Partition, name: &str| log(shared, partition, name);
            fenced::abandoned(&shared.objects, &shared.footers.damaged, &shared.marks, patience, &gone)
        })
        .await
    }

    /// Removes the rows of a fenced write that other files hold too: its messages were delivered to another process. If
    /// `patient`, does nothing while another fenced write has to be reconciled first; otherwise rows in both stay.
    pub async fn reconcile_fenced_write(
        &self,
        write: &FencedWrite,
        patient: bool,
    ) -> Result<Reconciled, WarehouseError> {
        let write = write.clone();
        self.blocking(move |shared| {
            let Shared { objects, footers, delta, .. } = shared;
            let columns = shared.columns.get_or_init(PromotedColumns::default);
            fenced::reconcile(objects, footers, delta.get(), columns, &write, patient)
        })
        .await
    }

    /// Removes temporary files that a crash left before this process started, until `go_on` returns false.
    pub async fn remove_temporary(&self, go_on: impl Fn() -> bool + Send + 'static) -> Result<u64, WarehouseError> {
        self.blocking(move |shared| shared.objects.remove_temporary(go_on)).await
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, WarehouseError> + Send + 'static,
    ) -> Result<T, WarehouseError> {
        let shared = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&shared)).await;
        done.unwrap_or_else(|error| {
            Err(WarehouseError::caused(WarehouseErrorKind::Unavailable, "wait for disk", error))
        })
    }
}

impl Commit {
    /// Commits the files unless that has been done. May be retried.
    pub async fn ensure_committed(&self) -> Result<(), WarehouseError> {
        let Self { warehouse, entry } = self;
        let Some(delta) = warehouse.0.delta.get() else { return Ok(()) };
        let _turn = delta.turn.lock().await;
        if entry.is_committed() {
            return Ok(());
        }
        let entry = entry.clone();
        let committed = warehouse.blocking(move |shared| match shared.delta.get() {
            Some(delta) => delta.commit(&shared.objects, &entry),
            None => Ok(()),
        });
        committed.await?;
        if delta.is_checkpoint_due() {
            let shared = warehouse.0.clone();
            // The commit does not wait for it.
            tokio::task::spawn_blocking(move || {
                if let Some(delta) = shared.delta.get() {
                    delta.checkpoint(&shared.objects);
                }
            });
        }
        Ok(())
    }
}
