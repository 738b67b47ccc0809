//! Starts the roles of this process, each in a stage of its own. The stages stop in the order in which they start.

use std::time::Duration;

use tokio::net::TcpListener;

use super::choice::Choice;
use super::engines::Engines;
use super::listeners::Listeners;
use super::readiness::Watched;
use super::settings::{self, Budgets};
use super::sockets::Socket;
use super::start_failure::{StartFailure, StartFailureKind};
use super::{abandoned, admin_access, fatal, janitor, lake};
use crate::base::supervisor::{Stage, Supervisor, Tasks};
use crate::config::Config;
use crate::gateway::{self, Access, Destination, KeyRing};
use crate::http::Readiness;
use crate::reaction::{self, run_dispatcher, run_engine};
use crate::sink::{self, SinkStatus};
use crate::store::Store;
use crate::warehouse::Warehouse;

/// How long a gateway that starts leaves its clients waiting for the first reading of the API keys. Then it serves those
/// who need none, and answers 503 to the others.
const KEYS_WAIT: Duration = Duration::from_secs(2);

/// What the roles are started with.
pub(super) struct Roles<'a> {
    pub(super) config: &'a Config,
    pub(super) choice: &'a Choice,
    pub(super) engines: &'a Engines,
    pub(super) readiness: &'a Readiness,
    pub(super) limits: &'a Listeners,
}

impl Roles<'_> {
    /// Starts those that this process has, and the services that every process has.
    pub(super) fn start(
        &self,
        supervisor: &mut Supervisor,
        gateway_socket: Option<(Socket, TcpListener)>,
    ) -> anyhow::Result<SinkStatus> {
        let Self { config, choice, engines, readiness, limits } = *self;
        let budgets = Budgets::of(config);
        let status = SinkStatus::default();
        let key_store = engines.store.clone().filter(|_| choice.keys);
        let key_ring = key_store.map(|store| KeyRing::new(store, readiness.clone()));
        if let Some(socket) = gateway_socket {
            let access = key_ring.clone().map_or(Access::Open, Access::Keys);
            self.start_gateway(&supervisor.stage("gateway", budgets.gateway), access, socket);
        }
        let (mut metastore, mut retention) = (None, None);
        if let Some(warehouse) = &engines.warehouse {
            let stage = supervisor.stage("sink", budgets.sink);
            metastore =
                settings::metastore(config)?.map(|settings| (warehouse, warehouse.note_for_metastore(settings)));
            self.start_sink(&stage, warehouse, &status);
            if config.lake.compaction_enabled {
                lake::compact(&stage, config, warehouse, &status);
            }
            retention = lake::expire(&stage, &config.lake, warehouse, engines.store.clone());
        }
        let reaction_store = engines.store.as_ref().filter(|_| choice.reaction);
        if let Some(store) = reaction_store {
            self.start_rules(&supervisor.stage("reaction", budgets.reaction), store);
            self.start_webhooks(&supervisor.stage("webhooks", budgets.webhooks), store)?;
        }

        let upkeep = supervisor.stage("upkeep", budgets.upkeep);
        if let Some(store) = reaction_store {
            abandoned::watch(&upkeep, store, readiness);
            admin_access::forget_old_records(&upkeep, store, config.admin.audit_retention);
        }
        // Stops after the sink, whose last files may be in new partitions.
        if let Some((warehouse, metastore)) = &metastore {
            lake::register(&upkeep, warehouse, metastore);
        }
        if let Some(key_ring) = key_ring {
            upkeep.supervise("keys", move |stop| {
                let key_ring = key_ring.clone();
                async move {
                    key_ring.follow(stop).await;
                    Ok(())
                }
            });
        }
        janitor::start(&upkeep, &engines.bus);
        let watched = Watched {
            bus: (if choice.nats { "nats" } else { "bus_file" }, engines.bus.clone()),
            store: reaction_store.cloned().map(|store| (if choice.postgres { "postgres" } else { "store" }, store)),
            sink: engines.warehouse.is_some().then(|| status.clone()),
            warehouse: engines.warehouse.clone(),
            retention,
            dead_letters: (engines.warehouse.is_some() || choice.reaction).then(|| engines.bus.clone()),
            memory: limits.memory.clone(),
            readiness: readiness.clone(),
        };
        upkeep.supervise("readiness", move |stop| watched.clone().watch(stop));
        Ok(status)
    }

    fn start_gateway(&self, stage: &Stage, access: Access, (socket, listener): (Socket, TcpListener)) {
        let mut settings = gateway::Settings { access, ..settings::gateway(self.config, self.limits) };
        settings.http.drain_timeout = stage.stop_budget().at_most(self.config.http.shutdown_timeout);
        let mut listener = Some(listener);
        let (destination, readiness) = (Destination::Bus(self.engines.bus.clone()), self.readiness.clone());
        let key_ring = match &settings.access {
            Access::Keys(key_ring) => Some(key_ring.clone()),
            Access::Open => None,
        };
        stage.supervise("gateway", move |stop| {
            let key_ring = key_ring.clone();
            let (socket, listener) = (socket.clone(), listener.take());
            let (settings, destination, readiness) = (settings.clone(), destination.clone(), readiness.clone());
            async move {
                let listener = socket.again(listener).await?;
                if let Some(key_ring) = key_ring {
                    // A client that connects now waits for the keys rather than be refused for want of them.
                    let _ = stop.run_until_cancelled(tokio::time::timeout(KEYS_WAIT, key_ring.loaded())).await;
                }
                gateway::serve(listener, settings, destination, readiness, stop).await;
                Ok(())
            }
        });
    }

    fn start_sink(&self, stage: &Stage, warehouse: &Warehouse, status: &SinkStatus) {
        let mut settings = settings::sink(self.config, self.choice);
        settings.stop_budget = stage.stop_budget();
        let (late_in, ack_wait) = (warehouse.clone(), settings.ack_wait);
        stage.supervise("late files", move |stop| {
            let warehouse = late_in.clone();
            async move {
                sink::reconcile_abandoned(warehouse, ack_wait, stop).await;
                Ok(())
            }
        });
        if warehouse.has_log() {
            lake::adopt(stage, warehouse);
        }
        for worker in sink::workers(settings, &self.engines.bus, warehouse, status) {
            stage.supervise("sink", move |stop| {
                let worker = worker.clone();
                async move { fatal::exit_if_fsync_failed(worker.run(stop).await) }
            });
        }
    }

    fn start_rules(&self, stage: &Stage, store: &Store) {
        let (settings, bus, store) = (self.config.engine.clone(), self.engines.bus.clone(), store.clone());
        stage.supervise("rules", move |stop| {
            let (settings, bus, store) = (settings.clone(), bus.clone(), store.clone());
            async move { run_engine(settings, bus, store, stop).await.map_err(Into::into) }
        });
    }

    fn start_webhooks(&self, stage: &Stage, store: &Store) -> anyhow::Result<()> {
        let mut settings = self.config.dispatcher.clone();
        reaction::check_tls_files(&settings.tls)
            .map_err(|error| StartFailure::new(StartFailureKind::Refused, "set webhooks up".to_owned(), &error))?;
        settings.stop_budget = stage.stop_budget();
        let (bus, store) = (self.engines.bus.clone(), store.clone());
        stage.supervise("webhooks", move |stop| {
            let (settings, bus, store) = (settings.clone(), bus.clone(), store.clone());
            async move {
                let tasks = Tasks::new(stop.clone());
                run_dispatcher(settings, store, bus, tasks, stop).await.map_err(Into::into)
            }
        });
        Ok(())
    }
}
