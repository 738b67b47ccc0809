//! Maps the configuration to the settings of each part.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::choice::Choice;
use super::listeners::Listeners;
use crate::admin::AdminService;
use crate::base::backoff::Backoff;
use crate::bus::{EmbeddedSettings, NatsSettings, PublishMode, StreamStorage};
use crate::config::{self, Codec, Config, Publishing, Storage};
use crate::quarantine::ReadSettings;
use crate::reaction::{AllowedNetworks, DispatcherSettings, EngineSettings, TlsFiles, claim_lease};
use crate::store::{BacklogLimits, PostgresSettings, SqliteSettings, SslMode};
use crate::warehouse::{
    CompactionSettings, Compression, DeltaSettings, MetastoreSettings, ObjectSettings, PromotedColumns, RetentionRules,
    RetentionSettings,
};
use crate::{gateway, http, sink};

/// Recent events kept in memory for consumers near the head.
const TAIL_BYTES_MAX: usize = 24 << 20;
/// The default servers when roles run as separate processes.
const NATS_URL: &str = "nats://localhost:4222";
const DATABASE_HOST: &str = "localhost";
const FLUSH_LOCAL: Duration = Duration::from_secs(5);
const FLUSH_REMOTE: Duration = Duration::from_secs(300);

/// How long publishing and answering a request may take after its body has arrived, in addition to the time of the bus: a
/// publish through NATS ends after three times `nats_timeout`.
const ANSWER_SPARE: Duration = Duration::from_secs(15);

/// How long an idle connection may take to send a last request when the gateway stops.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How long each stage has to stop, at least. It also gets what earlier stages left of `shutdown_timeout`.
pub(super) struct Budgets {
    pub(super) gateway: Duration,
    pub(super) sink: Duration,
    pub(super) reaction: Duration,
    pub(super) webhooks: Duration,
    pub(super) upkeep: Duration,
    pub(super) admin: Duration,
}

impl Budgets {
    /// The rest, about half, goes to the first stage that needs it: that honours the default `http_shutdown_timeout`.
    /// The sink has the most left to do: it reads what is on the bus and closes the open files.
    pub(super) fn of(config: &Config) -> Self {
        let total = config.shutdown_timeout.0;
        Self {
            gateway: Duration::ZERO,
            sink: total / 4,
            reaction: total / 16,
            webhooks: total / 8,
            upkeep: total / 32,
            admin: total / 32,
        }
    }
}

pub(super) fn nats(config: &Config) -> NatsSettings {
    NatsSettings {
        url: config.nats_url.as_ref().map_or_else(|| NATS_URL.to_owned(), |url| url.0.clone()),
        client_name: config.nats_client_name.clone(),
        credentials_file: config.nats_credentials_file.as_ref().map(PathBuf::from),
        ca_file: config.nats_ca_file.as_ref().map(PathBuf::from),
        reconnects_max: config.nats_max_reconnects.0,
        reconnect_wait: config.nats_reconnect_wait.0,
        timeout: config.nats_timeout.0,
        stream: config.nats_stream_name.clone(),
        subjects: config.nats_stream_subjects.0.clone(),
        readers: readers(config),
        age_max: config.nats_stream_max_age.0,
        bytes_max: config.nats_stream_max_bytes.0,
        replicas: config.nats_stream_replicas.0,
        storage: match config.nats_stream_storage {
            Storage::File => StreamStorage::File,
            Storage::Memory => StreamStorage::Memory,
        },
        dead_letter_stream: config.nats_stream_dlq_stream_name.clone(),
        dead_letter_age_max: config.nats_stream_dlq_max_age.0,
        dedup_window: config.dedup_window.0,
        publish: match config.nats_publish_mode {
            Publishing::Auto => PublishMode::Auto,
            Publishing::Single => PublishMode::Single,
            Publishing::Atomic => PublishMode::Atomic,
        },
        event_bytes_max: config.max_event_bytes.0 as usize,
    }
}

/// The consumers of all roles of this deployment, not only of this process.
fn readers(config: &Config) -> Vec<String> {
    let of_role = |role: &String| match role.as_str() {
        config::READER_SINK => Some(config::SINK_CONSUMER.to_owned()),
        config::READER_REACTION => Some(config.consumer_name.clone()),
        _ => None,
    };
    config.nats_stream_readers.0.iter().filter_map(of_role).collect()
}

