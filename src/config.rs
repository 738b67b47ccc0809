//! The settings: built-in defaults < `--config` file < environment < flags.
//!
//! Invariant: a setting has one name everywhere (lower case in files, capitals in the
//! environment) and one parser. Knows no other module: `app` maps these values onto the
//! settings of each part.

mod choice;
mod compaction;
mod cors;
mod exposure;
mod file_url;
mod hive;
mod nats;
mod rate_limit;
mod redaction;
mod retention;
mod token;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};

use figment::providers::{Format, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

pub use choice::{Codec, LogFormat, LogLevel, Publishing, SslMode, Storage};
pub use cors::{Origins, Seconds, Tokens};
pub use exposure::Exposure;
use file_url::directory_of;
pub use hive::{HiveName, Metastores};
pub use nats::{READER_REACTION, READER_SINK, SINK_CONSUMER};
pub use rate_limit::Rate;
use redaction::shown;
pub use retention::Retention;
pub use token::{Replaced, Token};
pub use value::{
    Address, Attempts, Count, Factor, Flag, Limit, List, Networks, Period, Secret, SecretKey, Setting, Size, Url,
};

/// The built-in defaults, commented: also the documentation of every setting.
pub const DEFAULTS: &str = include_str!("../deploy/causality.toml");

/// Declares the settings once: the struct, their names, and how they are read and shown.
macro_rules! settings {
    ($($name:ident: $type:ty),+ $(,)?; $($optional:ident: $inner:ty),+ $(,)?) => {
        /// The effective configuration. `deploy/causality.toml` says what each setting means.
        #[derive(Clone, Debug)]
        pub struct Config {
            $(pub $name: $type,)+
            $(pub $optional: Option<$inner>,)+
        }

        /// Every setting's name, in lower case.
        pub const NAMES: &[&str] = &[$(stringify!($name),)+ $(stringify!($optional)),+];

        impl Config {
            fn read(layers: &Figment, wrong: &mut Vec<Wrong>) -> Option<Self> {
                $(let $name = read_one::<$type>(layers, stringify!($name), true, wrong);)+
                $(let $optional = read_one::<$inner>(layers, stringify!($optional), false, wrong);)+
                Some(Self { $($name: $name?,)+ $($optional,)+ })
            }

            /// Names with their values as text, secrets redacted; `None` when unset.
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
    secrets_key_replaced: Replaced,
}

/// The largest event that can be allowed: what NATS advises as the limit of a message, and what one process can have
/// many of in memory.
const EVENT_BYTES_MAX: u64 = 8_000_000;
/// Less would refuse what a handful of connections needs.
const HTTP_MEMORY_LEAST: u64 = 4 << 20;
/// Sink workers, or threads that match rules, of one process: more than any machine has use for.
const PARALLEL_MAX: usize = 64;

/// Names that other versions have and this one does not, with what to do instead: a value that would silently be
/// ignored is refused. A name that ends with `_` stands for all that begin with it. A flag that is off asks for what is
/// the case anyway, and with `..._ENABLED` off the other settings of that feature ask for nothing.
const UNSUPPORTED: &[(&str, &str)] = &[("HTTP_TLS_", "TLS_CERT_FILE and TLS_KEY_FILE in its place")];

/// What is to be set instead of a name that this version does not have; nothing for a name that asks for nothing.
fn unsupported(name: &str, value: &str, environment: &[(String, String)]) -> Option<&'static str> {
    // Kubernetes tells every pod of every service: one that is called http-tls-proxy is no setting.
    let of_service = name.contains("_SERVICE_") || name.contains("_PORT");
    let matches = |unsupported: &str| {
        name == unsupported || (unsupported.ends_with('_') && name.starts_with(unsupported) && !of_service)
    };
    let (unsupported, instead) = UNSUPPORTED.iter().find(|(unsupported, _)| matches(unsupported))?;
    let off = |value: &str| Flag::parse(value) == Ok(Flag(false));
    let is_flag = name.ends_with("_ENABLED");
    let switch = format!("{unsupported}ENABLED");
    let feature_off = environment.iter().any(|(name, value)| *name == switch && off(value));
    if is_flag && off(value) || feature_off && !is_flag { None } else { Some(instead) }
}

/// The configuration with where each value came from.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    layers: Figment,
}

impl Loaded {
    /// Where the value of `name` came from, for people.
    pub fn source(&self, name: &str) -> String {
        source(&self.layers, name)
    }
}

/// Reads all layers. `flags` are names with the text given on the command line.
pub fn load(file: Option<&Path>, flags: &[(&'static str, String)]) -> Result<Loaded, ConfigError> {
    load_from(
        file,
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        flags,
    )
}

fn load_from(
    file: Option<&Path>,
    environment: impl Iterator<Item = (String, String)>,
    flags: &[(&'static str, String)],
) -> Result<Loaded, ConfigError> {
    let mut wrong = Vec::new();
    let mut layers = Figment::from(Toml::string(DEFAULTS));
    if let Some(path) = file {
        layers = layers.merge(FileLayer::read(path, &mut wrong)?);
    }
    let mut known = Vec::new();
    // Empty, as a compose file leaves it when nobody set it, counts as unset.
    let environment: Vec<(String, String)> = environment.filter(|(_, value)| !value.is_empty()).collect();
    for (name, value) in environment.clone() {
        if let Some(instead) = unsupported(&name, &value, &environment) {
            let allowed = format!("{instead}; unset it");
            wrong.push(Wrong { key: name, value: None, source: "environment".into(), allowed });
        } else if let Some(known_name) = NAMES
            .iter()
            .find(|known| known.eq_ignore_ascii_case(&name) && name.chars().all(|c| !c.is_ascii_lowercase()))
        {
            known.push((*known_name, value));
        }
    }
    layers = layers.merge(TextLayer { name: "environment", values: known });
    layers = layers.merge(TextLayer { name: "flag", values: flags.to_vec() });
    let config = Config::read(&layers, &mut wrong);
    match config {
        Some(config) if wrong.is_empty() => {
            check(&config, &layers, &mut wrong);
            if wrong.is_empty() { Ok(Loaded { config, layers }) } else { Err(ConfigError::Wrong(wrong)) }
        }
        _ => Err(ConfigError::Wrong(wrong)),
    }
}

/// What values must hold together.
fn check(config: &Config, layers: &Figment, wrong: &mut Vec<Wrong>) {
    let mut refuse = |key: &str, value: String, allowed: &str| {
        wrong.push(Wrong { key: key.into(), value: Some(value), source: source(layers, key), allowed: allowed.into() });
    };
    if config.max_batch_events.0 > 1_000 {
        refuse("max_batch_events", config.max_batch_events.show(), "a whole number from 1 to 1000");
    }
    if !(1_000..=EVENT_BYTES_MAX).contains(&config.max_event_bytes.0) {
        refuse("max_event_bytes", config.max_event_bytes.show(), "a size from 1KB to 8MB");
    }
    // On one disk with the events it must leave them room.
    if config.quarantine.0 && config.quarantine_max_bytes.0 > config.nats_stream_max_bytes.0 / 2 {
        refuse("quarantine_max_bytes", config.quarantine_max_bytes.show(), "at most half of nats_stream_max_bytes");
    }
    if config.http_memory_max.0 < 2 * config.max_body_size.0.max(HTTP_MEMORY_LEAST / 2) {
        refuse("http_memory_max", config.http_memory_max.show(), "at least 4MiB, and twice max_body_size");
    }
    if let Some(bodies) = config.http_body_memory_max
        && !(config.max_body_size.0..=config.http_memory_max.0).contains(&bodies.0)
    {
        refuse("http_body_memory_max", bodies.show(), "at least max_body_size, and at most http_memory_max");
    }
    if config.dispatcher_max_backoff.0 < config.dispatcher_initial_backoff.0 {
        refuse("dispatcher_max_backoff", config.dispatcher_max_backoff.show(), "at least dispatcher_initial_backoff");
    }
    if config.database_port.0 > usize::from(u16::MAX) {
        refuse("database_port", config.database_port.show(), "a port from 1 to 65535");
    }
    for (key, count) in [
        ("batch_worker_count", config.batch_worker_count),
        ("engine_max_concurrent_evaluations", config.engine_max_concurrent_evaluations),
    ] {
        if count.0 > PARALLEL_MAX {
            refuse(key, count.show(), "a whole number from 1 to 64");
        }
    }
    if config.nats_ack_wait.0 < std::time::Duration::from_secs(1) {
        refuse("nats_ack_wait", config.nats_ack_wait.show(), "a duration from 1s");
    }
    if config.warehouse_timeout.0 < std::time::Duration::from_secs(1) {
        refuse("warehouse_timeout", config.warehouse_timeout.show(), "a duration from 1s");
    }
    // A process that stands still must not find the log's latest commits cleaned up.
    if config.delta_log_retention.0 < std::time::Duration::from_secs(3_600) {
        refuse("delta_log_retention", config.delta_log_retention.show(), "a duration from 1h");
    }
    compaction::check(config, &mut refuse);
    if config.hive_metastore_uri.is_some()
        && let Err(allowed) = config.lake_location()
    {
        refuse("hive_location", String::new(), allowed);
    }
    if config.s3_access_key_id.is_some() != config.s3_secret_access_key.is_some() {
        let missing = if config.s3_access_key_id.is_some() { "s3_secret_access_key" } else { "s3_access_key_id" };
        refuse(missing, String::new(), "set together with the other half of the credentials, or neither");
    }
    if config.warehouse_url.is_some() && (config.s3_bucket.is_some() || config.s3_prefix.is_some()) {
        let url = config.warehouse_url.as_ref().map(Setting::show).unwrap_or_default();
        refuse("warehouse_url", url, "unset when s3_bucket or s3_prefix is set: it names bucket and prefix itself");
    }
    if let Some(Url(url)) = &config.warehouse_url
        && let Some(end) = url.find(['?', '#'])
    {
        // What follows may be a signature.
        let shown = format!("{}{}***", Url(url[..end].to_owned()).show(), &url[end..=end]);
        let allowed = "a URL without ? and #: what gives access has names of its own, such as AZURE_STORAGE_SAS_TOKEN";
        refuse("warehouse_url", shown, allowed);
    }
    if let Some(endpoint) = &config.s3_endpoint
        && endpoint.0.contains(['@', '?', '#'])
    {
        let allowed = "a URL of a host alone: what gives access is s3_access_key_id and s3_secret_access_key";
        refuse("s3_endpoint", endpoint.show(), allowed);
    }
    if config.webhook_client_cert_file.is_some() != config.webhook_client_key_file.is_some() {
        let missing = match config.webhook_client_key_file {
            None => "webhook_client_key_file",
            Some(_) => "webhook_client_cert_file",
        };
        refuse(missing, String::new(), "set together with the other of the two files, or neither");
    }
    if let Some(url) = &config.warehouse_url
        && let Some(Err(allowed)) = directory_of(&url.0)
    {
        refuse("warehouse_url", url.show(), allowed);
    }
    if config.metrics_token.is_some() && config.metrics_token == config.admin_token {
        refuse("metrics_token", "***".to_owned(), "another token than admin_token: it is given to a scraper");
    }
    nats::check(config, &mut refuse);
    cors::check(config, &mut refuse);
    rate_limit::check(config, &mut refuse);
    let flush = config.batch_flush_interval.unwrap_or(config.http_read_timeout);
    for (key, period) in [
        ("batch_flush_interval", flush),
        ("nats_timeout", config.nats_timeout),
        ("database_connect_timeout", config.database_connect_timeout),
        ("database_statement_timeout", config.database_statement_timeout),
        ("shutdown_timeout", config.shutdown_timeout),
        ("http_read_timeout", config.http_read_timeout),
        ("audit_retention", config.audit_retention),
    ] {
        if period.0.is_zero() {
            refuse(key, period.show(), "a duration above 0s");
        }
    }
}

/// One layer of names and texts: the environment, or flags.
struct TextLayer {
    name: &'static str,
    values: Vec<(&'static str, String)>,
}

impl Provider for TextLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        let values = self.values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.clone()))).collect();
        Ok(Map::from([(Profile::Default, values)]))
    }
}

/// A file given with `--config`, its unknown keys already reported.
struct FileLayer {
    path: PathBuf,
    values: Dict,
}

impl FileLayer {
    fn read(path: &Path, wrong: &mut Vec<Wrong>) -> Result<Self, ConfigError> {
        let unreadable = |detail: String| ConfigError::File { path: path.to_owned(), detail };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let values: Dict = toml::from_str(&text).map_err(|error| {
            // Only where: the parser's own words show the line, which may hold a password.
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            unreadable(format!("line {line}: {}", error.message()))
        })?;
        for key in values.keys().filter(|key| !NAMES.contains(&key.as_str())) {
            let nearest = NAMES.iter().find(|name| name.contains(key.as_str()) || key.contains(**name));
            let allowed = match nearest {
                Some(name) => format!("a setting's name; did you mean {name}?"),
                None => "a setting's name; `causality config` lists them".into(),
            };
            wrong.push(Wrong { key: key.clone(), value: None, source: path.display().to_string(), allowed });
        }
        Ok(Self { path: path.to_owned(), values })
    }
}

impl Provider for FileLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.path.display().to_string())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

