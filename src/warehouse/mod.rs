//! Events as Parquet files, one directory per app and hour, for any engine to read.
//!
//! Invariants: a file that can be seen is complete and durable; its footer names the
//! stream sequences that it holds. Knows events and files, nothing of consumers and acks.

mod layout;
mod schema;

mod device;
mod encode;
mod kind;
mod rows;

mod aligned;
mod bloom;
mod chunk;
mod column;
mod compression;
mod encodings;
mod page_header;
mod ranges;

mod damaged;
mod footer;
mod footers;
mod objects;
mod scan;

mod keep;
mod late;

mod delta;
mod metastore;

mod compaction;
mod erasure;
mod imported;
mod promoted;
mod retention;

mod error;

#[cfg(test)]
mod read_back;
#[cfg(test)]
mod tests_crowd;
#[cfg(test)]
mod tests_damage;
#[cfg(test)]
mod tests_late;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

pub use compaction::{
    Candidate, Compacted, CompactionFilter, CompactionOutcome, CompactionProgress, CompactionSettings, LakeStatus,
    Pace, Vacuumed,
};
pub use compression::Compression;
pub use delta::{Adopted, DeltaSettings};
pub use encode::{EncodeSettings, Encoder, OpenFile};
pub use erasure::{Erased, ErasureOutcome, PersonSearch, PersonalFiles};
pub use error::{WarehouseError, WarehouseErrorKind};
pub use footers::PartitionFooters;
pub use imported::ImportedFile;
pub use late::{LateFile, Settled};
pub use layout::{Partition, hour_of, is_path_safe};
pub use metastore::{Metastore, MetastoreSettings};
pub use promoted::{ColumnType, PromotedColumn, PromotedColumns};
pub use ranges::{MalformedRanges, SequenceRanges};
pub use retention::{Expired, Expiry, OldPartition, OldPartitions, RetentionRules, RetentionSettings};
pub use rows::Origin;
pub use scan::{scan_ids, scan_keys};

#[cfg(test)]
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use compaction::SeenLeases;
use delta::{Delta, Entry};
use footers::FooterCache;
use late::SeenMarks;
use objects::Objects;

/// The warehouse, over the engine that the configuration chose. Cheap to clone.
#[derive(Clone)]
pub struct Warehouse(Arc<Shared>);

struct Shared {
    objects: Objects,
    footers: FooterCache,
    marks: SeenMarks,
    leases: SeenLeases,
    columns: OnceLock<PromotedColumns>,
    /// None where the files are all that there is.
    delta: OnceLock<Delta>,
    /// None where no metastore is told of the files.
    metastore: OnceLock<Metastore>,
}

/// Files that are to be committed to the log together. Cheap to clone; whoever has it may bring it about.
#[derive(Clone)]
pub struct Commit {
    warehouse: Warehouse,
    entry: Arc<Entry>,
}

/// Where an object store is and how it is reached.
#[derive(Clone, Debug)]
pub struct ObjectSettings {
    /// `s3://bucket/prefix`, `gs://`, `az://`; none: S3 by the fields below.
    pub url: Option<String>,
    /// Of an S3-compatible server, such as MinIO; none: AWS.
    pub endpoint: Option<String>,
    /// None: the environment's, the profile's, or us-east-1.
    pub region: Option<String>,
    pub bucket: Option<String>,
    /// None: the environment, the profile or the instance has credentials.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`. None: when there is an endpoint.
    pub path_style: Option<bool>,
    /// Put before every key.
    pub prefix: Option<String>,
    /// A request on which nothing has moved for this long, in either direction, is given up and made again.
    pub silence_max: Duration,
}

impl Default for ObjectSettings {
    fn default() -> Self {
        Self {
            url: None,
            endpoint: None,
            region: None,
            bucket: None,
            access_key_id: None,
            secret_access_key: None,
            path_style: None,
            prefix: None,
            silence_max: Duration::from_secs(5),
        }
    }
}

/// One message that the warehouse may hold already.
#[derive(Clone, Debug)]
pub struct Suspect {
    pub sequence: u64,
    pub id: String,
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

    fn of(objects: Objects) -> Self {
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
        format!("events_{}.parquet", Uuid::now_v7())
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
        self.blocking(move |shared| late::mark(&shared.objects, &late)).await
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
            late::abandoned(&shared.objects, &shared.footers.damaged, &shared.marks, patience, &gone)
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
            late::settle(objects, footers, delta.get(), columns, &late, patient)
        })
        .await
    }

    /// Removes what a crash left half written before this process started, as long as `go_on` says so.
    pub async fn remove_temporary(&self, go_on: impl Fn() -> bool + Send + 'static) -> Result<u64, WarehouseError> {
        self.blocking(move |shared| shared.objects.remove_temporary(go_on)).await
    }

    async fn blocking<T: Send + 'static>(
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

#[cfg(test)]
impl ObjectSettings {
    /// Of a server that the test runs.
    pub(crate) fn of_test(server: &S3Server) -> Self {
        Self {
            endpoint: Some(server.url()),
            region: Some("us-east-1".to_owned()),
            bucket: Some(BUCKET.to_owned()),
            access_key_id: Some(ACCESS_KEY.to_owned()),
            secret_access_key: Some(SECRET_KEY.to_owned()),
            path_style: Some(true),
            silence_max: Duration::from_secs(1),
            ..Self::default()
        }
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

/// Of a file that holds the rows of others. It begins as all data files do, so that patterns find it.
fn new_compacted_name() -> String {
    format!("{COMPACTED}{}.parquet", Uuid::now_v7())
}

const COMPACTED: &str = "events_compacted_";

fn is_compacted(name: &str) -> bool {
    name.starts_with(COMPACTED) && is_data_file(name)
}

/// True for the names that this product gives to its files.
fn is_data_file(name: &str) -> bool {
    name.starts_with("events_") && name.ends_with(".parquet")
}
