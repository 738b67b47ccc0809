//! Checks across settings: each value is valid by itself, some combinations are not.

use std::time::Duration;

use figment::Figment;

use super::error::InvalidSetting;
use super::file_url::directory_of;
use super::read::source;
use super::settings::Config;
use super::value::{Setting, Url};
use super::{compaction, nats, rate_limit};

/// The upper limit of `max_event_bytes`: the maximum message size that NATS advises, and small enough to keep many
/// events in memory.
const EVENT_BYTES_MAX: u64 = 8_000_000;
/// The lower limit of `http_memory_max`: a handful of connections needs this much.
const HTTP_MEMORY_LEAST: u64 = 4 << 20;
/// Sink workers or rule threads of one process: more than any machine can use.
const PARALLEL_MAX: usize = 64;

/// Reports every combination of values that cannot work.
pub(super) fn check(config: &Config, layers: &Figment, invalid: &mut Vec<InvalidSetting>) {
    let mut refuse = |key: &str, value: String, allowed: &str| {
        invalid.push(InvalidSetting {
            key: key.into(),
            value: Some(value),
            source: source(layers, key),
            allowed: allowed.into(),
        });
    };
    if config.max_batch_events.0 > 1_000 {
        refuse("max_batch_events", config.max_batch_events.show(), "a whole number from 1 to 1000");
    }
    if !(1_000..=EVENT_BYTES_MAX).contains(&config.max_event_bytes.0) {
        refuse("max_event_bytes", config.max_event_bytes.show(), "a size from 1KB to 8MB");
    }
    // It may share a disk with the events and must leave room for them.
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
    if config.nats_ack_wait.0 < Duration::from_secs(1) {
        refuse("nats_ack_wait", config.nats_ack_wait.show(), "a duration from 1s");
    }
    if config.warehouse_timeout.0 < Duration::from_secs(1) {
        refuse("warehouse_timeout", config.warehouse_timeout.show(), "a duration from 1s");
    }
    // The latest commits must outlive a stalled process.
    if config.delta_log_retention.0 < Duration::from_secs(3_600) {
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
        // The rest may be a signature.
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
    check_cors(config, &mut refuse);
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

/// Checks the settings of CORS.
fn check_cors(config: &Config, refuse: &mut impl FnMut(&str, String, &str)) {
    if !config.cors_enabled.0 || !config.cors_allow_credentials.0 {
        return;
    }
    let any = |list: &[String]| list.iter().any(|item| item == "*");
    match &config.cors_allowed_origins {
        Some(origins) if any(&origins.0) => {
            let allowed = "origins by name or pattern where cors_allow_credentials is true: with * any page could act \
                           for whoever visits it";
            refuse("cors_allowed_origins", origins.show(), allowed);
        }
        None if config.exposure().is_public() => {
            let allowed = "false, or set together with cors_allowed_origins, which is * otherwise";
            refuse("cors_allow_credentials", config.cors_allow_credentials.show(), allowed);
        }
        _ => {}
    }
    for (key, list) in [
        ("cors_allowed_methods", &config.cors_allowed_methods),
        ("cors_allowed_headers", &config.cors_allowed_headers),
        ("cors_exposed_headers", &config.cors_exposed_headers),
    ] {
        if any(&list.0) {
            refuse(key, list.show(), "names where cors_allow_credentials is true: * is a name like others then");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load_env;

    #[test]
    fn credentials_need_origins_by_name() {
        let refused = |environment: &[(&str, &str)], key: &str| {
            let error = load_env(environment).unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        };
        let (on, origins) = (("CORS_ALLOW_CREDENTIALS", "true"), ("CORS_ALLOWED_ORIGINS", "https://a.test"));
        refused(&[on, ("CORS_ALLOWED_ORIGINS", "https://a.test,*")], "cors_allowed_origins");
        refused(&[on, ("HTTP_ADDR", ":8080")], "cors_allow_credentials");
        refused(&[on, origins, ("CORS_ALLOWED_HEADERS", "*")], "cors_allowed_headers");
        load_env(&[on, origins, ("HTTP_ADDR", ":8080")]).unwrap();
        load_env(&[on]).unwrap();
        load_env(&[on, ("CORS_ALLOWED_ORIGINS", "*"), ("CORS_ENABLED", "false")]).unwrap();
        load_env(&[("CORS_ALLOWED_ORIGINS", "*"), ("CORS_ALLOWED_HEADERS", "*")]).unwrap();
    }
}