pub(super) fn postgres(config: &Config) -> PostgresSettings {
    PostgresSettings {
        url: config.database_url.as_ref().map(|url| url.0.clone()),
        host: config.database_host.clone().unwrap_or_else(|| DATABASE_HOST.to_owned()),
        port: config.database_port.0 as u16,
        user: config.database_user.clone(),
        password: config.database_password.as_ref().map(|password| password.0.clone()),
        database: config.database_name.clone(),
        ssl_mode: match config.database_ssl_mode {
            config::SslMode::Disable => SslMode::Disable,
            config::SslMode::Prefer => SslMode::Prefer,
            config::SslMode::Require => SslMode::Require,
            config::SslMode::VerifyCa => SslMode::VerifyCa,
            config::SslMode::VerifyFull => SslMode::VerifyFull,
        },
        ca_file: config.database_ca_file.as_ref().map(PathBuf::from),
        connections_max: config.database_max_open_conns.0,
        idle_connections_max: config.database_max_idle_conns.0,
        connection_lifetime_max: config.database_conn_max_lifetime.0,
        connect_timeout: config.database_connect_timeout.0,
        statement_timeout: config.database_statement_timeout.0,
        secrets_key: config.secrets_key.as_ref().map(|key| key.0.clone()),
        secrets_key_replaced: config.secrets_key_replaced.is_some_and(|replaced| replaced.0),
        migrate: false,
    }
}

pub(super) fn objects(config: &Config) -> ObjectSettings {
    ObjectSettings {
        url: config.warehouse_url.as_ref().map(|url| url.0.clone()),
        endpoint: config.s3_endpoint.as_ref().map(|url| url.0.clone()),
        region: config.s3_region.clone(),
        bucket: config.s3_bucket.clone(),
        access_key_id: config.s3_access_key_id.clone(),
        secret_access_key: config.s3_secret_access_key.as_ref().map(|secret| secret.0.clone()),
        path_style: config.s3_use_path_style.map(|flag| flag.0),
        prefix: config.s3_prefix.clone(),
        silence_max: config.warehouse_timeout.0,
    }
}

/// The error names the column.
pub(super) fn columns(config: &Config) -> Result<PromotedColumns, String> {
    PromotedColumns::parse(config.warehouse_columns.iter().flat_map(|columns| &columns.0).map(String::as_str))
}

/// `None` if the Delta log is off.
pub(super) fn delta(config: &Config) -> Option<DeltaSettings> {
    config.delta_enabled.0.then_some(DeltaSettings { retention: config.delta_log_retention.0 })
}

pub(super) fn compaction(config: &Config, data_dir: &Path) -> CompactionSettings {
    CompactionSettings {
        target_bytes: config.compaction_target_size.0,
        files_min: config.compaction_min_files.0,
        age_min: config.compaction_min_age.0,
        keep_replaced: config.compaction_keep_replaced.0,
        compression: compression(config.compaction_compression),
        row_group_rows: config.parquet_row_group_size.0,
        scratch: data_dir.join("compaction"),
    }
}

/// `None` if everything is kept for ever.
pub(super) fn retention(config: &Config) -> Option<RetentionSettings> {
    let retention = config.warehouse_retention.as_ref().filter(|retention| retention.is_finite())?;
    let rules = RetentionRules { all: retention.all, apps: retention.apps.clone() };
    Some(RetentionSettings { rules, keep_removed: config.compaction_keep_replaced.0 && config.delta_enabled.0 })
}

/// `None` without a metastore. Call it after the warehouse is open: its directory exists then.
pub(super) fn metastore(config: &Config, data_dir: &Path) -> anyhow::Result<Option<MetastoreSettings>> {
    let Some(metastores) = &config.hive_metastore_uri else { return Ok(None) };
    let location = match config.lake_location().map_err(anyhow::Error::msg)? {
        Some(location) => location,
        None => {
            let directory = super::choice::warehouse_directory(config, data_dir).canonicalize()?;
            let path = directory.to_str().context("the path of the lake is not UTF-8, as a metastore wants it")?;
            format!("file://{path}")
        }
    };
    Ok(Some(MetastoreSettings {
        addresses: metastores.0.clone(),
        database: config.hive_database.0.clone(),
        table: config.hive_table.0.clone(),
        location,
    }))
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
    SqliteSettings {
        dir: data_dir.to_owned(),
        secrets_key: config.secrets_key.as_ref().map(|key| key.0.clone()),
        secrets_key_replaced: config.secrets_key_replaced.is_some_and(|replaced| replaced.0),
    }
}

