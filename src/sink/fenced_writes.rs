//! Reconciling fenced writes: files that became visible after the leases of their messages had ended.
//!
//! Invariant: a marked fenced write is reconciled, either by the sink that made it or, if that one
//! has died, by any other. The warehouse decides which rows stay.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::retry::RETRY;
use crate::base::backoff::random_unit;
use crate::warehouse::{FencedWrite, Reconciled, Warehouse};

/// How long a fenced write waits for others that have to be reconciled first; after that, something is wrong with them.
const RECONCILE_PATIENCE: Duration = Duration::from_secs(600);
/// Lease times after which the process that marked a fenced write has had every chance to reconcile it.
const ABANDONED_AFTER: u32 = 4;

/// Reconciles a marked fenced write, retrying for as long as the warehouse fails.
pub(super) async fn reconcile(write: &FencedWrite, warehouse: &Warehouse) {
    let (began, mut attempt, name) = (Instant::now(), 0, write.name.as_str());
    loop {
        match warehouse.reconcile_fenced_write(write, began.elapsed() < RECONCILE_PATIENCE).await {
            Ok(Reconciled::Unchanged) => return,
            Ok(Reconciled::Removed { rows }) => return warn!(rows, name, "late file removed: others hold its rows"),
            Ok(Reconciled::Replaced { removed: given_up, kept, duplicated: 0 }) => {
                return warn!(given_up, kept, name, "late file replaced: others hold some of its rows");
            }
            Ok(Reconciled::Replaced { removed: given_up, kept, duplicated: doubled }) => {
                return error!(doubled, given_up, kept, name, "rows of a late file are in an unsettled late file too");
            }
            // The damage was already reported.
            Ok(Reconciled::Unreadable) => return,
            Ok(Reconciled::Blocked { rows }) => debug!(rows, name, "another late file has to be settled first"),
            Err(error) => warn!(%error, attempt, "late file could not be settled, trying again"),
        }
        attempt += 1;
        tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
    }
}

/// Reconciles the fenced writes of sinks that were killed, until `stop`.
pub async fn reconcile_abandoned(warehouse: Warehouse, ack_wait: Duration, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = look(&warehouse, ack_wait * ABANDONED_AFTER) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(ack_wait * 2) => {}
        }
    }
}

async fn look(warehouse: &Warehouse, patience: Duration) {
    match warehouse.abandoned_fenced_writes(patience).await {
        Ok(abandoned) => {
            for write in abandoned {
                warn!(name = write.name, partition = %write.partition, "late file of a sink that is gone");
                reconcile(&write, warehouse).await;
            }
        }
        Err(error) => warn!(%error, "late files could not be looked for"),
    }
}
