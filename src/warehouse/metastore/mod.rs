//! Tells a Hive Metastore of the lake: its database, the table of the files with their partitions, and the table of the
//! Delta log beside it.
//!
//! ```text
//!  store a file ──► waiting ──► registrar ──► add_partitions_req ──► metastore ◄── Trino, Spark, Hive
//!  (never waits)    (bounded)      │
//!  the lake ───── reconcile ───────┘   at the start, and whenever the table is a new one
//! ```
//!
//! Invariants: nothing that the metastore does or fails to do holds a file or an acknowledgement up; a partition is
//! registered after its first file is stored; what was missed is found by reconciling, so nothing is kept of it here.

mod calls;
mod client;
mod error;
mod port;
mod reconcile;
mod table;
mod waiting;
mod wire;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::layout::Partition;
use super::{Warehouse, WarehouseError, WarehouseErrorKind};
use crate::base::backoff::{Backoff, random_unit};
use crate::metrics;
use client::Client;
use error::{Failure, FailureKind};
use table::Lake;
use waiting::Waiting;
use wire::Value;

const RETRY: Backoff = Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(20) };
/// How often the tables are looked at while there is nothing to register: somebody may have dropped them.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How long the first partition waits for others.
const GATHER: Duration = Duration::from_millis(100);
/// How long a stop waits for what the last files need.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Partitions of one call. When it fails the next one has half of them.
const BATCH_MAX: usize = 100;

/// Where the metastore is, and what it is told.
#[derive(Clone, Debug)]
pub struct MetastoreSettings {
    /// `host:port` of metastores of which any will do.
    pub addresses: Vec<String>,
    pub database: String,
    pub table: String,
    /// Where readers find the lake.
    pub location: String,
}

/// What the warehouse notes for the metastore. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metastore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    addresses: Vec<String>,
    lake: Lake,
    waiting: Waiting,
    trouble: Mutex<Option<String>>,
}

impl Metastore {
    /// `columns` with their types in Hive; `delta` says that there is a log.
    pub(super) fn new(settings: MetastoreSettings, columns: Vec<(String, &'static str)>, delta: bool) -> Self {
        let MetastoreSettings { addresses, database, table, location } = settings;
        let lake = Lake { database, table, location, columns, delta };
        Self(Arc::new(Shared { addresses, lake, waiting: Waiting::default(), trouble: Mutex::default() }))
    }

    /// A file of the partition is stored.
    pub(super) fn note(&self, partition: &Partition) {
        self.0.waiting.note(partition);
    }

    /// What people are to be told; none when all is well.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let advice = "events are stored and acknowledged all the same";
        Some(match self.0.waiting.len() {
            0 => format!("Hive Metastore: {trouble}; {advice}"),
            count => format!("Hive Metastore: {trouble}; {count} partitions wait to be registered, {advice}"),
        })
    }

    /// Registers what waits, until `stop`. What is not registered by then is found by the next reconciliation.
    pub async fn keep_registered(&self, warehouse: &Warehouse, stop: &CancellationToken) {
        let mut registrar = Registrar::new(self.0.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.register_for_ever(&mut registrar, warehouse) => {}
        }
        if registrar.checked_at.is_some() {
            let _ = timeout(LAST_CALL, registrar.add_waiting(warehouse)).await;
        }
    }

    /// Compares the whole lake with the metastore, once.
    pub async fn register_all(&self, warehouse: &Warehouse) -> Result<(), String> {
        let round = Registrar::new(self.0.clone()).round(warehouse).await;
        let complaint = round.map_err(|failure| failure.to_string())?;
        complaint.map_or(Ok(()), |complaint| Err(complaint.to_string()))
    }

    /// Drops a partition whose files go. Nothing to be done when it is not there.
    pub(super) async fn drop_partition(&self, partition: &Partition) -> Result<(), WarehouseError> {
        let lake = &self.0.lake;
        // Under the other name a repair command may have added it.
        let mut names = vec![table::partition_name(partition), table::name_by_path(partition)];
        names.dedup();
        let mut client = Client::new(self.0.addresses.clone());
        let dropped = client.drop_partitions(&lake.database, &lake.table, names).await;
        dropped.map_err(|failure| {
            metrics::hive_failure(failure.kind.name());
            let (kind, text) = (WarehouseErrorKind::Unavailable, failure.to_string());
            WarehouseError::caused(kind, "drop partition in the Hive Metastore", text)
        })?;
        self.0.waiting.dropped(partition);
        Ok(())
    }

    async fn register_for_ever(&self, registrar: &mut Registrar, warehouse: &Warehouse) {
        let mut attempt = 0;
        loop {
            match registrar.round(warehouse).await {
                Ok(complaint) => {
                    attempt = 0;
                    self.tell(complaint);
                    let came = timeout(CHECK_INTERVAL, self.0.waiting.came.notified()).await;
                    if came.is_ok() {
                        sleep(GATHER).await;
                    }
                }
                Err(failure) => {
                    attempt += 1;
                    metrics::hive_failure(failure.kind.name());
                    self.tell(Some(failure));
                    registrar.checked_at = None;
                    sleep(RETRY.delay(attempt, random_unit())).await;
                }
            }
        }
    }

