//! What each metric is: the HELP lines, the initial values, and docs/metrics.md.
//!
//! Invariant: a test holds that this table has exactly the metrics and labels that the functions of `metrics` write.

use metrics::{Label, counter, describe_counter, describe_gauge, describe_histogram};

/// Gives every metric its HELP line. Call this after the recorder is installed.
pub fn describe() {
    for Metric { kind, name, help, .. } in metrics() {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
}

/// Starts counters at zero where all values of their labels are known: `increase()` would miss the first event of a series
/// that begins with it. `roles` selects the parts that this process has.
pub(super) fn start_counters(roles: &[&str]) {
    let is_ours = |part: &&Part| part.roles.is_empty() || part.roles.iter().any(|role| roles.contains(role));
    for metric in PARTS.iter().filter(is_ours).flat_map(|part| part.metrics) {
        if metric.kind == Kind::Counter && metric.labels.iter().all(|(_, values)| !values.is_empty()) {
            for labels in combinations(metric.labels) {
                counter!(metric.name, labels).increment(0);
            }
        }
    }
}

/// Every combination of the values of the labels.
fn combinations(labels: Labels) -> Vec<Vec<Label>> {
    let Some(((name, values), others)) = labels.split_first() else { return vec![Vec::new()] };
    let others = combinations(others);
    let with = |value| others.iter().map(move |more| [vec![Label::new(*name, value)], more.clone()].concat());
    values.split(' ').flat_map(with).collect()
}

fn metrics() -> impl Iterator<Item = &'static Metric> {
    PARTS.iter().flat_map(|part| part.metrics)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

struct Metric {
    kind: Kind,
    name: &'static str,
    /// Each label with its values, separated by blanks; empty where they are not known in advance.
    labels: Labels,
    help: &'static str,
}

/// The metrics of one section of the documentation.
struct Part {
    #[cfg_attr(not(test), allow(dead_code, reason = "the heading in the documentation"))]
    title: &'static str,
    /// The roles that have these metrics; none: every process.
    roles: &'static [&'static str],
    metrics: &'static [Metric],
}

type Labels = &'static [(&'static str, &'static str)];

const fn counter(name: &'static str, labels: Labels, help: &'static str) -> Metric {
    Metric { kind: Kind::Counter, name, labels, help }
}

const fn gauge(name: &'static str, labels: Labels, help: &'static str) -> Metric {
    Metric { kind: Kind::Gauge, name, labels, help }
}

const fn histogram(name: &'static str, labels: Labels, help: &'static str) -> Metric {
    Metric { kind: Kind::Histogram, name, labels, help }
}

