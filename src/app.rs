//! The composition root: the only place where engines are chosen and roles meet them.
//!
//! Reads as the life of the process: bind every port, open the engines, start the roles,
//! wait, stop in order. Maps the configuration onto the settings of each part.

pub mod role;
pub mod telemetry;

mod admin_access;
mod banner;
mod certificates;
mod engines;
mod given_up;
mod import;
mod lake;
mod listeners;
pub mod open_files;
mod retention;
mod settings;
mod signals;
mod starting;
mod told;
mod watched;

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::app::role::{Role, RoleSet};
use crate::base::errors::chain;
use crate::base::supervisor::{Supervisor, Tasks};
use crate::bus::Bus;
use crate::config::{Config, Loaded};
use crate::gateway::{Access, Destination, KeyRing};
use crate::http::{MemoryBudget, Readiness};
use crate::reaction::{run_dispatcher, run_engine};
use crate::sink::SinkStatus;
use crate::store::Store;
use crate::warehouse::Warehouse;
use crate::{admin, gateway, http, metrics, reaction, sink};

pub use engines::{How, StartFailure, migrate};
pub use import::{Import, import_files};
pub use lake::{Lake, init_lake, open_lake};

use certificates::Certificates;
use engines::{Choice, Engines};
use listeners::{Listeners, bind, rebind};
use signals::{Signals, serve_on};
use told::{tell_access, warn_of_weaknesses};
use watched::Watched;

/// How often acknowledged events are looked for that may be purged, and gauges are set.
const JANITOR_INTERVAL: Duration = Duration::from_secs(10);

/// What it means that the bus has a weakness.
const WEAK: &str = "a 2xx is weaker than an event on disk (nats_stream_replicas, nats_stream_storage)";

/// The exit code of `sysexits.h` for an input or output error.
const EXIT_IO: i32 = 74;

/// What to run.
pub struct Plan {
    pub loaded: Loaded,
    pub roles: RoleSet,
    /// Only the gateway, which drops what it has checked.
    pub discard: bool,
}

/// The OpenAPI document of the gateway as it faces the world.
pub fn gateway_document() -> serde_json::Value {
    gateway::document(&gateway::Shown::default())
}

/// That of the admin API.
pub fn admin_document() -> serde_json::Value {
    admin::document()
}