pub(super) fn gateway(config: &Config, listeners: &Listeners) -> gateway::Settings {
    gateway::Settings {
        http: http::Limits {
            connections_max: listeners.gateway_connections_max,
            memory: listeners.memory.clone(),
            header_bytes_max: config.http_max_header_bytes.0 as usize,
            header_timeout: config.http_read_timeout.0,
            write_timeout: config.http_write_timeout.0,
            idle_timeout: config.http_idle_timeout.0,
            request_timeout: config.http_read_timeout.0 + 3 * config.nats_timeout.0 + ANSWER_SPARE,
            tls: listeners.certificates.gateway.clone(),
            // Behind load balancers, clients keep their connections.
            last_call: config.shutdown_delay.0.min(LAST_CALL),
            drain_timeout: config.http_shutdown_timeout.0.into(),
            refusal_headers: http::RefusalHeaders::request_ids(),
            ..http::Limits::default()
        },
        body_bytes_max: config.max_body_size.0 as usize,
        body_timeout: config.http_read_timeout.0,
        batch_events_max: config.max_batch_events.0,
        event_bytes_max: config.max_event_bytes.0 as usize,
        loopback: !config.exposure().is_public(),
        access: gateway::Access::Open,
        cors: cors(config),
        rate_limits: rate_limits(config),
        trusted_proxies: trusted_proxies(config),
        ready_details: !config.exposure().is_public(),
        quarantine_bytes_max: config.quarantine.0.then_some(config.quarantine_max_bytes.0),
    }
}

/// The settings that the gateway's OpenAPI document shows.
pub(super) fn document_options(config: &Config) -> gateway::DocumentOptions {
    gateway::DocumentOptions {
        keys: config.requires_api_keys(),
        quarantine: config.quarantine.0,
        batch_events_max: config.max_batch_events.0,
    }
}

/// The limits under which quarantined input is replayed.
pub(super) fn replays(config: &Config) -> ReadSettings {
    let (batch_events_max, event_bytes_max) = (config.max_batch_events.0, config.max_event_bytes.0 as usize);
    ReadSettings { batch_events_max, event_bytes_max }
}

fn cors(config: &Config) -> Option<gateway::CorsSettings> {
    // Any page in a browser can reach a server on the same laptop, so there each origin needs to be allowed by name.
    let origins = match &config.cors_allowed_origins {
        Some(origins) => origins.0.clone(),
        None if !config.exposure().is_public() => Vec::new(),
        None => vec!["*".to_owned()],
    };
    config.cors_enabled.0.then(|| gateway::CorsSettings {
        origins,
        methods: config.cors_allowed_methods.0.clone(),
        request_headers: config.cors_allowed_headers.0.clone(),
        exposed_headers: config.cors_exposed_headers.0.clone(),
        credentials: config.cors_allow_credentials.0,
        max_age_seconds: config.cors_max_age.0,
    })
}

fn rate_limits(config: &Config) -> Option<gateway::RateLimitSettings> {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let quota = |rate: config::Rate| gateway::Quota { per_second: number(rate.per_second), burst: number(rate.burst) };
    config.is_rate_limited().then(|| gateway::RateLimitSettings {
        global: quota(config.rate_limit()),
        each: quota(config.rate_limit_per_key()),
        events_per_second: config.rate_limit_events().map(number),
    })
}

pub(super) fn trusted_proxies(config: &Config) -> gateway::TrustedProxies {
    gateway::TrustedProxies(config.trusted_proxies.clone().unwrap_or_default())
}

pub(super) fn admin_service(config: &Config, router: axum::Router) -> AdminService {
    AdminService::new(router, trusted_proxies(config), config.http_read_timeout.0)
}

pub(super) fn admin_limits(config: &Config, listeners: &Listeners) -> http::Limits {
    http::Limits {
        connections_max: listeners.admin_connections_max,
        tls: listeners.certificates.admin.clone(),
        last_call: Duration::ZERO,
        request_timeout: http::Limits::default().request_timeout.max(config.http_read_timeout.0 + ANSWER_SPARE),
        ..gateway(config, listeners).http
    }
}

/// The age at which a file is closed: short for a local directory, longer where each file costs requests.
pub(super) fn flush_interval(config: &Config, local: bool) -> Duration {
    config.batch_flush_interval.map_or(if local { FLUSH_LOCAL } else { FLUSH_REMOTE }, |interval| interval.0)
}

