//! The name and type of every setting.

use figment::Figment;

use super::choice::{Codec, LogFormat, LogLevel, Publishing, SslMode, Storage};
use super::cors::{Origins, Seconds, Tokens};
use super::error::InvalidSetting;
use super::hive::{HiveName, Metastores};
use super::read::read_one;
use super::retention::Retention;
use super::token::{KeyReplaced, Token};
use super::value::{
    Address, Attempts, Count, Factor, Flag, Limit, List, Period, Secret, SecretKey, Setting, Size, Url,
};
use crate::base::network::Networks;

/// Declares the settings once: the struct, the names, and how they are read and shown.
macro_rules! settings {
    ($($name:ident: $type:ty),+ $(,)?; $($optional:ident: $inner:ty),+ $(,)?) => {
        /// The effective configuration. `deploy/causality.toml` documents each setting.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(pub $name: $type,)+
            $(pub $optional: Option<$inner>,)+
        }

        /// The names of all settings, in lower case.
        pub const NAMES: &[&str] = &[$(stringify!($name),)+ $(stringify!($optional)),+];

        impl Config {
            pub(super) fn read(layers: &Figment, invalid: &mut Vec<InvalidSetting>) -> Option<Self> {
                $(let $name = read_one::<$type>(layers, stringify!($name), true, invalid);)+
                $(let $optional = read_one::<$inner>(layers, stringify!($optional), false, invalid);)+
                Some(Self { $($name: $name?,)+ $($optional,)+ })
            }

            /// All names and values as text, with secrets redacted; `None` when unset.
            pub fn show(&self) -> Vec<(&'static str, Option<String>)> {
                vec![
                    $((stringify!($name), Some(self.$name.show())),)+
                    $((stringify!($optional), self.$optional.as_ref().map(Setting::show))),+
                ]
            }
        }
    };
}

settings! {
    data_dir: String,
    log_level: LogLevel,
    log_format: LogFormat,
    shutdown_timeout: Period,
    shutdown_delay: Period,
    http_addr: Address,
    http_read_timeout: Period,
    http_write_timeout: Period,
    http_idle_timeout: Period,
    http_max_header_bytes: Size,
    http_max_connections: Count,
    http_max_requests: Count,
    http_memory_max: Size,
    http_shutdown_timeout: Period,
    max_body_size: Size,
    max_batch_events: Count,
    max_event_bytes: Size,
    quarantine: Flag,
    quarantine_max_bytes: Size,
    rate_limit_requests_per_second: Count,
    rate_limit_burst_size: Count,
    cors_enabled: Flag,
    cors_allowed_methods: Tokens,
    cors_allowed_headers: Tokens,
    cors_exposed_headers: Tokens,
    cors_allow_credentials: Flag,
    cors_max_age: Seconds,
    admin_addr: Address,
    metrics_open: Flag,
    audit_retention: Period,
    nats_client_name: String,
    nats_max_reconnects: Attempts,
    nats_reconnect_wait: Period,
    nats_timeout: Period,
    nats_ack_wait: Period,
    nats_publish_mode: Publishing,
    nats_stream_name: String,
    nats_stream_subjects: List,
    nats_stream_readers: List,
    nats_stream_max_bytes: Size,
    nats_stream_max_age: Period,
    nats_stream_replicas: Count,
    nats_stream_storage: Storage,
    nats_stream_dlq_stream_name: String,
    nats_stream_dlq_max_age: Period,
    dedup_window: Period,
    warehouse_timeout: Period,
    batch_max_events: Count,
    batch_max_bytes: Size,
    batch_memory_max: Size,
    batch_max_concurrent_writes: Count,
    batch_fetch_batch_size: Count,
    batch_worker_count: Count,
    parquet_compression: Codec,
    parquet_row_group_size: Count,
    delta_enabled: Flag,
    delta_log_retention: Period,
    compaction_enabled: Flag,
    compaction_schedule: Period,
    compaction_target_size: Size,
    compaction_min_files: Count,
    compaction_min_age: Period,
    compaction_compression: Codec,
    compaction_keep_replaced: Flag,
    vacuum_retention: Period,
    hive_database: HiveName,
    hive_table: HiveName,
    database_port: Count,
    database_user: String,
    database_name: String,
    database_ssl_mode: SslMode,
    database_max_open_conns: Count,
    database_max_idle_conns: Count,
    database_conn_max_lifetime: Period,
    database_connect_timeout: Period,
    database_statement_timeout: Period,
    consumer_name: String,
    engine_rule_refresh_interval: Period,
    engine_max_concurrent_evaluations: Count,
    anomaly_config_refresh_interval: Period,
    anomaly_state_cleanup_interval: Period,
    anomaly_state_retention_duration: Period,
    dispatcher_workers: Count,
    dispatcher_poll_interval: Period,
    dispatcher_batch_size: Count,
    dispatcher_initial_backoff: Period,
    dispatcher_max_backoff: Period,
    dispatcher_backoff_multiplier: Factor,
    dispatcher_max_attempts: Count,
    dispatcher_request_timeout: Period,
    webhook_disabled_max_pending: Count,
    webhook_disabled_max_age: Period;
    admin_token: Token,
    metrics_token: Token,
    http_body_memory_max: Size,
    warehouse_columns: List,
    warehouse_retention: Retention,
    tls_cert_file: String,
    tls_key_file: String,
    admin_tls_cert_file: String,
    admin_tls_key_file: String,
    admin_tls_client_ca_file: String,
    auth_enabled: Flag,
    trusted_proxies: Networks,
    rate_limit_enabled: Flag,
    rate_limit_per_key_rps: Count,
    rate_limit_per_key_burst: Count,
    rate_limit_events_per_second: Limit,
    cors_allowed_origins: Origins,
    nats_url: Url,
    nats_credentials_file: String,
    nats_ca_file: String,
    warehouse_url: Url,
    s3_endpoint: Url,
    s3_region: String,
    s3_bucket: String,
    s3_access_key_id: String,
    s3_secret_access_key: Secret,
    s3_use_path_style: Flag,
    s3_prefix: String,
    batch_flush_interval: Period,
    hive_metastore_uri: Metastores,
    hive_location: Url,
    database_url: Url,
    database_host: String,
    database_password: Secret,
    database_ca_file: String,
    webhook_allowed_networks: Networks,
    webhook_ca_file: String,
    webhook_client_cert_file: String,
    webhook_client_key_file: String,
    secrets_key: SecretKey,
    secrets_key_replaced: KeyReplaced,
}
