//! The null gateway: everything up to the bus, for measurements.

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::listeners::Listeners;
use super::plan::Plan;
use super::settings;
use super::signals::Signals;
use crate::gateway::{self, Destination};
use crate::http::Readiness;

/// Validates events and drops them, until a signal.
pub(super) async fn run(
    plan: &Plan,
    limits: &Listeners,
    listener: TcpListener,
    mut stop: Signals,
) -> anyhow::Result<()> {
    let token = CancellationToken::new();
    let address = listener.local_addr()?;
    let serving = gateway::serve(
        listener,
        settings::gateway(&plan.loaded.config, limits),
        Destination::Discard,
        Readiness::new(),
        token.clone(),
    );
    warn!(http = %address, "null gateway: events are checked and dropped");
    tokio::pin!(serving);
    tokio::select! {
        _ = &mut serving => anyhow::bail!("the listener ended"),
        _ = stop.first() => token.cancel(),
    }
    stop.exit_on_second();
    serving.await;
    Ok(())
}