pub(super) fn sink(config: &Config, choice: &Choice) -> sink::Settings {
    let defaults = sink::Settings::default();
    sink::Settings {
        batch_events_max: config.batch_max_events.0,
        flush_interval: flush_interval(config, !choice.objects),
        ack_wait: config.nats_ack_wait.0,
        stream: config.nats_stream_name.clone(),
        file_bytes_max: config.batch_max_bytes.0 as usize,
        memory_bytes_max: config.batch_memory_max.0 as usize,
        fetch_messages_max: config.batch_fetch_batch_size.0,
        fetch_bytes_max: if choice.nats { sink::SERVER_FETCH_BYTES_MAX } else { defaults.fetch_bytes_max },
        max_concurrent_writes: config.batch_max_concurrent_writes.0,
        workers: config.batch_worker_count.0,
        row_group_rows: config.parquet_row_group_size.0,
        compression: compression(config.parquet_compression),
        ..defaults
    }
}

pub(super) fn compression(codec: Codec) -> Compression {
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
        refresh_interval: config.engine_rule_refresh_interval.0.min(config.anomaly_config_refresh_interval.0),
        ack_wait: config.nats_ack_wait.0,
        max_attempts: config.dispatcher_max_attempts.0 as u32,
        disabled_backlog: BacklogLimits {
            deliveries_max: config.webhook_disabled_max_pending.0 as u64,
            age_max: config.webhook_disabled_max_age.0,
        },
        match_threads_max: config.engine_max_concurrent_evaluations.0,
        state_cleanup_interval: config.anomaly_state_cleanup_interval.0,
        state_retention: config.anomaly_state_retention_duration.0,
        ..EngineSettings::default()
    }
}

pub(super) fn dispatcher(config: &Config) -> DispatcherSettings {
    let allowed_networks = match &config.webhook_allowed_networks {
        Some(networks) => AllowedNetworks(networks.clone()),
        // A client that can create webhooks here can reach this machine's services anyway.
        None if !config.exposure().is_public() && config.admin_addr.is_loopback() => AllowedNetworks::loopback(),
        None => AllowedNetworks::default(),
    };
    DispatcherSettings {
        workers: config.dispatcher_workers.0,
        poll_interval: config.dispatcher_poll_interval.0,
        batch_size: config.dispatcher_batch_size.0,
        backoff: Backoff {
            initial: config.dispatcher_initial_backoff.0,
            multiplier: config.dispatcher_backoff_multiplier.0,
            max: config.dispatcher_max_backoff.0,
        },
        request_timeout: config.dispatcher_request_timeout.0,
        lease: claim_lease(config.dispatcher_request_timeout.0),
        tls: TlsFiles {
            ca: config.webhook_ca_file.as_ref().map(PathBuf::from),
            client_certificate: config.webhook_client_cert_file.as_ref().map(PathBuf::from),
            client_key: config.webhook_client_key_file.as_ref().map(PathBuf::from),
        },
        allowed_networks,
        ..DispatcherSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Period, load};

    fn config() -> Config {
        load(None, &[]).unwrap().config
    }

    fn choice() -> Choice {
        Choice::of(&load(None, &[]).unwrap(), &"all".parse().unwrap())
    }

    #[test]
    fn a_request_that_arrives_in_time_has_time_for_its_response() {
        for seconds in [1, 30, 600] {
            let config = Config { http_read_timeout: Period(Duration::from_secs(seconds)), ..config() };
            let listeners = Listeners::of(&config, u64::MAX);
            let settings = gateway(&config, &listeners);
            assert_eq!(settings.body_timeout, Duration::from_secs(seconds));
            let publish = 3 * config.nats_timeout.0;
            assert!(settings.http.request_timeout > settings.body_timeout + publish, "{seconds}");
            assert!(admin_limits(&config, &listeners).request_timeout > settings.body_timeout);
        }
    }

    #[test]
    fn the_sinks_use_a_consumer_name_that_rules_cannot_have() {
        assert_eq!(sink(&config(), &choice()).consumer().name, config::SINK_CONSUMER);
    }

    #[test]
    fn the_bus_waits_for_the_readers_of_the_deployment() {
        let config = config();
        let both = [sink(&config, &choice()).consumer().name, engine(&config).consumer().name];
        assert_eq!(nats(&config).readers, both);
        let alone = Config { nats_stream_readers: config::List(vec!["sink".to_owned()]), ..config };
        assert_eq!(nats(&alone).readers, both[..1]);
    }

    #[test]
    fn the_stages_leave_room_for_the_drain_of_the_gateway() {
        let config = config();
        let Budgets { gateway, sink, reaction, webhooks, upkeep, admin } = Budgets::of(&config);
        let room = config.shutdown_timeout.0 - (gateway + sink + reaction + webhooks + upkeep + admin);
        assert!(room.mul_f64(0.9) > config.http_shutdown_timeout.0, "{room:?}");
    }
}
