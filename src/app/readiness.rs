//! Polls the backends and updates readiness.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::retention::RetentionStatus;
use crate::base::errors::chain;
use crate::bus::Bus;
use crate::http::{MemoryBudget, Readiness};
use crate::sink::SinkStatus;
use crate::store::Store;
use crate::warehouse::Warehouse;

/// How often a server is pinged.
const SERVER_INTERVAL: Duration = Duration::from_secs(2);
/// How often the files of an embedded engine are checked. Readiness reports a fault within two seconds.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

const REFUSALS: &str = "some requests are refused: there are too many, or they hold all the memory that they may \
    (causality_http_refused_total tells of which: http_memory_max, http_max_requests, http_body_memory_max, http_max_connections)";

/// The backends whose state readiness reports. A server can be away while this process runs; files can be removed, and
/// their disk can fill up or fail, while nothing is written.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) bus: (&'static str, Bus),
    pub(super) store: Option<(&'static str, Store)>,
    pub(super) sink: Option<SinkStatus>,
    pub(super) warehouse: Option<Warehouse>,
    pub(super) retention: Option<RetentionStatus>,
    /// The bus, if this process may dead-letter messages.
    pub(super) dead_letters: Option<Bus>,
    /// The memory that requests use.
    pub(super) memory: MemoryBudget,
    pub(super) readiness: Readiness,
}

impl Watched {
    /// Polls each backend independently, so that one that hangs does not hide the others.
    pub(super) async fn watch(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (name, bus) = &self.bus;
        let bus = self.poll(name, &stop, || async {
            let answer = bus.ping().await.map_err(|error| chain(&error));
            bus.warnings().into_iter().for_each(|(key, text)| self.readiness.set_warning(key, text));
            self.warn_of_dead_letters().await;
            answer
        });
        let store = async {
            let Some((name, store)) = &self.store else { return };
            self.poll(name, &stop, || async {
                if let Some((key, text)) = store.warning() {
                    self.readiness.set_warning(key, text);
                }
                store.ping().await.map_err(|error| chain(&error))
            })
            .await;
        };
        let warehouse = async {
            let Some(sink) = &self.sink else { return };
            self.poll("warehouse", &stop, || async {
                if let Some(warehouse) = &self.warehouse {
                    self.readiness.set_warning("unreadable files", warehouse.damage());
                    self.readiness.set_warning("delta log", warehouse.log_trouble());
                    self.readiness.set_warning("hive metastore", warehouse.metastore_trouble());
                }
                if let Some(retention) = &self.retention {
                    self.readiness.set_warning("retention", retention.trouble());
                }
                sink.trouble().map_or(Ok(()), Err)
            })
            .await;
        };
        tokio::join!(bus, store, warehouse, self.warn_of_refusals(&stop));
        Ok(())
    }

    async fn poll<F: Future<Output = Result<(), String>>>(
        &self,
        component: &'static str,
        stop: &CancellationToken,
        check: impl Fn() -> F,
    ) {
        let interval = if matches!(component, "bus_file" | "store") { FILES_INTERVAL } else { SERVER_INTERVAL };
        loop {
            self.set(component, check().await);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Warns if requests were refused since the last interval.
    async fn warn_of_refusals(&self, stop: &CancellationToken) {
        let mut refused = self.memory.refused();
        loop {
            let before = std::mem::replace(&mut refused, self.memory.refused());
            self.readiness.set_warning("http_memory", (refused > before).then(|| REFUSALS.to_owned()));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SERVER_INTERVAL) => {}
            }
        }
    }

    /// Keeps the last warning while the dead letters cannot be counted.
    async fn warn_of_dead_letters(&self) {
        if let Some(bus) = &self.dead_letters
            && let Ok(count) = bus.dead_letter_count().await
        {
            let text = || format!("{count} dead letters: `causality dead-letters list` shows them and why");
            self.readiness.set_warning("dead_letters", (count > 0).then(text));
        }
    }

    fn set(&self, component: &'static str, state: Result<(), String>) {
        match (self.readiness.failing(component), &state) {
            (false, Err(reason)) => warn!(component, reason, "unready"),
            (true, Ok(())) => info!(component, "ready again"),
            _ => {}
        }
        self.readiness.set(component, state);
    }
}