fn source(layers: &Figment, name: &str) -> String {
    match layers.find_metadata(name).map(|metadata| &*metadata.name) {
        Some("environment") => format!("environment {}", name.to_ascii_uppercase()),
        Some("flag") => format!("flag --{}", name.replace('_', "-")),
        Some(file) if !file.starts_with("TOML") => file.to_owned(),
        _ => "default".into(),
    }
}

fn read_one<T: Setting>(layers: &Figment, name: &str, required: bool, wrong: &mut Vec<Wrong>) -> Option<T> {
    let refuse = |value: Option<String>, allowed: String| Wrong {
        key: name.into(),
        value,
        source: source(layers, name),
        allowed,
    };
    let Ok(value) = layers.find_value(name) else {
        if required {
            wrong.push(refuse(None, "a value: it has no default".into()));
        }
        return None;
    };
    let Some(text) = text_of(&value) else {
        wrong.push(refuse(None, "text, a number, true or false, or a list of texts".into()));
        return None;
    };
    match T::parse(&text) {
        Ok(parsed) => Some(parsed),
        // What is secret is so although it is wrong.
        Err(allowed) => {
            let shown = if T::CONFIDENTIAL { "***".into() } else { shown(&text) };
            wrong.push(refuse(Some(shown), allowed));
            None
        }
    }
}

