//! The next messages, with what of them the warehouse holds already.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{error, warn};

use crate::backoff::random_unit;
use crate::bus::{BusError, BusErrorKind, Delivery, Leased, Receipt, Subscription};
use crate::metrics;
use crate::warehouse::{Warehouse, WarehouseErrorKind};

use super::SinkError;
use super::lease::Lease;
use super::status::WorkerStatus;
use super::suspects;
use super::upload::RETRY;

/// When little comes, waiting this long lets more come together.
const LINGER: Duration = Duration::from_millis(25);

/// Messages that came together.
pub(super) struct Chunk {
    pub(super) deliveries: Vec<Delivery>,
    pub(super) leased: Leased,
    /// The sequences whose rows the warehouse holds.
    pub(super) stored: HashSet<u64>,
}

/// The subscription back from a fetch, with what it brought.
pub(super) struct Fetched {
    pub(super) subscription: Subscription,
    pub(super) chunk: Result<Chunk, SinkError>,
}

/// Waits for messages and looks the suspects among them up. `limits` are messages and bytes; `holds` says whether
/// there are some.
pub(super) async fn fetch(
    mut subscription: Subscription,
    warehouse: Warehouse,
    status: WorkerStatus,
    limits: (usize, usize),
    ack_wait: Duration,
    linger: bool,
    holds: Arc<AtomicBool>,
) -> Fetched {
    if linger {
        tokio::time::sleep(LINGER).await;
    }
    let chunk = match deliveries(&mut subscription, limits).await {
        Ok(deliveries) => {
            holds.store(true, Ordering::Relaxed);
            look_up(deliveries, &subscription, (&warehouse, &status), ack_wait).await
        }
        Err(error) => Err(error.into()),
    };
    holds.store(false, Ordering::Relaxed);
    Fetched { subscription, chunk }
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

async fn look_up(
    deliveries: Vec<Delivery>,
    subscription: &Subscription,
    (warehouse, status): (&Warehouse, &WorkerStatus),
    ack_wait: Duration,
) -> Result<Chunk, SinkError> {
    let leased = subscription.leased();
    if !deliveries.iter().any(|delivery| delivery.suspect) {
        return Ok(Chunk { deliveries, leased, stored: HashSet::new() });
    }
    let lease = Lease::new(leased.clone(), ack_wait);
    let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt).collect();
    match lease.keep(&subscription.acker(), &receipts, stored(warehouse, &deliveries, status)).await {
        Ok(stored) => Ok(Chunk { stored: stored?, leased: lease.leased().unwrap_or(leased), deliveries }),
        Err(_) => {
            warn!(messages = deliveries.len(), "messages given up: their leases lapsed while they were looked up");
            metrics::sink_lapsed_rows(deliveries.len() as u64);
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
