//! Which messages of a fetch are in the warehouse already.
//!
//! The footers' sequence ranges answer for nearly all of them from memory; only a message
//! that falls into a range costs a look at that file's ids.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use futures_util::stream::{self, StreamExt as _};

use crate::bus::Delivery;
use crate::event::EventRef;
use crate::metrics;
use crate::warehouse::{Partition, Suspect, Warehouse, WarehouseError, hour_of, is_path_safe};

use super::batches::read;

/// Partitions that are looked into at once: each costs some round trips, and a sink may be behind in hundreds.
const PARTITIONS_AT_ONCE: usize = 8;

/// Of an app, one hour since the Unix epoch.
type PartitionKey<'a> = (&'a str, i64);

/// The sequences of those deliveries whose rows the warehouse holds.
pub(super) async fn stored(warehouse: &Warehouse, deliveries: &[Delivery]) -> Result<HashSet<u64>, WarehouseError> {
    let look = |((app_id, hour), suspects): (PartitionKey, _)| {
        stored_in(warehouse, Partition { app_id: app_id.to_owned(), hour }, suspects)
    };
    let looks: Vec<_> = by_partition(deliveries).into_iter().map(look).collect();
    stream::iter(looks).buffer_unordered(PARTITIONS_AT_ONCE).try_concat().await
}

async fn stored_in(
    warehouse: &Warehouse,
    partition: Partition,
    suspects: Vec<&Delivery>,
) -> Result<HashSet<u64>, WarehouseError> {
    // Listed anew for every fetch: whoever had the message before has stored it, if at
    // all, before its lease ended, and so before it came to us.
    let footers = warehouse.footers(&partition).await?;
    let sequences = || suspects.iter().map(|delivery| delivery.sequence());
    let footers = footers.reaching(sequences().min().unwrap_or(0), sequences().max().unwrap_or(0));
    let held = |delivery: &&&Delivery| footers.may_hold(delivery.sequence());
    let candidates: Vec<Suspect> = suspects.iter().filter(held).filter_map(|delivery| suspect(delivery)).collect();
    metrics::sink_suspects(suspects.len() as u64, candidates.len() as u64);
    if candidates.is_empty() {
        return Ok(HashSet::new());
    }
    let sequences: Vec<u64> = candidates.iter().map(|candidate| candidate.sequence).collect();
    let confirmed = warehouse.confirm(footers, candidates).await?;
    Ok(sequences.into_iter().zip(confirmed).filter(|(_, held)| *held).map(|(sequence, _)| sequence).collect())
}

fn by_partition(deliveries: &[Delivery]) -> Vec<(PartitionKey<'_>, Vec<&Delivery>)> {
    let mut partitions: Vec<(PartitionKey, Vec<&Delivery>)> = Vec::new();
    let mut places: HashMap<PartitionKey, usize> = HashMap::new();
    // Neighbours mostly share a partition.
    let mut last = None;
    for delivery in deliveries.iter().filter(|delivery| delivery.possibly_redelivered) {
        // What cannot be read was never written. Of what can be, no more is read than says where to look.
        let Ok((app_id, timestamp_ms)) = EventRef::app_and_timestamp(delivery.payload()) else { continue };
        let key = (app_id, hour_of(timestamp_ms, delivery.published_at_ms));
        let place = match last {
            Some((known, place)) if known == key => place,
            _ if !is_path_safe(app_id) => continue,
            _ => *places.entry(key).or_insert_with(|| {
                partitions.push((key, Vec::new()));
                partitions.len() - 1
            }),
        };
        last = Some((key, place));
        partitions[place].1.push(delivery);
    }
    partitions
}

fn suspect(delivery: &Delivery) -> Option<Suspect> {
    let event = read(delivery).ok()?;
    Some(Suspect { sequence: delivery.sequence(), id: event.id.to_owned() })
}