/// Runs until a signal, or until a service fails too often.
pub async fn run(plan: Plan, prometheus: PrometheusHandle) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = &plan.loaded.config;
    let mut stop = Signals::install()?;
    let mut limits = Listeners::of(config, open_files::raise());
    limits.certificates = Certificates::load(config, plan.discard || plan.roles.has(Role::Gateway))?;
    limits.warn_if_lowered(config);
    if plan.discard {
        let listener = bind(&config.http_addr, "http_addr").await?;
        return discard(&plan, &limits, listener, stop).await;
    }
    let gateway_listener = match plan.roles.has(Role::Gateway) {
        true => Some(bind(&config.http_addr, "http_addr").await?),
        false => None,
    };
    let admin_listener = bind(&config.admin_addr, "admin_addr").await?;
    let addresses = Addresses {
        http: gateway_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        admin: admin_listener.local_addr()?,
    };

    let data_dir = PathBuf::from(&config.data_dir);
    let choice = Choice::of(&plan.loaded, &plan.roles);
    if choice.needs_directory() {
        // For its owner alone, when it is new: it holds events and secrets.
        let created = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&data_dir);
        created.with_context(|| format!("create data directory {}", data_dir.display()))?;
    }
    let readiness = Readiness::starting();
    let opening = async {
        tokio::select! {
            opened = Engines::open(&choice, config, &data_dir, &readiness) => opened.map(Some),
            name = stop.first() => {
                info!(signal = name, "stopped before the start was complete");
                Ok(None)
            }
        }
    };
    let probes = |metrics| {
        let asked = if metrics { admin_access::settings(config) } else { admin_access::of_gateway(config) };
        let access = admin::Access::new(asked, None);
        let router = admin::starting_router(start_probes(&readiness, &limits.memory, &prometheus), &access, metrics);
        settings::admin_service(config, router)
    };
    let gateway_limits = settings::gateway(config, &limits).http;
    let listeners = gateway_listener.iter().map(|listener| (listener, probes(false), gateway_limits.clone()));
    let listeners = listeners.chain([(&admin_listener, probes(true), settings::admin_limits(config, &limits))]);
    let Some(engines) = starting::serve_during(listeners, opening).await?? else { return Ok(()) };
    if let Some(weakness) = weakness(&plan, &engines) {
        readiness.set_warning("durability", Some(format!("{WEAK}: {weakness}")));
    }
    let mut supervisor = Supervisor::default();
    let sink_status = start_roles(&plan, &choice, &engines, &readiness, &limits, &mut supervisor, gateway_listener)?;
    let facts = Facts { plan: &plan, choice: &choice, started, sink_status, data_dir: &data_dir, limits: &limits };
    start_admin(&facts, &engines, &readiness, &mut supervisor, admin_listener, prometheus);

    readiness.set_started();
    metrics::ready(true);
    info!(
        version = env!("CARGO_PKG_VERSION"), roles = %plan.roles, http = addresses.http.map(tracing::field::display),
        admin = %addresses.admin, bus = choice.bus_name(), store = choice.store_name(),
        warehouse = choice.warehouse_name(), data_dir = choice.needs_directory().then(|| data_dir.display().to_string()),
        elapsed_ms = started.elapsed().as_millis() as u64, "ready",
    );
    tell_access(&choice, &addresses, config);
    warn_of_weaknesses(&plan, &engines, &addresses);
    banner::print(&plan, &choice, &addresses);

    let failed = tokio::select! {
        name = stop.first() => {
            info!(signal = name, "stopping");
            None
        }
        failed = supervisor.failure() => Some(failed),
    };
    readiness.set_draining();
    metrics::ready(false);
    let failed = match failed {
        None => serve_on(config.shutdown_delay.0, &mut stop, &mut supervisor).await,
        failed => failed,
    };
    stop.exit_on_second();
    let in_time = supervisor.stop(config.shutdown_timeout.0).await;
    engines.close().await;
    match failed {
        Some(failed) => anyhow::bail!("{failed}"),
        None if !in_time => {
            anyhow::bail!("not everything ended in time; what was accepted is kept and is handled at the next start")
        }
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

/// What can be told before there is a status to tell.
fn start_probes(readiness: &Readiness, memory: &MemoryBudget, prometheus: &PrometheusHandle) -> admin::Probes {
    let (ready, memory, prometheus) = (readiness.clone(), memory.clone(), prometheus.clone());
    admin::Probes {
        ready: Arc::new(move || (ready.ready(), ready.report())),
        metrics: Arc::new(move || {
            memory.set_gauges();
            prometheus.render()
        }),
        status: Arc::new(|| json!({})),
    }
}

/// Of a process that answers with a 2xx.
fn weakness(plan: &Plan, engines: &Engines) -> Option<&'static str> {
    engines.bus.weakness().filter(|_| plan.roles.has(Role::Gateway))
}

struct Addresses {
    http: Option<std::net::SocketAddr>,
    admin: std::net::SocketAddr,
}

/// What `/api/admin/status` tells beside the engines' own reports.
struct Facts<'a> {
    plan: &'a Plan,
    choice: &'a Choice,
    started: Instant,
    sink_status: SinkStatus,
    data_dir: &'a std::path::Path,
    limits: &'a Listeners,
}

