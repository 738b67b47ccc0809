//! Asks the backends how they are, and tells readiness.

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

/// How often a server is asked whether it is there.
const SERVER_INTERVAL: Duration = Duration::from_secs(2);
/// How often the files of an embedded engine are looked at: what happens to them is told within two seconds.
const FILES_INTERVAL: Duration = Duration::from_secs(1);

const SHORT_OF_ROOM: &str = "some requests are refused: there are too many, or they hold all the memory that they may \
    (causality_http_refused_total tells of which: http_memory_max, http_max_requests, http_body_memory_max, http_max_connections)";

/// The backends whose state readiness tells: servers can be away while the process is there, and files can be removed,
/// their disk be full or damaged, while nothing is written.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) bus: (&'static str, Bus),
    pub(super) store: Option<(&'static str, Store)>,
    pub(super) sink: Option<SinkStatus>,
    pub(super) warehouse: Option<Warehouse>,
    pub(super) retention: Option<RetentionStatus>,
    /// The bus of a process that may give messages up.
    pub(super) dead_letters: Option<Bus>,
    /// What requests hold.
    pub(super) memory: MemoryBudget,
    pub(super) readiness: Readiness,
}

impl Watched {
    /// Each by itself, so that one that does not answer keeps none of the others from being told.
    pub(super) async fn watch(self, stop: CancellationToken) -> anyhow::Result<()> {
        let (name, bus) = &self.bus;
        let bus = self.ask(name, &stop, || async {
            let answer = bus.ping().await.map_err(|error| chain(&error));
            bus.warnings().into_iter().for_each(|(key, text)| self.readiness.set_warning(key, text));
            self.tell_dead_letters().await;
            answer
        });
        let store = async {
            let Some((name, store)) = &self.store else { return };
            self.ask(name, &stop, || async {
                if let Some((key, text)) = store.warning() {
                    self.readiness.set_warning(key, text);
                }
                store.ping().await.map_err(|error| chain(&error))
            })
            .await;
        };
        let warehouse = async {
            let Some(sink) = &self.sink else { return };
            self.ask("warehouse", &stop, || async {
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
        tokio::join!(bus, store, warehouse, self.tell_shortage(&stop));
        Ok(())
    }

    async fn ask<F: Future<Output = Result<(), String>>>(
        &self,
        component: &'static str,
        stop: &CancellationToken,
        question: impl Fn() -> F,
    ) {
        let interval = if matches!(component, "bus_file" | "store") { FILES_INTERVAL } else { SERVER_INTERVAL };
        loop {
            self.tell(component, question().await);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(interval) => {}
            }
        }
    }

    /// Whether requests were refused since the last look.
    async fn tell_shortage(&self, stop: &CancellationToken) {
        let mut refused = self.memory.refused();
        loop {
            let before = std::mem::replace(&mut refused, self.memory.refused());
            self.readiness.set_warning("http_memory", (refused > before).then(|| SHORT_OF_ROOM.to_owned()));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(SERVER_INTERVAL) => {}
            }
        }
    }

    /// While they cannot be counted, what was said last stands.
    async fn tell_dead_letters(&self) {
        if let Some(bus) = &self.dead_letters
            && let Ok(count) = bus.dead_letter_count().await
        {
            let text = || format!("{count} dead letters: `causality dead-letters list` shows them and why");
            self.readiness.set_warning("dead_letters", (count > 0).then(text));
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
