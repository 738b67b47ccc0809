//! The next messages, with what of them the warehouse holds already.

use std::collections::HashSet;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::base::backoff::random_unit;
use crate::bus::{Acker, BusError, BusErrorKind, Delivery, LeaseGrant, Receipt, Subscription, TrialOutcome};
use crate::metrics;
use crate::warehouse::{Warehouse, WarehouseErrorKind};

use super::SinkError;
use super::lease::Lease;
use super::status::WorkerStatus;
use super::suspects;
use super::upload::RETRY;

/// When little comes, waiting this long lets more come together. No longer than the encoder is busy with what came
/// before: of a backlog, too, a server brings little at a time to those who ask often.
const LINGER: Duration = Duration::from_millis(5);

/// Messages that came together.
pub(super) struct Chunk {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) leased: LeaseGrant,
    /// The sequences whose rows the warehouse holds.
    pub(super) stored: HashSet<u64>,
}

/// The subscription back from a fetch, with what it brought.
pub(super) struct Fetched {
    pub(super) subscription: Subscription,
    pub(super) deliveries: Result<Vec<Delivery>, BusError>,
}

/// Waits for messages, or until `ended`. `limits` are messages and bytes.
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

/// Looks the suspects up, renewing the leases of all meanwhile. To begin only when the messages are here: whoever had
/// them before has stored them by now, if at all. The trial of isolated ones begins when they are looked up: however
/// long that takes and whatever ends the process meanwhile, it says nothing against them.
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

/// Asks until the warehouse answers: what cannot be looked up must not be written.
async fn stored(
    warehouse: &Warehouse,
    deliveries: &[Delivery],
    status: &WorkerStatus,
) -> Result<HashSet<u64>, SinkError> {
    let mut attempt = 0;
    loop {
        match suspects::stored(warehouse, deliveries).await {
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