/// A scalar or a list of scalars as the text that the environment would hold.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, on) => Some(on.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|whole| whole.to_string())
            .or_else(|| number.to_u128().map(|whole| whole.to_string()))
            .or_else(|| number.to_f64().map(|real| real.to_string())),
        Value::Array(_, items) => items.iter().map(text_of).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        _ => None,
    }
}

/// One setting that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub key: String,
    pub value: Option<String>,
    pub source: String,
    pub allowed: String,
}

/// Why the configuration cannot be used; every wrong setting at once.
#[derive(Debug)]
pub enum ConfigError {
    File { path: PathBuf, detail: String },
    Wrong(Vec<Wrong>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, detail } => write!(f, "cannot read configuration file {}: {detail}", path.display()),
            Self::Wrong(all) => {
                for (index, wrong) in all.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    let value = wrong.value.as_ref().map(|value| format!(" = {value:?}")).unwrap_or_default();
                    write!(
                        f,
                        "{separator}{}{value} (from {}) is not allowed; allowed: {}",
                        wrong.key, wrong.source, wrong.allowed
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// The directory that `warehouse_url` names, when it names one.
    pub fn warehouse_directory(&self) -> Option<PathBuf> {
        directory_of(&self.warehouse_url.as_ref()?.0)?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn load_env(environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load_from(None, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), &[])
    }

    #[test]
    fn the_defaults_file_names_every_setting_and_no_other() {
        let values: Dict = toml::from_str(DEFAULTS).unwrap();
        for key in values.keys() {
            assert!(NAMES.contains(&key.as_str()), "{key} is in causality.toml and not in the code");
        }
        for name in NAMES {
            assert!(
                DEFAULTS
                    .lines()
                    .any(|line| line.starts_with(&format!("{name} = ")) || line.starts_with(&format!("#= {name} = "))),
                "{name} is not in causality.toml"
            );
        }
    }

    #[test]
    fn the_documentation_has_a_row_for_every_setting_with_its_default() {
        let table = include_str!("../docs/configuration.md");
        let values: Dict = toml::from_str(DEFAULTS).unwrap();
        for name in NAMES {
            let start = format!("| `{}` | ", name.to_ascii_uppercase());
            let row = table.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row of {name}"));
            let default = values.get(*name).map_or(String::new(), |value| format!("`{}`", text_of(value).unwrap()));
            assert!(row.ends_with(&format!("| {default} |")), "{row}: the default is {default}");
        }
        let rows = table.lines().filter(|line| line.starts_with("| `") && !line.starts_with("| `HTTP_TLS")).count();
        assert_eq!(rows, NAMES.len());
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "http_addr = \":1\"\nmax_body_size = 1000\nmax_batch_events = 10\n").unwrap();
        let environment = [("MAX_BODY_SIZE".to_owned(), "2KiB".to_owned()), ("UNRELATED".to_owned(), "x".to_owned())];
        let loaded = load_from(Some(&file), environment.into_iter(), &[("data_dir", "/d".into())]).unwrap();
        assert_eq!(loaded.config.http_addr.show(), ":1");
        assert_eq!(loaded.config.max_body_size, Size(2048));
        assert_eq!(loaded.config.max_batch_events, Count(10));
        assert_eq!(loaded.config.data_dir, "/d");
        assert_eq!(loaded.source("http_addr"), file.display().to_string());
        assert_eq!(loaded.source("max_body_size"), "environment MAX_BODY_SIZE");
        assert_eq!(loaded.source("data_dir"), "flag --data-dir");
        assert_eq!(loaded.source("log_level"), "default");
    }

    #[test]
    fn every_wrong_value_is_named_with_what_is_allowed() {
        let error = load_env(&[("HTTP_ADDR", "nowhere"), ("DEDUP_WINDOW", "10"), ("LOG_FORMAT", "xml")])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(r#"http_addr = "nowhere" (from environment HTTP_ADDR) is not allowed; allowed: host:port"#),
            "{error}"
        );
        assert!(
            error.contains("dedup_window = \"10\"")
                && error.contains("log_format = \"xml\"")
                && error.contains("one of auto, text, json"),
            "{error}"
        );
    }

    #[test]
    fn unknown_keys_of_a_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "http_adr = \":1\"\nbody_size = 3\n").unwrap();
        let error = load_from(Some(&file), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(error.contains("http_adr") && error.contains("did you mean max_body_size?"), "{error}");
    }

