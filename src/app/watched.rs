//! What readiness tells of the backends, looked at every few seconds.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::bus::Bus;
use crate::causes::chain;
use crate::http::Readiness;
use crate::sink::SinkStatus;
use crate::store::Store;
use crate::warehouse::Warehouse;

/// How often the backends are asked whether they are there.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// The backends whose state readiness tells: those that can be away while the process is there.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) bus: Option<Bus>,
    pub(super) store: Option<Store>,
    pub(super) sink: Option<SinkStatus>,
    pub(super) warehouse: Option<Warehouse>,
    /// The bus of a process that may give messages up.
    pub(super) dead_letters: Option<Bus>,
    pub(super) readiness: Readiness,
}

impl Watched {
    pub(super) async fn watch(self, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let (bus, store) =
                tokio::join!(async { Some(self.bus.as_ref()?.ping().await.map_err(|error| chain(&error))) }, async {
                    Some(self.store.as_ref()?.ping().await.map_err(|error| chain(&error)))
                },);
            for (key, text) in self.bus.iter().flat_map(Bus::warnings) {
                self.readiness.set_warning(key, text);
            }
            let warehouse = self.sink.as_ref().map(|sink| sink.trouble().map_or(Ok(()), Err));
            for (component, state) in [("nats", bus), ("postgres", store), ("warehouse", warehouse)] {
                if let Some(state) = state {
                    self.tell(component, state);
                }
            }
            if let Some(warehouse) = &self.warehouse {
                self.readiness.set_warning("unreadable files", warehouse.damage());
            }
            // While they cannot be counted, what was said last stands.
            if let Some(bus) = &self.dead_letters
                && let Ok(count) = bus.dead_letter_count().await
            {
                let text = || format!("{count} dead letters: `causality dead-letters list` shows them and why");
                self.readiness.set_warning("dead_letters", (count > 0).then(text));
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
            }
        }
    }

    fn tell(&self, component: &'static str, state: Result<(), String>) {
        match (self.readiness.failing(component), &state) {
            (false, Err(reason)) => warn!(component, reason, "unready"),
            (true, Ok(())) => info!(component, "ready again"),
            _ => {}
        }
        self.readiness.set(component, state);
    }
}
