//! The banner that a terminal shows at the start: where everything is, and what to try.

use std::io::{IsTerminal, Write};

use super::choice::Choice;
use super::plan::{Addresses, Plan};
use super::telemetry;
use crate::base::settings::Setting as _;
use crate::config::Exposure;

/// Prints the banner if standard output is a terminal and logs are text.
pub(super) fn print(plan: &Plan, choice: &Choice, addresses: &Addresses) {
    let config = &plan.loaded.config;
    if !std::io::stdout().is_terminal() || !telemetry::is_text(config.process.log_format) {
        return;
    }
    let text = render(plan, choice, addresses);
    // A closed terminal is no failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn render(plan: &Plan, choice: &Choice, addresses: &Addresses) -> String {
    let config = &plan.loaded.config;
    let dir = config.process.data_dir.display().to_string();
    let dir = dir.trim_end_matches('/');
    let scheme = scheme(config.http.tls_certificate.is_some());
    let mut text = format!("\ncausality {} is ready.\n\n", env!("CARGO_PKG_VERSION"));
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<10} {value}\n"));
    if !plan.roles.is_all() {
        line("roles", plan.roles.to_string());
    }
    if let Some(http) = addresses.http {
        let access = match (choice.keys, config.exposure) {
            (true, _) => "with an API key",
            (false, Exposure::Machine) => "open to everyone on this machine: no API key is asked for",
            (false, Exposure::Proxies) => "OPEN TO EVERYONE whom the proxies let through: no API key is asked for",
            (false, Exposure::Network) => "OPEN TO EVERYONE who reaches it: no API key is asked for",
        };
        line("events", format!("{scheme}://{http}   {access}"));
    }
    let reach = match (config.admin.requires_token(), config.admin.token.is_some()) {
        (false, _) => "this machine only",
        (true, true) => "asks for a token (ADMIN_TOKEN)",
        (true, false) => "asks for a token; ADMIN_TOKEN is not set",
    };
    let admin_scheme = self::scheme(config.admin.tls_certificate.is_some());
    line("admin", format!("{admin_scheme}://{}   {reach}", addresses.admin));
    if choice.needs_directory() {
        line("data", format!("{dir}   ({})", plan.loaded.source("data_dir")));
    }
    line(
        "bus",
        backend(plan, choice.bus_name(), "nats_url", "SQLite, in this process     (embedded, nothing to install)"),
    );
    if choice.store_name() != "none" {
        let setting = if config.postgres.url.is_some() { "database_url" } else { "database_host" };
        line("store", backend(plan, choice.store_name(), setting, "SQLite, in this process     (embedded)"));
    }
    let warehouse = match &config.lake.objects.url {
        Some(url) => config.lake.objects.directory().map_or_else(|| url.show(), |path| path.display().to_string()),
        None => format!("{dir}/warehouse"),
    };
    if choice.warehouse_name() != "none" {
        let setting = if config.lake.objects.url.is_some() { "warehouse_url" } else { "s3_bucket" };
        let local = format!("Parquet in {warehouse}   (local directory)");
        line("warehouse", backend(plan, choice.warehouse_name(), setting, &local));
    }
    if let Some(http) = addresses.http {
        let (create, header) = match choice.keys {
            true => ("  KEY=$(causality keys create --app demo --name me)\n", " -H \"X-API-Key: $KEY\""),
            false => ("", ""),
        };
        text.push_str(&format!(
            "
Send an event:

{create}  curl {scheme}://{http}/v1/events/ingest{header} -H 'Content-Type: application/json' -d '{{\"event\": {{\"appId\": \"demo\", \"deviceId\": \"me\", \"screenView\": {{\"screenName\": \"home\"}}}}}}'
"
        ));
    }
    if choice.warehouse_name() == "local" {
        let flush = config.sink.flush_interval.show();
        text.push_str(&format!(
            "
Find it, at most {flush} later:

  duckdb -c \"SELECT * FROM read_parquet('{warehouse}/**/events_*.parquet', hive_partitioning = true)\"
"
        ));
    }
    text.push_str("\nCtrl-C stops in order.\n\n");
    text
}

fn scheme(has_certificate: bool) -> &'static str {
    if has_certificate { "https" } else { "http" }
}

/// Describes an engine and the source of the choice.
fn backend(plan: &Plan, name: &str, setting: &str, embedded: &str) -> String {
    let title = match name {
        "nats" => "NATS JetStream",
        "postgres" => "PostgreSQL",
        "objects" => "Parquet in an object store",
        _ => return embedded.to_owned(),
    };
    match plan.loaded.shown(setting).and_then(|shown| shown.value.as_ref()) {
        Some(value) => format!("{title} at {value}   ({setting}, {})", plan.loaded.source(setting)),
        None => format!("{title} at its usual address   (roles run apart)"),
    }
}
