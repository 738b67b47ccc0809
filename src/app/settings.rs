//! The configuration mapped onto the settings of each part.

use std::path::Path;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::bus::EmbeddedSettings;
use crate::config::{Codec, Config};
use crate::reaction::{AllowedNetworks, DispatcherSettings, EngineSettings};
use crate::store::SqliteSettings;
use crate::warehouse::Compression;
use crate::{gateway, http, sink};

/// Recent events kept in memory for consumers near the head.
const TAIL_BYTES_MAX: usize = 16 << 20;
/// Bodies of requests in flight, all together.
const BODIES_BYTES_MAX: usize = 64 << 20;
/// Admin connections; people and scrapers, not apps.
const ADMIN_CONNECTIONS_MAX: usize = 256;

/// How long each stage of a stop may take; together `shutdown_timeout`.
pub(super) struct Budgets {
    pub(super) gateway: Duration,
    pub(super) sink: Duration,
    pub(super) reaction: Duration,
    pub(super) webhooks: Duration,
    pub(super) admin: Duration,
}

impl Budgets {
    /// Half of it for the sink, which has the most left to do: what is on the bus, then the open files.
    pub(super) fn of(config: &Config) -> Self {
        let total = config.shutdown_timeout.0;
        Self {
            gateway: config.http_shutdown_timeout.0.min(total / 4),
            sink: total / 2,
            reaction: total / 16,
            webhooks: total / 8,
            admin: total / 16,
        }
    }

    /// What a part is told, so that it ends by itself before its stage is cut.
    fn inner(stage: Duration) -> Duration {
        stage.mul_f64(0.9)
    }
}

pub(super) fn bus(config: &Config, data_dir: &Path) -> EmbeddedSettings {
    EmbeddedSettings {
        dir: data_dir.to_owned(),
        bytes_max: config.nats_stream_max_bytes.0,
        age_max: config.nats_stream_max_age.0,
        dead_letter_age_max: config.nats_stream_dlq_max_age.0,
        dedup_window: config.dedup_window.0,
        tail_bytes_max: TAIL_BYTES_MAX,
    }
}

pub(super) fn store(config: &Config, data_dir: &Path) -> SqliteSettings {
    SqliteSettings { dir: data_dir.to_owned(), secrets_key: config.secrets_key.as_ref().map(|key| key.0.clone()) }
}

pub(super) fn gateway(config: &Config) -> gateway::Settings {
    gateway::Settings {
        http: http::Limits {
            connections_max: config.http_max_connections.0,
            header_bytes_max: config.http_max_header_bytes.0 as usize,
            header_timeout: config.http_read_timeout.0,
            write_timeout: config.http_write_timeout.0,
            idle_timeout: config.http_idle_timeout.0,
            drain_timeout: Budgets::inner(Budgets::of(config).gateway),
            ..http::Limits::default()
        },
        body_bytes_max: config.max_body_size.0 as usize,
        bodies_bytes_max: BODIES_BYTES_MAX.max(config.max_body_size.0 as usize),
        body_timeout: config.http_read_timeout.0,
        batch_events_max: config.max_batch_events.0,
    }
}

pub(super) fn admin_limits(config: &Config) -> http::Limits {
    http::Limits {
        connections_max: ADMIN_CONNECTIONS_MAX,
        drain_timeout: Budgets::inner(Budgets::of(config).admin),
        ..gateway(config).http
    }
}

pub(super) fn sink(config: &Config) -> sink::Settings {
    sink::Settings {
        batch_events_max: config.batch_max_events.0,
        flush_interval: config.batch_flush_interval.0,
        file_bytes_max: config.batch_max_bytes.0 as usize,
        memory_bytes_max: config.batch_memory_max.0 as usize,
        fetch_messages_max: config.batch_fetch_batch_size.0,
        max_concurrent_writes: config.batch_max_concurrent_writes.0,
        row_group_rows: config.parquet_row_group_size.0,
        compression: compression(config.parquet_compression),
        stop_budget: Budgets::inner(Budgets::of(config).sink),
        ..sink::Settings::default()
    }
}

fn compression(codec: Codec) -> Compression {
    match codec {
        Codec::Snappy => Compression::Snappy,
        Codec::Gzip => Compression::Gzip,
        Codec::Zstd => Compression::Zstd,
        Codec::None => Compression::None,
    }
}

pub(super) fn engine(config: &Config) -> EngineSettings {
    EngineSettings {
        consumer_name: config.consumer_name.clone(),
        refresh_interval: config.engine_rule_refresh_interval.0,
        max_attempts: config.dispatcher_max_attempts.0 as u32,
        state_cleanup_interval: config.anomaly_state_cleanup_interval.0,
        state_retention: config.anomaly_state_retention_duration.0,
        ..EngineSettings::default()
    }
}

pub(super) fn dispatcher(config: &Config) -> anyhow::Result<DispatcherSettings> {
    let allowed_networks = match &config.webhook_allowed_networks {
        Some(networks) => AllowedNetworks::parse(networks.0.iter().map(String::as_str)).map_err(anyhow::Error::msg)?,
        // Whoever can set webhooks here can reach this machine's own services anyway.
        None if config.http_addr.is_loopback() && config.admin_addr.is_loopback() => AllowedNetworks::loopback(),
        None => AllowedNetworks::default(),
    };
    Ok(DispatcherSettings {
        workers: config.dispatcher_workers.0,
        poll_interval: config.dispatcher_poll_interval.0,
        batch_size: config.dispatcher_batch_size.0,
        backoff: Backoff {
            initial: config.dispatcher_initial_backoff.0,
            multiplier: config.dispatcher_backoff_multiplier.0,
            max: config.dispatcher_max_backoff.0,
        },
        request_timeout: config.dispatcher_request_timeout.0,
        allowed_networks,
        stop_budget: Budgets::inner(Budgets::of(config).webhooks),
        ..DispatcherSettings::default()
    })
}
