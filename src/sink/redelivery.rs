//! Looks up which possibly redelivered messages the warehouse already holds.
//!
//! The sequence sets of the footers answer for nearly all of them from memory. Only a message
//! whose sequence is in a set costs a look at that file's ids.

use std::collections::{HashMap, HashSet};

use futures_util::TryStreamExt as _;
use futures_util::stream::{self, StreamExt as _};

use super::open::read;
use crate::bus::Delivery;
use crate::event::EventRef;
use crate::metrics;
use crate::warehouse::{Partition, RowId, Warehouse, WarehouseError, hour_of, is_path_safe};

/// Partitions that are looked up concurrently. Each costs some round trips, and a sink may be behind in hundreds.
const PARTITIONS_AT_ONCE: usize = 8;

/// An app and an hour since the Unix epoch.
type PartitionKey<'a> = (&'a str, i64);

/// The sequences of the deliveries that the warehouse already holds.
pub(super) async fn stored(warehouse: &Warehouse, deliveries: &[Delivery]) -> Result<HashSet<u64>, WarehouseError> {
    let look_up = |((app_id, hour), redelivered): (PartitionKey, _)| {
        stored_in(warehouse, Partition { app_id: app_id.to_owned(), hour }, redelivered)
    };
    let look_ups: Vec<_> = by_partition(deliveries).into_iter().map(look_up).collect();
    stream::iter(look_ups).buffer_unordered(PARTITIONS_AT_ONCE).try_concat().await
}

async fn stored_in(
    warehouse: &Warehouse,
    partition: Partition,
    redelivered: Vec<&Delivery>,
) -> Result<HashSet<u64>, WarehouseError> {
    // List again for every fetch: the message's previous consumer has stored it, if at
    // all, before its lease ended, hence before it was delivered to us.
    let footers = warehouse.footers(&partition).await?;
    let sequences = || redelivered.iter().map(|delivery| delivery.sequence());
    let footers = footers.reaching(sequences().min().unwrap_or(0), sequences().max().unwrap_or(0));
    let may_be_stored = |delivery: &&&Delivery| footers.may_hold(delivery.sequence());
    let candidates: Vec<RowId> =
        redelivered.iter().filter(may_be_stored).filter_map(|delivery| row_id(delivery)).collect();
    metrics::sink_suspects(redelivered.len() as u64, candidates.len() as u64);
    if candidates.is_empty() {
        return Ok(HashSet::new());
    }
    let sequences: Vec<u64> = candidates.iter().map(|candidate| candidate.sequence).collect();
    let confirmed = warehouse.confirm(footers, candidates).await?;
    Ok(sequences.into_iter().zip(confirmed).filter(|(_, is_stored)| *is_stored).map(|(sequence, _)| sequence).collect())
}

fn by_partition(deliveries: &[Delivery]) -> Vec<(PartitionKey<'_>, Vec<&Delivery>)> {
    let mut partitions: Vec<(PartitionKey, Vec<&Delivery>)> = Vec::new();
    let mut places: HashMap<PartitionKey, usize> = HashMap::new();
    // Adjacent messages mostly share a partition.
    let mut last = None;
    for delivery in deliveries.iter().filter(|delivery| delivery.possibly_redelivered) {
        // An unreadable message was never written. Decode only the fields that determine the partition.
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

fn row_id(delivery: &Delivery) -> Option<RowId> {
    let event = read(delivery).ok()?;
    Some(RowId { sequence: delivery.sequence(), id: event.id.to_owned() })
}
