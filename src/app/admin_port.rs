//! The admin port: the admin API, the probes and the metrics.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::json;
use tokio::net::TcpListener;

use super::choice::Choice;
use super::engines::Engines;
use super::listeners::Listeners;
use super::plan::Plan;
use super::sockets::Socket;
use super::{settings, usage};
use crate::admin::AdminService;
use crate::base::supervisor::Stage;
use crate::gateway::DocumentOptions;
use crate::http::{MemoryBudget, Readiness};
use crate::quarantine::ReadSettings;
use crate::sink::SinkStatus;
use crate::{admin, gateway, http, reaction};

/// What `/api/admin/status` shows in addition to the reports of the engines.
pub(super) struct Facts<'a> {
    pub(super) plan: &'a Plan,
    pub(super) choice: &'a Choice,
    pub(super) started: Instant,
    pub(super) sink_status: SinkStatus,
    pub(super) data_dir: &'a Path,
    pub(super) limits: &'a Listeners,
}

/// The probes while the process starts, before there is a status to show.
pub(super) fn probes(
    readiness: &Readiness,
    memory: &MemoryBudget,
    prometheus: &PrometheusHandle,
    choice: &Choice,
    data_dir: &Path,
) -> admin::Probes {
    let (ready, memory, prometheus) = (readiness.clone(), memory.clone(), prometheus.clone());
    let data_dir = choice.needs_directory().then(|| data_dir.to_owned());
    admin::Probes {
        ready: Arc::new(move || (ready.ready(), ready.report())),
        metrics: Arc::new(move || {
            memory.set_gauges();
            usage::set_gauges(data_dir.as_deref());
            prometheus.render()
        }),
        status: Arc::new(|| json!({})),
    }
}

/// Starts the admin API where this process has the role reaction, and otherwise the probes alone.
pub(super) fn start(
    stage: &Stage,
    facts: &Facts<'_>,
    engines: &Engines,
    readiness: &Readiness,
    (socket, listener): (Socket, TcpListener),
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
        ..probes(readiness, &facts.limits.memory, &prometheus, facts.choice, facts.data_dir)
    };
    let loopback = config.admin.addr.is_loopback();
    let access = admin::Access::new(config.admin.access(), engines.store.clone());
    let document_options = DocumentOptions { keys: config.requires_api_keys, ..DocumentOptions::of(&config.gateway) };
    let settings = Arc::new(admin::Settings {
        loopback,
        allowed_hosts: Vec::new(),
        gateway_document: Some(gateway::document(&document_options)),
        replays: ReadSettings {
            batch_events_max: config.gateway.batch_events_max,
            event_bytes_max: config.gateway.event_bytes_max,
        },
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
    let mut listener = Some(listener);
    let service = AdminService::new(router, config.http.trusted_proxies.clone(), config.http.read_timeout);
    let limits = http::Limits { drain_timeout: stage.stop_budget(), ..settings::admin_limits(config, facts.limits) };
    stage.supervise("admin", move |stop| {
        let (socket, listener) = (socket.clone(), listener.take());
        let service = TowerToHyperService::new(service.clone());
        let limits = limits.clone();
        async move {
            let listener = socket.again(listener).await?;
            http::serve(listener, service, limits, stop).await;
            Ok(())
        }
    });
    stage.supervise("metrics", move |stop| usage::upkeep(prometheus.clone(), stop));
    let (certificates, config, readiness) = (facts.limits.certificates.clone(), config.clone(), readiness.clone());
    stage.supervise("certificates", move |stop| certificates.clone().watch(config.clone(), readiness.clone(), stop));
}