#[rustfmt::skip]
const PARTS: &[Part] = &[
    Part { title: "Every process", roles: &[], metrics: &[
        gauge("causality_ready", &[], "1 while the process takes traffic, else 0."),
        gauge("causality_role", &[("role", "gateway sink reaction")], "1 for each role of this process."),
        gauge("causality_build_info", &[("version", "")], "1, with the version of the program."),
        gauge("causality_component_up", &[("component", "")],
            "1 while the process can use this backend, else 0; /ready has the reason."),
        gauge("causality_process_start_time_seconds", &[], "When the process started, in seconds since 1970."),
        gauge("causality_process_resident_bytes", &[], "Memory of the process, on Linux."),
        gauge("causality_process_open_files", &[], "Open file descriptors of the process, on Linux."),
        gauge("causality_disk_bytes", &[], "Size of the disk with data_dir, where the process keeps data there."),
        gauge("causality_disk_free_bytes", &[], "What is free on it."),
        counter("causality_task_restarts_total", &[("task", "")], "Restarts of a service that failed, by service."),
        gauge("causality_http_memory_bytes", &[], "Bytes that requests, connections and unread replies hold."),
        gauge("causality_http_memory_bytes_max", &[], "Bytes that they may hold (http_memory_max)."),
        counter("causality_http_refused_total", &[("reason", "memory requests body_bytes connections")],
            "Requests and connections refused for want of room, by reason: memory, requests, body_bytes, connections."),
        counter("causality_http_floods_total", &[],
            "Connections of HTTP/2 that were ended for frames that carry nothing of a request."),
        gauge("causality_http_connections", &[], "Open connections of all listeners."),
        gauge("causality_http_requests_in_flight", &[], "Requests whose reply has not left."),
        gauge("causality_http_body_bytes", &[], "Bytes of request bodies that are held."),
        counter("causality_http_tls_handshakes_total", &[("outcome", "completed failed timed_out too_slow not_tls")],
            "TLS handshakes, by outcome: completed, failed, timed_out, too_slow (others needed the place), not_tls."),
        counter("causality_http_cut_for_memory_total", &[],
            "Requests and connections cut because they held memory longest without progress while it was short."),
        gauge("causality_tls_certificate_not_after_timestamp_seconds", &[("listener", "gateway admin")],
            "When the certificate of a listener expires, in seconds since 1970."),
        counter("causality_admin_refused_total", &[("reason", "missing invalid expired forwarded throttled role")],
            "Requests that the admin listener refused, by what their token lacked."),
    ] },
    Part { title: "Gateway", roles: &["gateway"], metrics: &[
        counter("causality_gateway_events_total", &[("verdict", "accepted duplicate rejected unavailable")],
            "Events taken in, by verdict: accepted, duplicate, rejected, unavailable (valid, and not stored)."),
        counter("causality_gateway_requests_total", &[("route", ""), ("status", "")],
            "Requests to the gateway, by route and status code."),
        counter("causality_gateway_unauthorized_total", &[("reason", "missing malformed unknown expired")],
            "Requests without a valid API key, by reason: missing, malformed, unknown, expired."),
        gauge("causality_gateway_api_keys", &[], "API keys that the gateway knows, where it asks for them."),
        histogram("causality_gateway_request_seconds", &[("route", "")],
            "Time from the head of a request to its reply, by route."),
        counter("causality_gateway_rate_limited_total", &[("limit", "key address key_events address_events unauthorized global")],
            "Requests refused for their rate, by limit: key, address (requests), key_events, address_events, unauthorized, \
             global."),
        counter("causality_gateway_refused_origins_total", &[],
            "Requests and preflights of web pages whose origin is not allowed."),
        counter("causality_gateway_rejected_total", &[("reason", "malformed required unknown_field other_app limit value too_large")],
            "Events, and bodies that are refused as a whole, by reason: malformed, required, unknown_field, other_app, \
             limit, value, too_large."),
        counter("causality_gateway_quarantined_total", &[("outcome", "kept full too_large no_memory failed paused")],
            "Refused input where QUARANTINE is on, by outcome: kept, full (quarantine_max_bytes), too_large, no_memory, \
             failed, paused (for a second after full or failed)."),
    ] },
    Part { title: "Bus", roles: &[], metrics: &[
        counter("causality_bus_published_total", &[], "Messages stored on the bus."),
        histogram("causality_bus_group_messages", &[], "Messages of one commit of the bus."),
        histogram("causality_bus_group_bytes", &[], "Bytes of one commit of the bus."),
        histogram("causality_bus_commit_seconds", &[],
            "Time from the beginning of a commit of the bus until it is durable."),
        counter("causality_bus_duplicates_total", &[], "Messages not stored because their id was seen within the window."),
        counter("causality_bus_refused_full_total", &[], "Messages refused for want of room."),
        gauge("causality_bus_stored_bytes", &[], "Bytes that the bus holds."),
        gauge("causality_bus_stored_bytes_max", &[], "Bytes at which the bus refuses messages."),
        gauge("causality_bus_consumer_backlog_messages", &[("consumer", "")],
            "Messages that a consumer has not acknowledged."),
        gauge("causality_bus_consumer_pending_messages", &[("consumer", "")],
            "Messages delivered to a consumer and not acknowledged."),
        gauge("causality_bus_consumer_oldest_seconds", &[("consumer", "")],
            "Age of the oldest message that a consumer has not acknowledged."),
        counter("causality_bus_dead_lettered_total", &[("consumer", ""), ("reason", "refused failed fatal")],
            "Messages that went to the dead letters, by consumer and reason: refused (cannot be read), failed, fatal."),
        gauge("causality_bus_dead_letters", &[], "Dead letters that are kept."),
    ] },
    Part { title: "Sink and lake", roles: &["sink"], metrics: &[
        counter("causality_sink_files_total", &[("reason", "rows bytes age memory partitions stop stream_lost")],
            "Parquet files stored, by the limit that closed them."),
        counter("causality_sink_rows_total", &[], "Rows stored in Parquet files."),
        counter("causality_sink_file_bytes_total", &[], "Bytes of the Parquet files stored."),
        histogram("causality_sink_store_seconds", &[], "Time to store one Parquet file."),
        counter("causality_sink_store_failures_total", &[("kind", "full unavailable refused fsync corrupt encode")],
            "Attempts to store a file that failed, by kind of failure."),
        counter("causality_sink_suspects_total", &[],
            "Messages looked up before they were written, since they may have been stored before."),
        counter("causality_sink_suspects_in_range_total", &[], "Messages looked up whose sequence a file holds."),
        counter("causality_sink_repeated_rows_total", &[],
            "Messages acknowledged without a row, because a file held them already."),
        counter("causality_sink_lapsed_rows_total", &[], "Rows encoded in vain: the leases of their messages lapsed."),
        counter("causality_sink_unreadable_total", &[], "Messages that could not be read and went to the dead letters."),
        gauge("causality_sink_open_batches", &[], "Parquet files being filled."),
        gauge("causality_sink_open_bytes", &[], "Memory of the Parquet files being filled."),
        gauge("causality_sink_writing_bytes", &[], "Bytes of the Parquet files being stored."),
        gauge("causality_sink_flush_interval_seconds", &[],
            "The oldest that a row may be before its file is closed (batch_flush_interval)."),
        gauge("causality_sink_memory_bytes_max", &[], "What open files and waiting rows may hold (batch_memory_max)."),
        histogram("causality_sink_file_rows", &[], "Rows of a stored Parquet file."),
        histogram("causality_sink_file_size_bytes", &[], "Bytes of a stored Parquet file."),
        histogram("causality_sink_flush_seconds", &[],
            "Time from the first row of a file until it is stored, committed to the Delta log and acknowledged."),
        histogram("causality_sink_ack_seconds", &[], "Time until the bus has the acknowledgement of a file's messages."),
        counter("causality_warehouse_column_mismatches_total", &[("column", "")],
            "Values that are not of their promoted column's type."),
        gauge("causality_warehouse_unreadable_files", &[], "Stored files that were found damaged and are still there."),
        counter("causality_delta_commits_total", &[], "Commits of the Delta log by this process."),
        counter("causality_delta_files_total", &[], "Files that they added or removed."),
        counter("causality_delta_conflicts_total", &[], "Attempts to commit that found the version taken by another."),
        counter("causality_delta_checkpoints_total", &[("written", "true false")],
            "Checkpoints of the Delta log, written or not."),
        histogram("causality_delta_commit_seconds", &[], "Time of one commit of the Delta log."),
        gauge("causality_delta_version", &[], "The latest version of the Delta log that this process knows."),
        counter("causality_compaction_runs_total", &[("outcome", "done damaged overtaken failed")],
            "Partitions compacted, or not: done, damaged, overtaken, failed."),
        counter("causality_compaction_files_total", &[("kind", "read written")], "Files that compaction read and wrote."),
        counter("causality_compaction_bytes_total", &[("kind", "read written")],
            "Bytes of the files that compaction read and wrote."),
        histogram("causality_compaction_seconds", &[], "Time to compact one partition."),
        gauge("causality_lake_files", &[], "Files of the lake, when it was last looked through."),
        gauge("causality_lake_bytes", &[], "Bytes of these files."),
        gauge("causality_lake_small_files", &[], "Those under half of compaction_target_size."),
        gauge("causality_lake_due_partitions", &[], "Partitions to be compacted."),
        counter("causality_vacuum_files_total", &[], "Files that vacuums removed."),
        counter("causality_vacuum_bytes_total", &[], "Bytes of replaced files that vacuums removed."),
        counter("causality_retention_partitions_total", &[], "Partitions removed because of warehouse_retention."),
        counter("causality_retention_files_total", &[], "Files of these partitions."),
        counter("causality_retention_bytes_total", &[], "Bytes of these files."),
        counter("causality_retention_failures_total", &[], "Attempts to remove such partitions that failed."),
        counter("causality_hive_partitions_total", &[], "Partitions that the Hive Metastore was told by this process."),
        gauge("causality_hive_waiting_partitions", &[], "Partitions that the Hive Metastore has still to be told."),
        counter("causality_hive_failures_total", &[("kind", "unreachable protocol old conflict refused warehouse")],
            "Attempts to tell the Hive Metastore of the lake that failed, by kind of failure."),
    ] },
    Part { title: "Reaction", roles: &["reaction"], metrics: &[
        counter("causality_reaction_faults_total", &[("kind", "rule anomaly"), ("name", ""), ("reason", "budget failed")],
            "Events that a rule or an anomaly could not judge, by its name: failed, or over its budget."),
        counter("causality_reaction_events_total", &[("outcome", "skipped evaluated")],
            "Events looked at, by outcome: skipped (nothing could match them) or evaluated."),
        counter("causality_reaction_matches_total", &[], "Rules that matched an event."),
        counter("causality_reaction_anomalies_total", &[], "Anomalies found."),
        histogram("causality_reaction_commit_seconds", &[], "Time of one commit of effects."),
        counter("causality_reaction_refused_commits_total", &[],
            "Commits refused because another process was first; they are judged again."),
        counter("causality_reaction_dead_letters_total", &[],
            "Events that could not be decoded and went to the dead letters."),
        counter("causality_dispatcher_attempts_total", &[("answer", "2xx 3xx 4xx 5xx none")],
            "Webhook attempts, by class of the answer: 2xx to 5xx, or none."),
        histogram("causality_dispatcher_attempt_seconds", &[], "Duration of one webhook attempt."),
        counter("causality_dispatcher_deliveries_total", &[("webhook", ""), ("result", "delivered retry failed dead_letter")],
            "Attempts, by the name of the webhook and what became of the delivery: delivered, retry, failed (the endpoint \
             is gone), dead_letter (no attempts are left). Webhooks beyond the first hundred share the name (others)."),
        histogram("causality_dispatcher_wait_seconds", &[],
            "Time from the creation of a delivery to its first attempt."),
        gauge("causality_dispatcher_in_flight", &[], "Webhook requests under way."),
        gauge("causality_dispatcher_circuits_open", &[], "Webhooks left alone for now, because they kept failing."),
        counter("causality_store_jobs_total", &[], "Use cases that the writer of the store committed."),
        histogram("causality_store_commit_seconds", &[], "Time of one commit of the store."),
        counter("causality_store_deliveries_given_up_total", &[],
            "Deliveries given up because too many waited, or for too long, while their webhook was disabled."),
    ] },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write as _;

    use super::*;

    fn kind(kind: Kind) -> &'static str {
        match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }

    /// The metrics that the functions write, found by their macros: kind, name and labels.
    fn written() -> BTreeSet<(&'static str, &'static str, Vec<&'static str>)> {
        let text = concat!(include_str!("../metrics.rs"), include_str!("process.rs"));
        let mut written = BTreeSet::new();
        for kind in ["counter", "gauge", "histogram"] {
            for (at, call) in text.match_indices(&format!("{kind}!(\"causality_")) {
                let arguments = text[at + call.len()..].split([';', '\n']).next().unwrap();
                let name = text[at..].split('"').nth(1).unwrap();
                let labels = arguments
                    .split(" =>")
                    .filter_map(|before| before.rsplit('"').nth(1))
                    .filter(|word| !word.contains(','));
                written.insert((kind, name, labels.take(arguments.matches("=>").count()).collect()));
            }
        }
        written
    }

    #[test]
    fn every_metric_says_what_it_is() {
        let described: BTreeSet<_> =
            metrics().map(|of| (kind(of.kind), of.name, of.labels.iter().map(|(name, _)| *name).collect())).collect();
        assert_eq!(described, written());
        assert_eq!(described.len(), metrics().count(), "each once");
    }

    fn unit(name: &str) -> &'static str {
        let name = name.trim_end_matches("_max").trim_end_matches("_total");
        if name.ends_with("_seconds") {
            "seconds"
        } else if name.ends_with("_bytes") {
            "bytes"
        } else {
            ""
        }
    }

    /// Run it with `UPDATE_DOCS=1` to write the page anew.
    #[test]
    fn the_page_of_metrics_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
        let mut page = String::from(
            "# Metrics\n\n\
             Every metric that `/metrics` on the admin port serves ([monitoring.md](monitoring.md) says how to scrape it). \
             Generated from `src/metrics/catalog.rs`: `UPDATE_DOCS=1 cargo test --lib metrics` writes this page. Labels \
             are shown with their values where these are known in advance; such counters start at 0. A histogram has \
             the series `_bucket` (with the label `le`), `_sum` and `_count`.\n",
        );
        for part in PARTS {
            let roles = match part.roles {
                [] => String::new(),
                roles => format!("Processes with the role {}.\n\n", roles.join(", ")),
            };
            write!(
                page,
                "\n## {}\n\n{roles}| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n",
                part.title
            )
            .unwrap();
            for of in part.metrics {
                let label = |(name, values): &(&str, &str)| match *values {
                    "" => format!("`{name}`"),
                    values => format!("`{name}`: {}", values.replace(' ', ", ")),
                };
                let labels = of.labels.iter().map(label).collect::<Vec<_>>().join("; ");
                writeln!(page, "| `{}` | {} | {labels} | {} | {} |", of.name, kind(of.kind), unit(of.name), of.help)
                    .unwrap();
            }
        }
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap();
        assert!(found == page, "docs/metrics.md is out of date; UPDATE_DOCS=1 cargo test --lib metrics writes it");
    }

    #[test]
    fn help_is_served() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            metrics::gauge!("causality_ready").set(1.0);
        });
        let text = handle.render();
        assert!(text.contains("# HELP causality_ready 1 while the process takes traffic, else 0.\n"), "{text}");
    }

    #[test]
    fn counters_start_at_zero_where_the_role_is() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || start_counters(&["sink"]));
        let text = handle.render();
        assert!(text.contains("causality_sink_store_failures_total{kind=\"fsync\"} 0\n"), "{text}");
        assert!(!text.contains("causality_gateway_"), "{text}");
        assert!(!text.contains("causality_task_restarts_total"), "the services are not known: {text}");
    }
}
