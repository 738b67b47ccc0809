//! The composition root: the only place where engines are chosen and roles meet them.
//!
//! Reads as the life of the process: bind every port, open the engines, start the roles,
//! wait, stop in order. Maps the configuration onto the settings of each part.

mod banner;
mod settings;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bus::Bus;
use crate::config::{Address, Loaded};
use crate::gateway::Destination;
use crate::http::Readiness;
use crate::reaction::{run_dispatcher, run_engine};
use crate::role::RoleSet;
use crate::sink::SinkStatus;
use crate::store::Store;
use crate::supervisor::{Supervisor, Tasks};
use crate::warehouse::Warehouse;
use crate::{admin, gateway, http, metrics, reaction, sink};

/// How often acknowledged events are looked for that may be purged, and gauges are set.
const JANITOR_INTERVAL: Duration = Duration::from_secs(10);

/// The exit code of `sysexits.h` for an input or output error.
const EXIT_IO: i32 = 74;

/// What to run.
pub struct Plan {
    pub loaded: Loaded,
    pub roles: RoleSet,
    /// Only the gateway, which drops what it has checked.
    pub discard: bool,
}

/// Runs until a signal, or until a service fails too often.
pub async fn run(plan: Plan, prometheus: PrometheusHandle) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = &plan.loaded.config;
    let mut stop = Signals::install()?;
    let gateway_listener = bind(&config.http_addr, "http_addr").await?;
    if plan.discard {
        return discard(&plan, gateway_listener, stop).await;
    }
    let admin_listener = bind(&config.admin_addr, "admin_addr").await?;
    let addresses = Addresses { http: gateway_listener.local_addr()?, admin: admin_listener.local_addr()? };

    let data_dir = PathBuf::from(&config.data_dir);
    std::fs::create_dir_all(&data_dir).with_context(|| format!("create data directory {}", data_dir.display()))?;
    let engines = Engines::open(&plan, &data_dir)?;
    let readiness = Readiness::new();
    let mut supervisor = Supervisor::default();
    let sink_status = start_roles(&plan, &engines, &readiness, &mut supervisor, gateway_listener)?;
    let facts = Facts { plan: &plan, started, sink_status, data_dir: &data_dir };
    start_admin(&facts, &engines, &readiness, &mut supervisor, admin_listener, prometheus);

    metrics::ready(true);
    info!(
        version = env!("CARGO_PKG_VERSION"), roles = %plan.roles, http = %addresses.http, admin = %addresses.admin,
        data_dir = %data_dir.display(), elapsed_ms = started.elapsed().as_millis() as u64, "ready",
    );
    if !config.http_addr.is_loopback() {
        warn!(http = %addresses.http, "anyone who reaches this address can send events: API keys are not asked for yet");
    }
    banner::print(&plan, &addresses);

    let failed = tokio::select! {
        name = stop.first() => {
            info!(signal = name, "stopping");
            None
        }
        service = supervisor.failure() => Some(service),
    };
    stop.exit_on_second();
    readiness.set_draining();
    metrics::ready(false);
    let in_time = supervisor.stop().await;
    engines.close().await;
    match failed {
        Some(service) => anyhow::bail!("{service} failed too often; the log says why"),
        None if !in_time => {
            anyhow::bail!("not everything ended in time; what was accepted is on disk and is handled at the next start")
        }
        None => {
            info!("stopped");
            Ok(())
        }
    }
}

/// The engines behind the three ports.
struct Engines {
    bus: Bus,
    store: Store,
    warehouse: Warehouse,
}

impl Engines {
    fn open(plan: &Plan, data_dir: &std::path::Path) -> anyhow::Result<Self> {
        let config = &plan.loaded.config;
        let bus = Bus::open_embedded(settings::bus(config, data_dir))
            .with_context(|| format!("open the bus in {}", data_dir.display()))?;
        let store = Store::open_sqlite(settings::store(config, data_dir))
            .with_context(|| format!("open the store in {}", data_dir.display()))?;
        let warehouse = Warehouse::open_local(data_dir.join("warehouse"))
            .with_context(|| format!("open the warehouse in {}", data_dir.display()))?;
        Ok(Self { bus, store, warehouse })
    }

    async fn close(self) {
        self.bus.close().await;
        self.store.close().await;
    }
}

struct Addresses {
    http: std::net::SocketAddr,
    admin: std::net::SocketAddr,
}

/// What `/api/admin/status` tells beside the engines' own reports.
struct Facts<'a> {
    plan: &'a Plan,
    started: Instant,
    sink_status: SinkStatus,
    data_dir: &'a std::path::Path,
}

