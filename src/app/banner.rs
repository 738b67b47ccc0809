//! What a newcomer needs to see at the start, on a terminal.

use std::io::{IsTerminal, Write};

use super::{Addresses, Plan};
use crate::config::Setting;
use crate::telemetry;

/// Prints where everything is and what to try; only for people.
pub(super) fn print(plan: &Plan, addresses: &Addresses) {
    let config = &plan.loaded.config;
    if !std::io::stdout().is_terminal() || !telemetry::is_text(config.log_format) {
        return;
    }
    let text = render(plan, addresses);
    // Nobody reads a closed terminal.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn render(plan: &Plan, addresses: &Addresses) -> String {
    let config = &plan.loaded.config;
    let (http, admin, dir) = (addresses.http, addresses.admin, config.data_dir.trim_end_matches('/'));
    let data_source = plan.loaded.source("data_dir");
    let open = if config.http_addr.is_loopback() {
        "open to everyone on this machine"
    } else {
        "OPEN TO EVERYONE who reaches it"
    };
    let flush = config.batch_flush_interval.show();
    format!(
        "
causality {version} is ready.

  events     http://{http}   {open}: no API key is asked for
  admin      http://{admin}   this machine only
  data       {dir}   ({data_source})
  bus        SQLite, in this process     (embedded, nothing to install)
  store      SQLite, in this process     (embedded)
  warehouse  Parquet in {dir}/warehouse   (local directory)

Send an event:

  curl http://{http}/v1/events/ingest -H 'Content-Type: application/json' -d '{{\"event\": {{\"appId\": \"demo\", \"deviceId\": \"me\", \"screenView\": {{\"screenName\": \"home\"}}}}}}'

Find it, at most {flush} later:

  duckdb -c \"SELECT * FROM read_parquet('{dir}/warehouse/**/*.parquet', hive_partitioning = true)\"

Ctrl-C stops in order.

",
        version = env!("CARGO_PKG_VERSION"),
    )
}