/// Starts the roles of this process, each in its own stage: the order in which they stop.
fn start_roles(
    plan: &Plan,
    choice: &Choice,
    engines: &Engines,
    readiness: &Readiness,
    limits: &Listeners,
    supervisor: &mut Supervisor,
    listener: Option<TcpListener>,
) -> anyhow::Result<SinkStatus> {
    let config = &plan.loaded.config;
    let budgets = settings::Budgets::of(config);
    let status = SinkStatus::default();
    let key_ring = engines.store.clone().filter(|_| choice.keys).map(|store| KeyRing::new(store, readiness.clone()));
    if let Some(listener) = listener {
        supervisor.stage("gateway", budgets.gateway);
        let access = key_ring.clone().map_or(Access::Open, Access::Keys);
        let settings = gateway::Settings { access, ..settings::gateway(config, limits) };
        start_gateway(config, settings, engines.bus.clone(), readiness.clone(), supervisor, listener);
    }
    let (mut metastore, mut retention) = (None, None);
    if let Some(warehouse) = &engines.warehouse {
        let told = settings::metastore(config, std::path::Path::new(&config.data_dir))?;
        metastore = told.map(|told| (warehouse, warehouse.note_for_metastore(told)));
        supervisor.stage("sink", budgets.sink);
        let settings = settings::sink(config, choice);
        start_sink(settings, &engines.bus, warehouse, &status, supervisor);
        if config.compaction_enabled.0 {
            lake::compact(supervisor, config, warehouse, &status);
        }
        retention = lake::expire(supervisor, config, warehouse, engines.store.clone());
    }
    let reaction_store = engines.store.as_ref().filter(|_| choice.reaction);
    if let Some(store) = reaction_store {
        supervisor.stage("reaction", budgets.reaction);
        start_reaction(config, engines.bus.clone(), store.clone(), supervisor);
        supervisor.stage("webhooks", budgets.webhooks);
        start_webhooks(config, engines.bus.clone(), store.clone(), supervisor)?;
        given_up::watch(supervisor, store, readiness);
        admin_access::forget_old_records(supervisor, store, config.audit_retention.0);
    } else {
        supervisor.stage("janitor", budgets.reaction);
    }
    // After the sink, whose last files may be in new partitions.
    if let Some((warehouse, metastore)) = &metastore {
        lake::register(supervisor, warehouse, metastore);
    }
    if let Some(key_ring) = key_ring {
        supervisor.supervise("keys", move |stop| {
            let key_ring = key_ring.clone();
            async move {
                key_ring.follow(stop).await;
                Ok(())
            }
        });
    }
    let bus = engines.bus.clone();
    supervisor.supervise("janitor", move |stop| janitor(bus.clone(), stop));
    let bus = engines.bus.clone();
    supervisor.supervise_once("bus connection", move |stop| connection(bus.clone(), stop));
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
    supervisor.supervise("readiness", move |stop| watched.clone().watch(stop));
    Ok(status)
}

fn start_gateway(
    config: &Config,
    mut settings: gateway::Settings,
    bus: Bus,
    readiness: Readiness,
    supervisor: &mut Supervisor,
    listener: TcpListener,
) {
    let (address, mut listener) = (config.http_addr.clone(), Some(listener));
    let destination = Destination::Bus(bus);
    settings.http.drain_timeout = supervisor.stop_budget().at_most(config.http_shutdown_timeout.0);
    supervisor.supervise("gateway", move |stop| {
        let (address, listener) = (address.clone(), listener.take());
        let (settings, destination, ready) = (settings.clone(), destination.clone(), readiness.clone());
        async move {
            let listener = rebind(listener, &address, "http_addr").await?;
            gateway::serve(listener, settings, destination, ready, stop).await;
            Ok(())
        }
    });
}

fn start_sink(
    mut settings: sink::Settings,
    bus: &Bus,
    warehouse: &Warehouse,
    status: &SinkStatus,
    supervisor: &mut Supervisor,
) {
    settings.stop_budget = supervisor.stop_budget();
    let (late_in, ack_wait) = (warehouse.clone(), settings.ack_wait);
    supervisor.supervise("late files", move |stop| {
        let warehouse = late_in.clone();
        async move {
            sink::settle_abandoned(warehouse, ack_wait, stop).await;
            Ok(())
        }
    });
    if warehouse.has_log() {
        lake::adopt(supervisor, warehouse);
    }
    for worker in sink::workers(settings, bus, warehouse, status) {
        supervisor.supervise("sink", move |stop| {
            let worker = worker.clone();
            async move {
                let ended = worker.run(stop).await;
                if let Err(error) = ended.as_ref()
                    && error.is_fsync()
                {
                    error!(error = ?error, "a failed fsync: what is on disk is unknown, ending the process");
                    std::process::exit(EXIT_IO);
                }
                ended.map_err(Into::into)
            }
        });
    }
}

fn start_reaction(config: &Config, bus: Bus, store: Store, supervisor: &mut Supervisor) {
    let settings = settings::engine(config);
    supervisor.supervise("rules", move |stop| {
        let (settings, bus, store) = (settings.clone(), bus.clone(), store.clone());
        async move { run_engine(settings, bus, store, stop).await.map_err(Into::into) }
    });
}