/// Starts the roles, each in its own stage: the order in which they stop.
fn start_roles(
    plan: &Plan,
    engines: &Engines,
    readiness: &Readiness,
    supervisor: &mut Supervisor,
    listener: TcpListener,
) -> anyhow::Result<SinkStatus> {
    let config = &plan.loaded.config;
    let budgets = settings::Budgets::of(config);
    let (bus, store, warehouse) = (&engines.bus, &engines.store, &engines.warehouse);

    supervisor.stage("gateway", budgets.gateway);
    let (address, mut listener) = (config.http_addr.clone(), Some(listener));
    let (settings, destination, ready) = (settings::gateway(config), Destination::Bus(bus.clone()), readiness.clone());
    supervisor.supervise("gateway", move |stop| {
        let (address, listener) = (address.clone(), listener.take());
        let (settings, destination, ready) = (settings.clone(), destination.clone(), ready.clone());
        async move {
            let listener = rebind(listener, &address, "http_addr").await?;
            gateway::serve(listener, settings, destination, ready, stop).await;
            Ok(())
        }
    });

    let status = SinkStatus::default();
    supervisor.stage("sink", budgets.sink);
    let (settings, b, w, s) = (settings::sink(config), bus.clone(), warehouse.clone(), status.clone());
    supervisor.supervise("sink", move |stop| {
        let (settings, bus, warehouse, status) = (settings.clone(), b.clone(), w.clone(), s.clone());
        async move {
            let ended = sink::run(settings, bus, warehouse, status, stop).await;
            if let Err(error) = ended.as_ref()
                && error.is_fsync()
            {
                error!(error = ?error, "a failed fsync: what is on disk is unknown, ending the process");
                std::process::exit(EXIT_IO);
            }
            ended.map_err(Into::into)
        }
    });

    supervisor.stage("reaction", budgets.reaction);
    let (settings, b, s) = (settings::engine(config), bus.clone(), store.clone());
    supervisor.supervise("rules", move |stop| {
        let (settings, bus, store) = (settings.clone(), b.clone(), s.clone());
        async move { run_engine(settings, bus, store, stop).await.map_err(Into::into) }
    });

    supervisor.stage("webhooks", budgets.webhooks);
    let (settings, b, s) = (settings::dispatcher(config)?, bus.clone(), store.clone());
    supervisor.supervise("webhooks", move |stop| {
        let (settings, bus, store) = (settings.clone(), b.clone(), s.clone());
        async move {
            let tasks = Tasks::new(stop.clone());
            run_dispatcher(settings, store, bus, tasks, stop).await.map_err(Into::into)
        }
    });

    let b = bus.clone();
    supervisor.supervise("janitor", move |stop| janitor(b.clone(), stop));
    Ok(status)
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
    let (ready, sink_status) = (readiness.clone(), facts.sink_status.clone());
    let (started, roles) = (facts.started, facts.plan.roles.names());
    let data_dir = facts.data_dir.display().to_string();
    let state = admin::State {
        bus: engines.bus.clone(),
        store: engines.store.clone(),
        settings: Arc::new(admin::Settings { loopback: config.admin_addr.is_loopback(), allowed_hosts: Vec::new() }),
        checks: admin::Checks {
            rule: reaction::check_rule,
            anomaly: reaction::check_anomaly_config,
            webhook: reaction::check_webhook,
        },
        ready: Arc::new(move || (ready.ready(), ready.report())),
        metrics: Arc::new(move || prometheus.render()),
        status: Arc::new(move || {
            json!({
                "version": env!("CARGO_PKG_VERSION"),
                "roles": roles,
                "uptime_seconds": started.elapsed().as_secs(),
                "backends": {"bus": "sqlite", "store": "sqlite", "warehouse": "local", "data_dir": data_dir},
                "sink": sink_status.snapshot(),
            })
        }),
    };
    let router = admin::router(state);
    supervisor.stage("admin", settings::Budgets::of(config).admin);
    let (address, mut listener, limits) = (config.admin_addr.clone(), Some(listener), settings::admin_limits(config));
    supervisor.supervise("admin", move |stop| {
        let (address, listener) = (address.clone(), listener.take());
        let (service, limits) = (TowerToHyperService::new(router.clone()), limits.clone());
        async move {
            let listener = rebind(listener, &address, "admin_addr").await?;
            http::serve(listener, service, limits, stop).await;
            Ok(())
        }
    });
}

/// Purges what nobody needs any more and keeps the gauges current.
async fn janitor(bus: Bus, stop: CancellationToken) -> anyhow::Result<()> {
    loop {
        match bus.purge_acknowledged().await {
            Ok(0) => {}
            Ok(purged) => info!(purged, "purged acknowledged events"),
            Err(error) => warn!(error = %error, "cannot purge acknowledged events"),
        }
        // Reading the status sets the gauges.
        if let Err(error) = bus.status().await {
            warn!(error = %error, "cannot read the state of the bus");
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(JANITOR_INTERVAL) => {}
        }
    }
}

/// The null gateway: everything up to the bus, for measurements.
async fn discard(plan: &Plan, listener: TcpListener, mut stop: Signals) -> anyhow::Result<()> {
    let token = CancellationToken::new();
    let address = listener.local_addr()?;
    let serving = gateway::serve(
        listener,
        settings::gateway(&plan.loaded.config),
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

async fn bind(address: &Address, setting: &str) -> anyhow::Result<TcpListener> {
    let text = address.host_port();
    TcpListener::bind(&text).await.with_context(|| format!("cannot listen on {text} ({setting})"))
}

/// The listener that was bound at the start, or after a failure a new one at the same address.
async fn rebind(listener: Option<TcpListener>, address: &Address, setting: &str) -> anyhow::Result<TcpListener> {
    match listener {
        Some(listener) => Ok(listener),
        None => bind(address, setting).await,
    }
}

/// SIGTERM and Ctrl-C: the first stops in order, the second ends the process at once.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    fn exit_on_second(mut self) {
        Tasks::default().spawn(async move {
            let name = self.first().await;
            error!(signal = name, "second signal: ending at once");
            // Nothing that unwinds may run: it could wait for what is stuck.
            std::process::exit(130);
        });
    }
}
