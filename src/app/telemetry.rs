//! Sets up logging to standard error and the metrics recorder, once, from the command line.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::base::settings::Setting as _;
use crate::config::{LogFormat, LogLevel};

/// Histogram buckets in seconds: fine around the stated limits (20 ms for reactions), coarse at the ends.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];
/// Buckets in seconds of what waits for a file to be closed.
const FLUSH_BUCKETS: [f64; 9] = [0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0];
const COUNT_BUCKETS: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
/// From 1 KiB to 256 MiB.
const BYTES_BUCKETS: [f64; 7] = [1024.0, 8192.0, 65536.0, 524_288.0, 4_194_304.0, 33_554_432.0, 268_435_456.0];

/// Whether logs are text: `text`, or `auto` on a terminal.
pub fn is_text(format: LogFormat) -> bool {
    match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    }
}

/// Starts logging. Messages of this crate appear from `level`, those of other crates from `warn`, or from `info` if `level` is finer.
pub fn start_logs(level: LogLevel, format: LogFormat) {
    let own = level.show();
    let others = match level {
        LogLevel::Error => "error",
        LogLevel::Warn | LogLevel::Info => "warn",
        LogLevel::Debug | LogLevel::Trace => "info",
    };
    // h2 warns about misbehaving peers, and a peer can misbehave without end.
    let filter = EnvFilter::new(format!("{others},h2=error,causality={own}"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if is_text(format) {
        logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    } else {
        logs.json().flatten_event(true).with_current_span(false).init();
    }
}

/// Installs the recorder behind `metrics.rs`. The handle renders the Prometheus text format.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full("causality_sink_flush_seconds".into()), &FLUSH_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_messages".into()), &COUNT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".into()), &COUNT_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    crate::metrics::describe();
    Ok(handle)
}
