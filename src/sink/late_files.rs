//! Files that became visible when others may have had their messages already: each row stays in one.
//!
//! Invariant: a late file that is marked is settled, by the sink that stored it or, when that one
//! died meanwhile, by any other. The warehouse decides which rows go.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::upload::RETRY;
use crate::base::backoff::random_unit;
use crate::warehouse::{LateFile, Settled, Warehouse};

/// How long a late file waits for others that have to be settled before it; then something is wrong with them.
const SETTLE_PATIENCE: Duration = Duration::from_secs(600);
/// Lease times after which whoever marked a late file has had every chance to settle it.
const ABANDONED_AFTER: u32 = 4;

/// Settles a file that is marked, however long the warehouse refuses.
pub(super) async fn settle(late: &LateFile, warehouse: &Warehouse) {
    let (began, mut attempt, name) = (Instant::now(), 0, late.name.as_str());
    loop {
        match warehouse.settle_late_file(late, began.elapsed() < SETTLE_PATIENCE).await {
            Ok(Settled::Alone) => return,
            Ok(Settled::Removed { rows }) => return warn!(rows, name, "late file removed: others hold its rows"),
            Ok(Settled::Replaced { given_up, kept, doubled: 0 }) => {
                return warn!(given_up, kept, name, "late file replaced: others hold some of its rows");
            }
            Ok(Settled::Replaced { given_up, kept, doubled }) => {
                return error!(doubled, given_up, kept, name, "rows of a late file are in an unsettled late file too");
            }
            // It was told of by its name.
            Ok(Settled::Unreadable) => return,
            Ok(Settled::MustWait { rows }) => debug!(rows, name, "another late file has to be settled first"),
            Err(error) => warn!(%error, attempt, "late file could not be settled, trying again"),
        }
        attempt += 1;
        tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
    }
}

/// Settles what sinks left behind that were killed, until `stop`.
pub async fn settle_abandoned(warehouse: Warehouse, ack_wait: Duration, stop: CancellationToken) {
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
    match warehouse.abandoned_late_files(patience).await {
        Ok(abandoned) => {
            for late in abandoned {
                warn!(name = late.name, partition = %late.partition, "late file of a sink that is gone");
                settle(&late, warehouse).await;
            }
        }
        Err(error) => warn!(%error, "late files could not be looked for"),
    }
}
