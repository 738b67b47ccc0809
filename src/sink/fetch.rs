//! Fetches messages and looks up which of them the warehouse already holds.

use std::collections::HashSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::error::SinkError;
use super::lease::Lease;
use super::redelivery;
use super::retry::RETRY;
use super::status::WorkerStatus;
use crate::base::backoff::random_unit;
use crate::bus::{Acker, BusError, BusErrorKind, Delivery, LeaseGrant, Receipt, Subscription, TrialOutcome};
use crate::metrics;
use crate::warehouse::{Warehouse, WarehouseErrorKind};

/// When little arrives, waiting this long makes larger fetches. It is no longer than the encoder is busy with the previous
/// chunk: even from a backlog, a server returns little per request to a client that asks often.
const LINGER: Duration = Duration::from_millis(5);

/// Messages of one fetch.
pub(super) struct Chunk {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) leased: LeaseGrant,
    /// The sequences that the warehouse already holds.
    pub(super) stored: HashSet<u64>,
}

/// The subscription returned by a fetch, with its result.
pub(super) struct Fetched {
    pub(super) subscription: Subscription,
    pub(super) deliveries: Result<Vec<Delivery>, BusError>,
}

/// Waits for messages or for `ended`. `limits` are messages and bytes.
pub(super) async fn fetch(
    mut subscription: Subscription,
    limits: (usize, usize),
    linger: bool,
    ended: CancellationToken,
) -> Fetched {
    let fetching = async {
        if linger {
            tokio::time::sleep(LINGER).await;
        }
        deliveries(&mut subscription, limits).await
    };
    let deliveries = ended.run_until_cancelled(fetching).await.unwrap_or_else(|| Ok(Vec::new()));
    Fetched { subscription, deliveries }
}

async fn deliveries(subscription: &mut Subscription, limits: (usize, usize)) -> Result<Vec<Delivery>, BusError> {
    let mut attempt = 0;
    loop {
        match subscription.fetch(limits.0, limits.1).await {
            Err(error) if matches!(error.kind, BusErrorKind::Unavailable | BusErrorKind::Full) => {
                attempt += 1;
                warn!(%error, attempt, "messages could not be fetched, trying again");
                tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
            }
            done => return done,
        }
    }
}

/// Looks up the possibly redelivered messages, renewing the leases of all of them meanwhile. Must start after the messages
/// have arrived: their previous consumer has stored them by now, if at all. The trial of isolated messages begins only
/// after the look-up: whatever ends the process before that is not held against them.
pub(super) async fn look_up(
    deliveries: Vec<Delivery>,
    leased: LeaseGrant,
    ack_wait: Duration,
    acker: Acker,
    (warehouse, status): (Warehouse, WorkerStatus),
) -> Result<Chunk, SinkError> {
    let isolated = deliveries.first().is_some_and(|delivery| delivery.isolated);
    if !isolated && !deliveries.iter().any(|delivery| delivery.possibly_redelivered) {
        return Ok(Chunk { deliveries, leased, stored: HashSet::new() });
    }
    let lease = Lease::new(leased.clone(), ack_wait);
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt).collect();
    let looking = async {
        let stored = stored(&warehouse, &deliveries, &status).await;
        if isolated && stored.is_ok() {
            acker.begin_trial(&receipts).await;
        }
        stored
    };
    match lease.keep(&acker, &receipts, looking).await {
        Ok(stored) => Ok(Chunk { stored: stored?, leased: lease.leased().unwrap_or(leased), deliveries }),
        Err(_) => {
            warn!(messages = deliveries.len(), "messages given up: their leases lapsed while they were looked up");
            metrics::sink_lapsed_rows(deliveries.len() as u64);
            if isolated {
                acker.end_trial(TrialOutcome::Withdrawn).await;
            }
            Ok(Chunk { deliveries: Vec::new(), leased, stored: HashSet::new() })
        }
    }
}

/// Retries until the warehouse answers: a message that cannot be looked up must not be written.
async fn stored(
    warehouse: &Warehouse,
    deliveries: &[Delivery],
    status: &WorkerStatus,
) -> Result<HashSet<u64>, SinkError> {
    let mut attempt = 0;
    loop {
        match redelivery::stored(warehouse, deliveries).await {
            Ok(stored) => {
                if attempt > 0 {
                    status.recovered();
                }
                return Ok(stored);
            }
            Err(error) => {
                attempt += 1;
                metrics::sink_store_failures(error.kind.name());
                match error.kind {
                    WarehouseErrorKind::Corrupt if attempt == 1 => error!(%error, "suspects could not be looked up"),
                    _ => warn!(%error, attempt, "suspects could not be looked up, trying again"),
                }
                status.update(|figures| figures.trouble = Some(error.to_string()));
                tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
            }
        }
    }
}