    #[test]
    fn what_this_version_cannot_do_is_refused_not_ignored() {
        let of_prefixes = ["HTTP_TLS_KEY_FILE"];
        let whole = UNSUPPORTED.iter().map(|(name, _)| *name).filter(|name| !name.ends_with('_'));
        for name in whole.chain(of_prefixes) {
            let error = load_env(&[(name, "7")]).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("unset it"), "{error}");
            load_env(&[(name, "")]).unwrap();
        }
        for off in ["false", "False", "0", "no", "off"] {
            load_env(&[("HTTP_TLS_ENABLED", off)]).unwrap();
        }
        for on in ["true", "1", "maybe"] {
            load_env(&[("HTTP_TLS_ENABLED", on)]).unwrap_err();
        }
        load_env(&[("HTTP_TLS_ENABLED", "no"), ("HTTP_TLS_PORT", "5")]).unwrap();
        load_env(&[("HTTP_TLS_ENABLED", "yes"), ("HTTP_TLS_KEY_FILE", "5")]).unwrap_err();
        load_env(&[("HTTP_TLSX", "5"), ("MY_HTTP_TLS_KEY_FILE", "5")]).unwrap();
        load_env(&[("HTTP_TLS_UI_SERVICE_HOST", "10.0.0.1"), ("HTTP_TLS_UI_PORT_80_TCP", "tcp://10.0.0.1:80")])
            .unwrap();
        let error = load_env(&[("S3_ACCESS_KEY_ID", "a")]).unwrap_err().to_string();
        assert!(error.contains("s3_secret_access_key"), "{error}");
    }

    #[test]
    fn the_size_of_an_event_has_bounds() {
        for wrong in ["0", "999", "8000001", "1GiB"] {
            let error = load_env(&[("MAX_EVENT_BYTES", wrong)]).unwrap_err().to_string();
            assert!(error.contains("max_event_bytes") && error.contains("1KB to 8MB"), "{error}");
        }
        for (right, bytes) in [("1KB", 1_000), ("4MiB", 4 << 20), ("8MB", 8_000_000)] {
            assert_eq!(load_env(&[("MAX_EVENT_BYTES", right)]).unwrap().config.max_event_bytes, Size(bytes));
        }
        assert_eq!(load_env(&[]).unwrap().config.max_event_bytes, Size(1_000_000));
    }

    #[test]
    fn the_memory_for_requests_holds_the_largest_body() {
        assert!(load_env(&[("HTTP_MEMORY_MAX", "10MiB")]).is_ok());
        for wrong in
            [[("HTTP_MEMORY_MAX", "9MiB"), ("X", "")], [("HTTP_MEMORY_MAX", "3MiB"), ("MAX_BODY_SIZE", "1MiB")]]
        {
            let error = load_env(&wrong).unwrap_err().to_string();
            assert!(error.contains("http_memory_max") && error.contains("twice max_body_size"), "{error}");
        }
        assert!(load_env(&[("MAX_BODY_SIZE", "40MiB")]).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let key = "0f".repeat(32);
        let loaded = load_env(&[("SECRETS_KEY", &key)]).unwrap();
        assert!(!format!("{:?} {:?}", loaded.config, loaded.config.show()).contains(&key));
        let error = load_env(&[("SECRETS_KEY", "hunter2")]).unwrap_err().to_string();
        assert!(error.contains("secrets_key") && !error.contains("hunter2"), "{error}");
        for url in ["az://c/p?sig=hunter2", "az://c/p?sv=1&st=hunter2", "s3://b/p#hunter2", "az://c?a,sig=hunter2"] {
            let error = load_env(&[("WAREHOUSE_URL", url)]).unwrap_err().to_string();
            assert!(error.contains("warehouse_url") && !error.contains("hunter2"), "{error}");
        }
        for (name, url) in [
            ("S3_ENDPOINT", "http://u:hunt/hunter2@h:9000"),
            ("S3_ENDPOINT", "http://h:9000/?token=hunter2"),
            ("WAREHOUSE_URL", "s3://AKIA:hunter2?hunter2@bucket"),
        ] {
            let error = load_env(&[(name, url)]).unwrap_err().to_string();
            assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
        }
        let slashed = load_env(&[("DATABASE_URL", "postgres://u:hunt/er?2hunter2@h/db")]).unwrap();
        assert!(!format!("{:?} {:?}", slashed.config, slashed.config.show()).contains("hunt"));
        for url in ["postgres//u:hunter2@h/db", "postgres:hunter2", "hunter2", "host=h password=hunter2"] {
            for name in ["DATABASE_URL", "NATS_URL", "WAREHOUSE_URL", "S3_ENDPOINT"] {
                let error = load_env(&[(name, url)]).unwrap_err().to_string();
                assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
            }
        }
        // A URL in the wrong place still holds its password.
        for text in
            ["http://u:hunter2@h:80", "u:hunter2@h:80", "http://u:hunter2", "http://h?token=hunter2", "h#hunter2"]
        {
            for name in ["HTTP_ADDR", "RATE_LIMIT_PER_KEY_RPS", "CORS_ALLOWED_ORIGINS"] {
                let error = load_env(&[(name, text)]).unwrap_err().to_string();
                assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
            }
        }
        for name in ["SECRETS_KEY_REPLACED", "ADMIN_TOKEN", "METRICS_TOKEN"] {
            let error = load_env(&[(name, "hunter2")]).unwrap_err().to_string();
            assert!(error.contains(&name.to_ascii_lowercase()) && !error.contains("hunter2"), "{error}");
        }
        let misplaced = load_env(&[("DATABASE_HOST", "postgres://u:hunter2@h/db")]).unwrap();
        assert!(!format!("{:?}", misplaced.config.show()).contains("hunter2"));
    }

    #[test]
    fn what_is_no_secret_is_shown_when_it_is_wrong() {
        for (name, value) in [
            ("RATE_LIMIT_PER_KEY_RPS", "abc"),
            ("RATE_LIMIT_PER_KEY_BURST", "-1"),
            ("CORS_ALLOWED_ORIGINS", "https://*"),
            ("CORS_ALLOWED_ORIGINS", "https://app.example.com:8443,https://*.com"),
            ("CORS_ALLOWED_ORIGINS", "https://example.com/path"),
            ("HTTP_ADDR", "http://localhost:8080"),
            ("TRUSTED_PROXIES", "http://10.0.0.1"),
        ] {
            let error = load_env(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(&format!("= {value:?} ")), "{error}");
        }
    }

    #[test]
    fn a_wrong_value_is_hidden_where_a_right_one_is() {
        // Either all of a setting's values are hidden, or none: `show` and the error go by the same list.
        let token = "a1".repeat(16);
        let right = [("ADMIN_TOKEN", &*token), ("DATABASE_PASSWORD", "hunter2"), ("RATE_LIMIT_PER_KEY_RPS", "7")];
        let shown = load_env(&right).unwrap().config.show();
        for (name, value) in right {
            let (_, told) = shown.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).unwrap();
            let is_hidden = told.as_deref() == Some("***");
            assert!(is_hidden || told.as_deref() == Some(value), "{name}: {told:?}");
            if let Err(error) = load_env(&[(name, "x")]) {
                assert_eq!(error.to_string().contains("***"), is_hidden, "{error}");
            }
        }
    }

    #[test]
    fn a_file_that_is_not_toml_is_not_repeated() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.toml");
        std::fs::write(&file, "data_dir = \"x\"\ndatabase_password = hunter2\n").unwrap();
        let error = load_from(Some(&file), std::iter::empty(), &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }
}