fn start_webhooks(config: &Config, bus: Bus, store: Store, supervisor: &mut Supervisor) -> anyhow::Result<()> {
    let mut settings = settings::dispatcher(config)?;
    reaction::check_tls_files(&settings.tls)
        .map_err(|error| StartFailure::new(How::Refused, "set webhooks up".to_owned(), &error))?;
    settings.stop_budget = supervisor.stop_budget();
    supervisor.supervise("webhooks", move |stop| {
        let (settings, bus, store) = (settings.clone(), bus.clone(), store.clone());
        async move {
            let tasks = Tasks::new(stop.clone());
            run_dispatcher(settings, store, bus, tasks, stop).await.map_err(Into::into)
        }
    });
    Ok(())
}

fn start_admin(
    facts: &Facts<'_>,
    engines: &Engines,
    readiness: &Readiness,
    supervisor: &mut Supervisor,
    listener: TcpListener,
    prometheus: PrometheusHandle,
) {
    let config = &facts.plan.loaded.config;
    let sink_status = facts.sink_status.clone();
    let (started, roles) = (facts.started, facts.plan.roles.names());
    let backends = json!({
        "bus": facts.choice.bus_name(),
        "store": facts.choice.store_name(),
        "warehouse": facts.choice.warehouse_name(),
        "data_dir": facts.choice.needs_directory().then(|| facts.data_dir.display().to_string()),
    });
    let probes = admin::Probes {
        status: Arc::new(move || {
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "roles": roles,
                "uptime_seconds": started.elapsed().as_secs(),
                "backends": backends,
                "sink": sink_status.snapshot(),
            })
        }),
        ..start_probes(readiness, &facts.limits.memory, &prometheus)
    };
    let loopback = config.admin_addr.is_loopback();
    let access = admin::Access::new(admin_access::settings(config), engines.store.clone());
    let settings = Arc::new(admin::Settings {
        loopback,
        allowed_hosts: Vec::new(),
        gateway_document: Some(crate::gateway::document(&settings::shown(config))),
        replays: settings::replays(config),
    });
    let router = match engines.store.as_ref().filter(|_| facts.choice.reaction) {
        Some(store) => admin::router(admin::State {
            bus: engines.bus.clone(),
            store: store.clone(),
            settings,
            checks: admin::Checks {
                rule: reaction::check_rule,
                anomaly: reaction::check_anomaly_config,
                webhook: reaction::check_webhook,
            },
            access,
            probes,
        }),
        None => admin::probes_router(
            probes,
            &access,
            &settings,
            "The admin API is served by processes with the role reaction.",
        ),
    };
    supervisor.stage("admin", settings::Budgets::of(config).admin);
    let (address, mut listener) = (config.admin_addr.clone(), Some(listener));
    let service = settings::admin_service(config, router);
    let limits =
        http::Limits { drain_timeout: supervisor.stop_budget(), ..settings::admin_limits(config, facts.limits) };
    supervisor.supervise("admin", move |stop| {
        let (address, listener) = (address.clone(), listener.take());
        let service = TowerToHyperService::new(service.clone());
        let limits = limits.clone();
        async move {
            let listener = rebind(listener, &address, "admin_addr").await?;
            http::serve(listener, service, limits, stop).await;
            Ok(())
        }
    });
    let (certificates, config, readiness) = (facts.limits.certificates.clone(), config.clone(), readiness.clone());
    supervisor
        .supervise("certificates", move |stop| certificates.clone().watch(config.clone(), readiness.clone(), stop));
}

/// Fails when the bus is gone for good: nothing in this process would ever work again.
async fn connection(bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    tokio::select! {
        error = bus.until_given_up() => Err(error.into()),
        () = stop.cancelled() => Ok(()),
    }
}

/// Purges what nobody needs any more and keeps the gauges current.
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
            () = tokio::time::sleep(JANITOR_INTERVAL) => {}
        }
    }
}

/// The null gateway: everything up to the bus, for measurements.
async fn discard(plan: &Plan, limits: &Listeners, listener: TcpListener, mut stop: Signals) -> anyhow::Result<()> {
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
