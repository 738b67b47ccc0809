//! The life of the process: bind every port, open the engines, start the roles, wait, stop in order.

use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tracing::info;

use super::admin_port::{self, Facts};
use super::certificates::Certificates;
use super::choice::Choice;
use super::engines::Engines;
use super::listeners::Listeners;
use super::plan::{Addresses, Plan};
use super::role::Role;
use super::roles::Roles;
use super::signals::{Signals, serve_on};
use super::sockets::Sockets;
use super::start_log::{self, WEAK};
use super::{admin_access, banner, data_directory, null_gateway, open_files, service_manager, settings, starting};
use crate::admin::AdminService;
use crate::base::supervisor::Supervisor;
use crate::http::Readiness;
use crate::{admin, metrics};

/// Runs until a signal, or until a service fails too often.
pub async fn run(plan: Plan, prometheus: PrometheusHandle) -> anyhow::Result<()> {
    let started = Instant::now();
    let config = &plan.loaded.config;
    let mut stop = Signals::install()?;
    let serves_events = plan.discard || plan.roles.has(Role::Gateway);
    let mut limits = Listeners::of(config, open_files::raise());
    limits.certificates = Certificates::load(config, serves_events)?;
    limits.warn_if_lowered(config);
    let sockets = Sockets::of(config, serves_events)?;
    if plan.discard {
        let listener = sockets.http.listen().await?;
        return null_gateway::run(&plan, &limits, listener, stop).await;
    }
    let gateway_listener = match serves_events {
        true => Some(sockets.http.listen().await?),
        false => None,
    };
    let admin_listener = sockets.admin.listen().await?;
    let addresses = Addresses {
        http: gateway_listener.as_ref().map(TcpListener::local_addr).transpose()?,
        admin: admin_listener.local_addr()?,
    };

    let data_dir = &config.process.data_dir;
    let choice = Choice::of(config, &plan.roles);
    if choice.needs_directory() {
        data_directory::prepare(data_dir)?;
    }
    metrics::process_started(&plan.roles.names());
    let readiness = Readiness::starting();
    service_manager::follow(&readiness);
    let opening = async {
        tokio::select! {
            opened = Engines::open(&choice, config, &readiness) => opened.map(Some),
            name = stop.first() => {
                info!(signal = name, "stopped before the start was complete");
                Ok(None)
            }
        }
    };
    let probes = |metrics| {
        let access = if metrics { config.admin.access() } else { admin_access::of_gateway(config) };
        let access = admin::Access::new(access, None);
        let probes = admin_port::probes(&readiness, &limits.memory, &prometheus, &choice, data_dir);
        let router = admin::starting_router(probes, &access, metrics);
        AdminService::new(router, config.http.trusted_proxies.clone(), config.http.read_timeout)
    };
    let gateway_limits = settings::gateway(config, &limits).http;
    let wait = sockets.http.wait();
    let listeners = gateway_listener.iter().map(|listener| (listener, wait, probes(false), gateway_limits.clone()));
    let admin_limits = settings::admin_limits(config, &limits);
    let listeners = listeners.chain([(&admin_listener, Duration::ZERO, probes(true), admin_limits)]);
    let Some(engines) = starting::serve_during(listeners, opening).await?? else { return Ok(()) };
    let weakness = engines.bus.durability_warning().filter(|_| plan.roles.has(Role::Gateway));
    if let Some(weakness) = weakness {
        readiness.set_warning("durability", Some(format!("{WEAK}: {weakness}")));
    }
    let mut supervisor = Supervisor::default();
    let roles = Roles { config, choice: &choice, engines: &engines, readiness: &readiness, limits: &limits };
    let gateway_socket = gateway_listener.map(|listener| (sockets.http, listener));
    let sink_status = roles.start(&mut supervisor, gateway_socket)?;
    let facts = Facts { plan: &plan, choice: &choice, started, sink_status, data_dir, limits: &limits };
    let admin_stage = supervisor.stage("admin", settings::Budgets::of(config).admin);
    admin_port::start(&admin_stage, &facts, &engines, &readiness, (sockets.admin, admin_listener), prometheus);

    readiness.set_started();
    metrics::ready(true);
    info!(
        version = env!("CARGO_PKG_VERSION"), roles = %plan.roles, http = addresses.http.map(tracing::field::display),
        admin = %addresses.admin, bus = choice.bus_name(), store = choice.store_name(),
        warehouse = choice.warehouse_name(), data_dir = choice.needs_directory().then(|| data_dir.display().to_string()),
        elapsed_ms = started.elapsed().as_millis() as u64, "ready",
    );
    start_log::access(&choice, &addresses, config);
    start_log::weaknesses(&addresses, config, weakness);
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
        None => serve_on(config.process.shutdown_delay, &mut stop, &mut supervisor).await,
        failed => failed,
    };
    stop.exit_on_second();
    let in_time = supervisor.stop(config.process.shutdown_timeout).await;
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
