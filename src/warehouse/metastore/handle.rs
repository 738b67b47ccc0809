//! What the warehouse knows of the metastore: the partitions it has to register, and what is wrong.

use std::sync::Arc;

use parking_lot::Mutex;

use super::client::Client;
use super::pending::PendingPartitions;
use super::settings::MetastoreSettings;
use super::table::{self, Lake};
use crate::metrics;
use crate::warehouse::layout::Partition;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// The warehouse's handle on a metastore. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metastore(pub(super) Arc<Shared>);

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) addresses: Vec<String>,
    pub(super) lake: Lake,
    pub(super) pending: PendingPartitions,
    /// Why the metastore does not reflect the lake, if it does not.
    pub(super) trouble: Mutex<Option<String>>,
}

impl Metastore {
    /// `columns` come with their Hive types; `delta` tells whether there is a Delta log.
    pub(in crate::warehouse) fn new(
        settings: MetastoreSettings,
        columns: Vec<(String, &'static str)>,
        delta: bool,
    ) -> Self {
        let MetastoreSettings { addresses, database, table, location } = settings;
        let lake = Lake { database, table, location, columns, delta };
        let pending = PendingPartitions::default();
        Self(Arc::new(Shared { addresses, lake, pending, trouble: Mutex::default() }))
    }

    /// Notes that a file of the partition was stored.
    pub(in crate::warehouse) fn note(&self, partition: &Partition) {
        self.0.pending.add(partition);
    }

    /// A message for operators; `None` when all is well.
    pub(in crate::warehouse) fn trouble(&self) -> Option<String> {
        let trouble = self.0.trouble.lock().clone()?;
        let advice = "events are stored and acknowledged all the same";
        Some(match self.0.pending.len() {
            0 => format!("Hive Metastore: {trouble}; {advice}"),
            count => format!("Hive Metastore: {trouble}; {count} partitions wait to be registered, {advice}"),
        })
    }

    /// Drops a partition whose files are about to be removed. Does nothing when it is not registered.
    pub(in crate::warehouse) async fn drop_partition(&self, partition: &Partition) -> Result<(), WarehouseError> {
        let lake = &self.0.lake;
        // A repair command may have added it under the name of its path.
        let mut names = vec![table::partition_name(partition), table::name_by_path(partition)];
        names.dedup();
        let mut client = Client::new(self.0.addresses.clone());
        let dropped = client.drop_partitions(&lake.database, &lake.table, names).await;
        dropped.map_err(|failure| {
            metrics::hive_failure(failure.kind.name());
            let (kind, text) = (WarehouseErrorKind::Unavailable, failure.to_string());
            WarehouseError::caused(kind, "drop partition in the Hive Metastore", text)
        })?;
        self.0.pending.mark_dropped(partition);
        Ok(())
    }
}
