//! Keeps the bus small and its gauges current, and notices when it is gone for good.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::base::errors::chain;
use crate::base::supervisor::Stage;
use crate::bus::Bus;

/// How often acknowledged events are purged and gauges are set.
const INTERVAL: Duration = Duration::from_secs(10);

pub(super) fn start(stage: &Stage, bus: &Bus) {
    let purged = bus.clone();
    stage.supervise("janitor", move |stop| janitor(purged.clone(), stop));
    let connected = bus.clone();
    stage.supervise_once("bus connection", move |stop| connection(connected.clone(), stop));
}

/// Fails when the connection to the bus is closed for good: nothing in this process would ever work again.
async fn connection(bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        error = bus.until_reconnects_exhausted() => Err(error.into()),
        () = stop.cancelled() => Ok(()),
    }
}

/// Purges what every consumer has acknowledged.
async fn janitor(bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match bus.purge_acknowledged().await {
            Ok(0) => {}
            Ok(purged) => info!(purged, "purged acknowledged events"),
            Err(error) => warn!(error = %chain(&error), "cannot purge acknowledged events"),
        }
        // Reading the status sets the gauges.
        if let Err(error) = bus.status().await {
            warn!(error = %chain(&error), "cannot read the state of the bus");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