    /// Once for each change.
    fn tell(&self, failure: Option<Failure>) {
        let text = failure.map(|failure| failure.to_string());
        let mut trouble = self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match (&*trouble, &text) {
            (before, Some(text)) if before.as_ref() != Some(text) => {
                warn!(reason = text, "the Hive Metastore does not know the lake as it is, trying again");
            }
            (Some(_), None) => info!("the Hive Metastore knows the lake again"),
            _ => {}
        }
        *trouble = text;
    }
}

/// What the task that registers knows of the metastore.
struct Registrar {
    shared: Arc<Shared>,
    client: Client,
    /// When the tables were looked at; none when they have to be.
    checked_at: Option<Instant>,
    /// The table of the files that all its partitions were compared with.
    reconciled: Option<Identity>,
    batch: usize,
    /// What is wrong with the Delta table, which holds no partition up.
    complaint: Option<Failure>,
    /// Partitions that somebody added by their paths, beside ours.
    doubled: usize,
}

type Identity = (Option<Value>, Option<Value>);

impl Registrar {
    fn new(shared: Arc<Shared>) -> Self {
        let client = Client::new(shared.addresses.clone());
        Self { shared, client, checked_at: None, reconciled: None, batch: BATCH_MAX, complaint: None, doubled: 0 }
    }

    /// Sees to the tables when that is due, then to the partitions. Answers what is wrong and holds nothing up.
    async fn round(&mut self, warehouse: &Warehouse) -> Result<Option<Failure>, Failure> {
        if self.shared.waiting.take_overflowed() {
            self.reconciled = None;
        }
        if self.reconciled.is_none() || self.checked_at.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            let found = self.ensure_tables().await?;
            if self.reconciled.as_ref() != Some(&found) {
                self.shared.waiting.forget();
                self.reconcile(warehouse).await?;
                self.reconciled = Some(found);
            }
            self.checked_at = Some(Instant::now());
        }
        self.add_waiting(warehouse).await?;
        Ok(self.complaint.clone().or_else(|| self.told_of_doubled()))
    }

    fn told_of_doubled(&self) -> Option<Failure> {
        let Lake { database, table, .. } = &self.shared.lake;
        let text = || {
            format!(
                "{} partitions of {database}.{table} are there twice, so that their rows are counted twice: a repair \
                 command added them by their paths; drop the table, and it is made again as it should be",
                self.doubled
            )
        };
        (self.doubled > 0).then(|| Failure::new(FailureKind::Conflict, text()))
    }

    async fn add_waiting(&mut self, warehouse: &Warehouse) -> Result<(), Failure> {
        loop {
            let some = self.shared.waiting.some(self.batch);
            if some.is_empty() {
                return Ok(());
            }
            self.add(warehouse, &some).await?;
        }
    }

    /// Creates what is missing; answers which table of the files there is.
    async fn ensure_tables(&mut self) -> Result<Identity, Failure> {
        let Self { shared, client, .. } = self;
        let lake = &shared.lake;
        let (database, name) = (lake.database.as_str(), lake.table.as_str());
        if !client.has_database(database).await? {
            client.create_database(database).await?;
            info!(database, "database created in the Hive Metastore");
        }
        self.complaint = if lake.delta { ensure_delta(client, lake).await? } else { None };
        let there = match client.table(database, name).await? {
            Some(there) => there,
            None => {
                client.create_table(table::files_table(lake)).await?;
                info!(database, table = name, location = lake.location, "table created in the Hive Metastore");
                client.table(database, name).await?.ok_or_else(|| gone(database, name))?
            }
        };
        let identity = table::identity(&there);
        if let Some(wider) = table::widened(lake, &there)? {
            client.alter_table(database, name, wider).await?;
            info!(database, table = name, "columns added to the table in the Hive Metastore");
        }
        Ok(identity)
    }

    async fn add(&mut self, warehouse: &Warehouse, partitions: &[Partition]) -> Result<(), Failure> {
        let lake = &self.shared.lake;
        let told = |partition| table::partition(lake, partition, &warehouse.directory_of(partition));
        let told = partitions.iter().map(told).collect();
        let added = self.client.add_partitions(&lake.database, &lake.table, told).await;
        match &added {
            Ok(()) => {
                self.batch = (self.batch * 2).min(BATCH_MAX);
                self.shared.waiting.registered(partitions);
                metrics::hive_registered(partitions.len());
            }
            // Too many for the time that a call has, or one of them is refused.
            Err(_) => self.batch = (self.batch / 2).max(1),
        }
        added
    }
}

/// A conflict is answered, not failed with: the table of the files has nothing to do with it.
async fn ensure_delta(client: &mut Client, lake: &Lake) -> Result<Option<Failure>, Failure> {
    let (database, name) = (lake.database.as_str(), table::delta_name(lake));
    match client.table(database, &name).await? {
        Some(there) => Ok(table::check_delta(lake, &there).err()),
        None => {
            client.create_table(table::delta_table(lake)).await?;
            info!(database, table = name, location = lake.location, "table created in the Hive Metastore");
            Ok(None)
        }
    }
}

fn gone(database: &str, table: &str) -> Failure {
    let text = format!("the table {database}.{table} is not there after it was created");
    Failure::new(FailureKind::Refused, text)
}

impl From<WarehouseError> for Failure {
    fn from(error: WarehouseError) -> Self {
        Self::new(FailureKind::Warehouse, format!("the lake's partitions cannot be listed: {error}"))
    }
}
