//! The task that keeps the metastore's tables and partitions up to date.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::Client;
use super::error::{Failure, FailureKind};
use super::handle::{Metastore, Shared};
use super::table::{self, Lake};
use super::wire::Value;
use crate::base::backoff::{Backoff, random_unit};
use crate::metrics;
use crate::warehouse::layout::Partition;
use crate::warehouse::{Warehouse, WarehouseError};

const RETRY: Backoff = Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(20) };
/// How often the tables are checked while no partition is pending: someone may have dropped them.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// How long the first pending partition waits for others to join its call.
const GATHER: Duration = Duration::from_millis(100);
/// How long a shutdown waits to register the partitions of the last files.
const LAST_CALL: Duration = Duration::from_secs(1);
/// Partitions per call. Each failure halves the batch.
const BATCH_MAX: usize = 100;

impl Metastore {
    /// Registers pending partitions until `stop`. The next reconciliation finds those that are left then.
    pub async fn keep_registered(&self, warehouse: &Warehouse, stop: &CancellationToken) {
        let mut registrar = Registrar::new(self.0.clone());
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.register_for_ever(&mut registrar, warehouse) => {}
        }
        if registrar.checked_at.is_some() {
            let _ = timeout(LAST_CALL, registrar.add_pending(warehouse)).await;
        }
    }

    /// Compares the whole lake with the metastore once.
    pub async fn register_all(&self, warehouse: &Warehouse) -> Result<(), String> {
        let round = Registrar::new(self.0.clone()).round(warehouse).await;
        let complaint = round.map_err(|failure| failure.to_string())?;
        complaint.map_or(Ok(()), |complaint| Err(complaint.to_string()))
    }

    async fn register_for_ever(&self, registrar: &mut Registrar, warehouse: &Warehouse) {
        let mut attempt = 0;
        loop {
            match registrar.round(warehouse).await {
                Ok(complaint) => {
                    attempt = 0;
                    self.report(complaint);
                    let arrived = timeout(CHECK_INTERVAL, self.0.pending.arrived.notified()).await;
                    if arrived.is_ok() {
                        sleep(GATHER).await;
                    }
                }
                Err(failure) => {
                    attempt += 1;
                    metrics::hive_failure(failure.kind.name());
                    self.report(Some(failure));
                    registrar.checked_at = None;
                    sleep(RETRY.delay(attempt, random_unit())).await;
                }
            }
        }
    }

    /// Logs each change once.
    fn report(&self, failure: Option<Failure>) {
        let text = failure.map(|failure| failure.to_string());
        let mut trouble = self.0.trouble.lock();
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

/// The state of the registration task.
pub(super) struct Registrar {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    /// When the tables were last checked; `None` if they must be checked now.
    checked_at: Option<Instant>,
    /// The identity of the files' table whose partitions were last reconciled.
    reconciled: Option<Identity>,
    batch: usize,
    /// A conflict with the Delta table. It delays no partition.
    delta_conflict: Option<Failure>,
    /// Partitions that someone registered by their paths in addition to ours.
    pub(super) duplicated: usize,
}

type Identity = (Option<Value>, Option<Value>);

impl Registrar {
    fn new(shared: Arc<Shared>) -> Self {
        let client = Client::new(shared.addresses.clone());
        Self {
            shared,
            client,
            checked_at: None,
            reconciled: None,
            batch: BATCH_MAX,
            delta_conflict: None,
            duplicated: 0,
        }
    }

    /// Checks the tables if due, then registers pending partitions. Returns problems that do not block registration.
    async fn round(&mut self, warehouse: &Warehouse) -> Result<Option<Failure>, Failure> {
        if self.shared.pending.take_overflowed() {
            self.reconciled = None;
        }
        if self.reconciled.is_none() || self.checked_at.is_none_or(|at| at.elapsed() >= CHECK_INTERVAL) {
            let found = self.ensure_tables().await?;
            if self.reconciled.as_ref() != Some(&found) {
                self.shared.pending.forget_registered();
                self.reconcile(warehouse).await?;
                self.reconciled = Some(found);
            }
            self.checked_at = Some(Instant::now());
        }
        self.add_pending(warehouse).await?;
        Ok(self.delta_conflict.clone().or_else(|| self.duplicates_failure()))
    }

    fn duplicates_failure(&self) -> Option<Failure> {
        let Lake { database, table, .. } = &self.shared.lake;
        let text = || {
            format!(
                "{} partitions of {database}.{table} are there twice, so that their rows are counted twice: a repair \
                 command added them by their paths; drop the table, and it is made again as it should be",
                self.duplicated
            )
        };
        (self.duplicated > 0).then(|| Failure::new(FailureKind::Conflict, text()))
    }

    pub(super) async fn add_pending(&mut self, warehouse: &Warehouse) -> Result<(), Failure> {
        loop {
            let partitions = self.shared.pending.sample(self.batch);
            if partitions.is_empty() {
                return Ok(());
            }
            self.add(warehouse, &partitions).await?;
        }
    }

    /// Creates missing tables and returns the identity of the files' table.
    async fn ensure_tables(&mut self) -> Result<Identity, Failure> {
        let Self { shared, client, .. } = self;
        let lake = &shared.lake;
        let (database, name) = (lake.database.as_str(), lake.table.as_str());
        if !client.has_database(database).await? {
            client.create_database(database).await?;
            info!(database, "database created in the Hive Metastore");
        }
        self.delta_conflict = if lake.delta { ensure_delta(client, lake).await? } else { None };
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
        let described = |partition| table::partition(lake, partition, &warehouse.directory_of(partition));
        let described = partitions.iter().map(described).collect();
        let added = self.client.add_partitions(&lake.database, &lake.table, described).await;
        match &added {
            Ok(()) => {
                self.batch = (self.batch * 2).min(BATCH_MAX);
                self.shared.pending.mark_registered(partitions);
                metrics::hive_registered(partitions.len());
            }
            // Too many for the timeout of a call, or the metastore refuses one of them.
            Err(_) => self.batch = (self.batch / 2).max(1),
        }
        added
    }
}

/// Returns a conflict instead of failing: the files' table does not depend on the Delta table.
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
