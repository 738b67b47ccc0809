//! Finds the partitions of the lake that the metastore lacks, and adds them.
//!
//! Invariant: at most one year of one app is in memory, and the lake is listed no faster than the metastore answers.

use std::collections::HashSet;

use tokio::sync::mpsc;
use tracing::info;

use super::error::{Failure, FailureKind};
use super::registrar::Registrar;
use super::table;
use crate::warehouse::Warehouse;
use crate::warehouse::layout::Partition;

/// Partitions listed ahead of the comparison.
const AHEAD_MAX: usize = 1_000;
/// Refused calls after which the reconciliation gives up.
const REFUSALS_MAX: usize = 10;

impl Registrar {
    pub(super) async fn reconcile(&mut self, warehouse: &Warehouse) -> Result<(), Failure> {
        self.duplicated = 0;
        let (found, mut coming) = mpsc::channel(AHEAD_MAX);
        let listing = async {
            let listed = warehouse.list_partitions(move |partition| found.blocking_send(partition).is_ok()).await;
            listed.map_err(Failure::from)
        };
        let comparing = async move {
            let (mut group, mut total, mut missing, mut refusals) = (Vec::new(), 0, 0, 0);
            loop {
                let partition = coming.recv().await;
                let ends = |group: &[Partition], next: &Partition| {
                    group.first().is_some_and(|first| year(first) != year(next))
                };
                if partition.as_ref().is_none_or(|next| ends(&group, next)) {
                    total += group.len();
                    missing += self.add_missing(warehouse, &group, &mut refusals).await?;
                    group.clear();
                }
                match partition {
                    Some(partition) => group.push(partition),
                    None => return Ok::<_, Failure>((total, missing)),
                }
            }
        };
        let ((), (total, missing)) = tokio::try_join!(listing, comparing)?;
        info!(partitions = total, missing, "partitions of the lake compared with the Hive Metastore");
        Ok(())
    }

    /// Adds the missing partitions of one app and year and returns how many there were.
    async fn add_missing(
        &mut self,
        warehouse: &Warehouse,
        group: &[Partition],
        refusals: &mut usize,
    ) -> Result<usize, Failure> {
        let Some(first) = group.first() else { return Ok(0) };
        let shared = self.shared.clone();
        let (lake, (app_id, year)) = (&shared.lake, year(first));
        let values = [app_id.to_owned(), year.to_string(), String::new(), String::new(), String::new()];
        let names = self.client.partition_names(&lake.database, &lake.table, values.into()).await?;
        let there: HashSet<&str> = names.iter().map(String::as_str).collect();
        let is_there = |partition: &Partition| there.contains(table::partition_name(partition).as_str());
        let (known, missing): (Vec<_>, Vec<_>) = group.iter().cloned().partition(is_there);
        let by_path = |partition: &&Partition| {
            let name = table::name_by_path(partition);
            there.contains(name.as_str()) && name != table::partition_name(partition)
        };
        self.duplicated += group.iter().filter(by_path).count();
        shared.pending.mark_registered(&known);
        missing.iter().for_each(|partition| shared.pending.add(partition));
        // Includes partitions that were stored meanwhile: comparing a large lake takes long.
        match self.add_pending(warehouse).await {
            Err(failure) if failure.kind == FailureKind::Refused && *refusals < REFUSALS_MAX => *refusals += 1,
            added => added?,
        }
        Ok(missing.len())
    }
}

fn year(partition: &Partition) -> (&str, i16) {
    (&partition.app_id, partition.date().0)
}
