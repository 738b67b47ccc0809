//! The warehouse: one handle on the files, what is remembered of them, and the log of the table.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::catalog::footers::{FooterCache, PartitionFooters, Suspect};
use super::columns::promoted::PromotedColumns;
use super::compaction::SeenLeases;
use super::delta::{Adopted, Delta, DeltaSettings, Entry};
use super::error::{WarehouseError, WarehouseErrorKind};
use super::fenced::{self, LateFile, SeenMarks, Settled};
use super::layout::{self, Partition};
use super::metastore::Metastore;
use super::storage::{ObjectSettings, Objects};

/// The warehouse, over the engine that the configuration chose. Cheap to clone.
#[derive(Clone)]
pub struct Warehouse(pub(super) Arc<Shared>);

pub(crate) struct Shared {
    pub(super) objects: Objects,
    pub(super) footers: FooterCache,
    pub(super) marks: SeenMarks,
    pub(super) leases: SeenLeases,
    pub(super) columns: OnceLock<PromotedColumns>,
    /// None where the files are all that there is.
    pub(super) delta: OnceLock<Delta>,
    /// None where no metastore is told of the files.
    pub(super) metastore: OnceLock<Metastore>,
}

/// Files that are to be committed to the log together. Cheap to clone; whoever has it may bring it about.
#[derive(Clone)]
pub struct Commit {
    warehouse: Warehouse,
    entry: Arc<Entry>,
}

impl Warehouse {
    /// A directory on this machine, created when it is missing. Blocks for the disk.
    pub fn open_local(root: PathBuf) -> Result<Self, WarehouseError> {
        Ok(Self::of(Objects::local(root)?))
    }

    /// An object store; checks that the bucket is there and may be written.
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

    /// Gives fields of payloads columns of their own. To be called before the log is opened.
    pub fn promote(self, columns: PromotedColumns) -> Self {
        // Whoever asks a second time has the first one's.
        let _ = self.0.columns.set(columns);
        self
    }

    /// What was promoted.
    pub fn promoted(&self) -> &PromotedColumns {
        self.0.columns.get_or_init(PromotedColumns::default)
    }

    /// Keeps a Delta log of the files from now on; begins it when there is none. To be called before anything is stored.
    pub async fn keep_log(self, settings: DeltaSettings) -> Result<Self, WarehouseError> {
        let keep = move |shared: &Shared| {
            let delta = Delta::open(&shared.objects, settings, shared.columns.get_or_init(PromotedColumns::default))?;
            // Whoever asks a second time has the first one's.
            let _ = shared.delta.set(delta);
            Ok(())
        };
        self.blocking(keep).await?;
        Ok(self)
    }

    pub fn has_log(&self) -> bool {
        self.0.delta.get().is_some()
    }

    /// Lets stored files wait for the next commit to the log; none where no log is kept.
    pub async fn begin_commit(&self, files: Vec<(Partition, String, Bytes)>) -> Result<Option<Commit>, WarehouseError> {
        if !self.has_log() {
            return Ok(None);
        }
        let entry = self
            .blocking(|shared| shared.delta.get().map(|delta| delta.enqueue(&shared.objects, files)).transpose())
            .await?;
        Ok(entry.map(|entry| Commit { warehouse: self.clone(), entry }))
    }

    /// Adds the files from before the log to the table, as long as `go_on` says so. None where no log is kept, or when it
    /// has them and `again` is not set.
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

    /// A name that no other file has.
    pub fn new_file_name() -> String {
        layout::new_file_name()
    }

    /// Stores one file of `partition`, durably. Whoever tries again uses the same name: an attempt that seemed to
    /// fail may have stored it. `commit` is asked at the last moment at which nothing is visible yet; when it says
    /// no, nothing is stored and the answer is false.
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

    /// Lists what `partition` holds now.
    pub async fn footers(&self, partition: &Partition) -> Result<PartitionFooters, WarehouseError> {
        let partition = partition.clone();
        self.blocking(move |shared| shared.footers.list(&shared.objects, &partition)).await
    }

    /// Which of the suspects' ids are in the files that their sequences point to. Where a log is kept these files are in
    /// it afterwards: whoever stored them may have been killed before.
    pub async fn confirm(
        &self,
        footers: PartitionFooters,
        suspects: Vec<Suspect>,
    ) -> Result<Vec<bool>, WarehouseError> {
        let confirm = move |shared: &Shared| {
            let holders = shared.footers.holders(&shared.objects, &footers, &suspects)?;
            if let Some(delta) = shared.delta.get()
                && let Some(partition) = shared.objects.partition(footers.directory())
            {
                let places: BTreeSet<usize> = holders.iter().copied().flatten().collect();
                // A compacted file is committed by whoever made it, or never; what it replaces has been.
                let names: Vec<&str> = places.into_iter().filter_map(|place| footers.original(place)).collect();
                delta.ensure(&shared.objects, &shared.footers.damaged, &partition, &names)?;
            }
            Ok(holders.iter().map(Option::is_some).collect())
        };
        self.blocking(confirm).await
    }

    /// What people are to be told of the log; none when all is well.
    pub fn log_trouble(&self) -> Option<String> {
        self.0.delta.get().and_then(Delta::trouble)
    }

    /// What people are to be told of stored files that nobody can read; none when there are none.
    pub fn damage(&self) -> Option<String> {
        self.0.footers.damaged.warning()
    }

    /// Notes durably that a file was perhaps stored late, so that it is settled whatever becomes of this process.
    pub async fn mark_late_file(&self, late: &LateFile) -> Result<(), WarehouseError> {
        let late = late.clone();
        self.blocking(move |shared| fenced::mark(&shared.objects, &late)).await
    }

    /// The late files that have been waiting for their process to settle them for longer than `patience`, since this
    /// process first saw them.
    pub async fn abandoned_late_files(&self, patience: Duration) -> Result<Vec<LateFile>, WarehouseError> {
        let log = |shared: &Shared, late: &Partition, name: &str| match shared.delta.get() {
            Some(delta) => delta.settle(&shared.objects, &shared.footers.damaged, late, name, false),
            None => Ok(()),
        };
        self.blocking(move |shared| {
            let gone = |partition: &Partition, name: &str| log(shared, partition, name);
            fenced::abandoned(&shared.objects, &shared.footers.damaged, &shared.marks, patience, &gone)
        })
        .await
    }

    /// Gives up those rows of a file that was perhaps stored late which others hold too: somebody else had its
    /// messages. With `patient` nothing is done while another late file has to be waited for; without, the rows that
    /// are in both stay.
    pub async fn settle_late_file(&self, late: &LateFile, patient: bool) -> Result<Settled, WarehouseError> {
        let late = late.clone();
        self.blocking(move |shared| {
            let Shared { objects, footers, delta, .. } = shared;
            let columns = shared.columns.get_or_init(PromotedColumns::default);
            fenced::settle(objects, footers, delta.get(), columns, &late, patient)
        })
        .await
    }

    /// Removes what a crash left half written before this process started, as long as `go_on` says so.
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
    /// Commits the files, if nobody did. May be called again when it fails.
    pub async fn bring_about(&self) -> Result<(), WarehouseError> {
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
            // Nobody waits for it.
            tokio::task::spawn_blocking(move || {
                if let Some(delta) = shared.delta.get() {
                    delta.checkpoint(&shared.objects);
                }
            });
        }
        Ok(())
    }
}
