//! Logs to standard error and the metrics recorder. Set up once, by `main`.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel, Setting};

/// Seconds; fine where the stated limits are (20 ms reactions), coarse at the ends.
const SECONDS_BUCKETS: [f64; 14] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

/// True when logs are for people: `text`, or `auto` on a terminal.
pub fn is_text(format: LogFormat) -> bool {
    match format {
        LogFormat::Text => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    }
}

/// Starts logging. Our own messages at `level`, other crates' at `warn` unless `level` is finer than `info`.
pub fn start_logs(level: LogLevel, format: LogFormat) {
    let own = level.show();
    let others = match level {
        LogLevel::Error => "error",
        LogLevel::Warn | LogLevel::Info => "warn",
        LogLevel::Debug | LogLevel::Trace => "info",
    };
    // Of HTTP/2 it warns of what its peer does, and a peer can do so again and again.
    let filter = EnvFilter::new(format!("{others},h2=error,causality={own}"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if is_text(format) {
        logs.with_ansi(std::io::stderr().is_terminal()).with_target(false).init();
    } else {
        logs.json().flatten_event(true).with_current_span(false).init();
    }
}

/// Installs the recorder behind `metrics.rs`; the handle renders the Prometheus text format.
pub fn start_metrics() -> anyhow::Result<PrometheusHandle> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    crate::metrics::describe();
    Ok(handle)
}
