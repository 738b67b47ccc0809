//! Every metric of the product, as a named function, by the conventions of Prometheus.
//!
//! Callers never spell the name of a metric. Labels have few values: never an id, never text of an app.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

// --- gateway ---

/// Events by outcome. The handles are looked up once, so that a request costs a few additions.
pub struct GatewayEvents {
    accepted: Counter,
    duplicate: Counter,
    rejected: Counter,
    unavailable: Counter,
}

/// The number of events of one request with each outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GatewayOutcomes {
    pub accepted: u64,
    pub duplicate: u64,
    pub rejected: u64,
    /// Valid, but not stored.
    pub unavailable: u64,
}

impl GatewayEvents {
    /// Call this after the recorder is installed.
    pub fn lookup() -> Self {
        let counter = |verdict: &'static str| counter!("causality_gateway_events_total", "verdict" => verdict);
        Self {
            accepted: counter("accepted"),
            duplicate: counter("duplicate"),
            rejected: counter("rejected"),
            unavailable: counter("unavailable"),
        }
    }

    pub fn add(&self, verdicts: GatewayOutcomes) {
        let GatewayOutcomes { accepted, duplicate, rejected, unavailable } = verdicts;
        let counters = [
            (&self.accepted, accepted),
            (&self.duplicate, duplicate),
            (&self.rejected, rejected),
            (&self.unavailable, unavailable),
        ];
        for (counter, count) in counters.into_iter().filter(|(_, count)| *count > 0) {
            counter.increment(count);
        }
    }
}

/// The requests of one route by status code, and the time from head to response.
pub struct GatewayRoute {
    route: &'static str,
    ok: Counter,
    seconds: Histogram,
}

impl GatewayRoute {
    /// Call this after the recorder is installed.
    pub fn lookup(route: &'static str) -> Self {
        Self {
            route,
            ok: counter!("causality_gateway_requests_total", "route" => route, "status" => "200"),
            seconds: histogram!("causality_gateway_request_seconds", "route" => route),
        }
    }

    pub fn name(&self) -> &'static str {
        self.route
    }

    pub fn add(&self, status: u16, elapsed: Duration) {
        if status == 200 {
            self.ok.increment(1);
        } else {
            let status = status.to_string();
            counter!("causality_gateway_requests_total", "route" => self.route, "status" => status).increment(1);
        }
        self.seconds.record(elapsed.as_secs_f64());
    }
}

/// The rate limit that refused a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimited {
    Key,
    Address,
    KeyEvents,
    AddressEvents,
    /// Requests of an address without a valid key.
    Unauthorized,
    /// The limit for all callers together.
    Global,
}

impl RateLimited {
    /// The limit on events.
    pub fn events(by_key: bool) -> Self {
        if by_key { Self::KeyEvents } else { Self::AddressEvents }
    }
}

/// Counts a request that a rate limit refused.
pub fn gateway_rate_limited(why: RateLimited) {
    let limit = match why {
        RateLimited::Key => "key",
        RateLimited::Address => "address",
        RateLimited::KeyEvents => "key_events",
        RateLimited::AddressEvents => "address_events",
        RateLimited::Unauthorized => "unauthorized",
        RateLimited::Global => "global",
    };
    counter!("causality_gateway_rate_limited_total", "limit" => limit).increment(1);
}

/// Counts a request from a web page whose origin is not allowed.
pub fn gateway_refused_origin() {
    counter!("causality_gateway_refused_origins_total").increment(1);
}

/// Invalid input, by reason. The handles are looked up once.
pub struct GatewayRejected(Vec<Counter>);

impl GatewayRejected {
    /// Call this after the recorder is installed. The reasons are few and known in advance.
    pub fn lookup(reasons: impl IntoIterator<Item = &'static str>) -> Self {
        let counter = |reason| counter!("causality_gateway_rejected_total", "reason" => reason);
        Self(reasons.into_iter().map(counter).collect())
    }

    /// Counts events, or a body that is refused as a whole, under the reason at this index.
    pub fn add(&self, place: usize, count: u64) {
        if let Some(counter) = self.0.get(place) {
            counter.increment(count);
        }
    }
}

/// Counts refused input by its outcome in the quarantine.
pub fn gateway_quarantined(outcome: &'static str, inputs: u64) {
    counter!("causality_gateway_quarantined_total", "outcome" => outcome).increment(inputs);
}

// --- http ---

/// Sets the memory that connections and requests of all listeners use, and the limit.
pub fn http_memory(bytes: usize, bytes_max: usize) {
    gauge!("causality_http_memory_bytes").set(bytes as f64);
    gauge!("causality_http_memory_bytes_max").set(bytes_max as f64);
}

/// Sets the open connections and the requests in flight on all listeners.
pub fn http_in_flight(connections: usize, requests: usize, body_bytes: usize) {
    gauge!("causality_http_connections").set(connections as f64);
    gauge!("causality_http_requests_in_flight").set(requests as f64);
    gauge!("causality_http_body_bytes").set(body_bytes as f64);
}

/// Counts a TLS handshake by outcome.
pub fn http_tls_handshake(outcome: &'static str) {
    counter!("causality_http_tls_handshakes_total", "outcome" => outcome).increment(1);
}

/// Sets the time at which the certificate of a listener (`gateway` or `admin`) expires.
pub fn tls_not_after(listener: &'static str, seconds: u64) {
    gauge!("causality_tls_certificate_not_after_timestamp_seconds", "listener" => listener).set(seconds as f64);
}

/// Counts a refused request or connection, by the resource that was short.
pub fn http_refused(reason: &'static str) {
    counter!("causality_http_refused_total", "reason" => reason).increment(1);
}

/// Counts a connection that was closed for a flood of control frames.
pub fn http_flood() {
    counter!("causality_http_floods_total").increment(1);
}

/// Counts requests and connections that were closed because they were slow while memory was short.
pub fn http_cut_for_memory(count: u64) {
    counter!("causality_http_cut_for_memory_total").increment(count);
}

/// Counts a request to the gateway without a valid API key.
pub fn gateway_unauthorized(reason: &'static str) {
    counter!("causality_gateway_unauthorized_total", "reason" => reason).increment(1);
}

/// Sets the number of API keys that the gateway knows.
pub fn gateway_api_keys(count: u64) {
    gauge!("causality_gateway_api_keys").set(count as f64);
}

// --- admin ---

/// Counts a request that the admin listener refused for a missing token or role.
pub fn admin_refused(reason: &'static str) {
    counter!("causality_admin_refused_total", "reason" => reason).increment(1);
}

// --- supervisor ---

/// Counts restarts of a supervised service.
pub fn task_restarts(task: &'static str) {
    counter!("causality_task_restarts_total", "task" => task).increment(1);
}

/// 1 while the process accepts traffic, otherwise 0.
pub fn ready(ready: bool) {
    gauge!("causality_ready").set(if ready { 1.0 } else { 0.0 });
}

// --- bus ---

/// Records a commit: its messages, its bytes, and the time until the disk confirmed it.
pub fn bus_committed(messages: u64, bytes: u64, elapsed: Duration) {
    counter!("causality_bus_published_total").increment(messages);
    histogram!("causality_bus_group_messages").record(messages as f64);
    histogram!("causality_bus_group_bytes").record(bytes as f64);
    histogram!("causality_bus_commit_seconds").record(elapsed.as_secs_f64());
}

/// Counts messages that were not stored because their id is in the deduplication window.
pub fn bus_duplicates(messages: u64) {
    counter!("causality_bus_duplicates_total").increment(messages);
}

/// Counts messages that were refused because the bus was full.
pub fn bus_refused_full(messages: u64) {
    counter!("causality_bus_refused_full_total").increment(messages);
}

/// Sets the stored bytes and messages, and the limit.
pub fn bus_stored(bytes: u64, bytes_max: u64) {
    gauge!("causality_bus_stored_bytes").set(bytes as f64);
    gauge!("causality_bus_stored_bytes_max").set(bytes_max as f64);
}

/// Sets the state of a durable consumer. There are few of them.
pub fn bus_consumer(name: &str, backlog: u64, pending: u64, oldest_age_ms: u64) {
    gauge!("causality_bus_consumer_backlog_messages", "consumer" => name.to_owned()).set(backlog as f64);
    gauge!("causality_bus_consumer_pending_messages", "consumer" => name.to_owned()).set(pending as f64);
    gauge!("causality_bus_consumer_oldest_seconds", "consumer" => name.to_owned()).set(oldest_age_ms as f64 / 1e3);
}

// --- store ---

/// Records a committed group of the store's writer: the number of use cases in it, and its duration.
pub fn store_group(jobs: u64, elapsed: Duration) {
    counter!("causality_store_jobs_total").increment(jobs);
    histogram!("causality_store_commit_seconds").record(elapsed.as_secs_f64());
}

// --- sink ---

/// Records a stored file by the limit that closed it, and the time that storing took.
pub fn sink_file_stored(reason: &'static str, rows: u64, bytes: u64, elapsed: Duration) {
    counter!("causality_sink_files_total", "reason" => reason).increment(1);
    counter!("causality_sink_rows_total").increment(rows);
    counter!("causality_sink_file_bytes_total").increment(bytes);
    histogram!("causality_sink_store_seconds").record(elapsed.as_secs_f64());
}

/// Counts failed attempts to store a file, by the kind of failure.
pub fn sink_store_failures(kind: &'static str) {
    counter!("causality_sink_store_failures_total", "kind" => kind).increment(1);
}

/// Records a commit of the Delta log: its version, its files, and its duration including lost races.
pub fn delta_committed(version: i64, files: usize, elapsed: Duration) {
    counter!("causality_delta_commits_total").increment(1);
    counter!("causality_delta_files_total").increment(files as u64);
    histogram!("causality_delta_commit_seconds").record(elapsed.as_secs_f64());
    delta_version(version);
}

/// Sets the version of the Delta log, as far as this process has read it.
pub fn delta_version(version: i64) {
    gauge!("causality_delta_version").set(version as f64);
}

/// Counts commits that found their version taken.
pub fn column_mismatches(column: &str, values: u64) {
    counter!("causality_warehouse_column_mismatches_total", "column" => column.to_owned()).increment(values);
}

pub fn delta_conflict() {
    counter!("causality_delta_conflicts_total").increment(1);
}

/// Counts checkpoints of the Delta log, successful or not.
pub fn delta_checkpoint(written: bool) {
    counter!("causality_delta_checkpoints_total", "written" => if written { "true" } else { "false" }).increment(1);
}

/// Counts compactions of partitions by outcome: `done`, `damaged`, `overtaken` or `failed`.
pub fn compaction_run(outcome: &'static str) {
    counter!("causality_compaction_runs_total", "outcome" => outcome).increment(1);
}

/// Records what a compaction read and wrote.
pub fn compacted(files_read: u64, bytes_read: u64, files_written: u64, bytes_written: u64, elapsed: Duration) {
    counter!("causality_compaction_files_total", "kind" => "read").increment(files_read);
    counter!("causality_compaction_files_total", "kind" => "written").increment(files_written);
    counter!("causality_compaction_bytes_total", "kind" => "read").increment(bytes_read);
    counter!("causality_compaction_bytes_total", "kind" => "written").increment(bytes_written);
    histogram!("causality_compaction_seconds").record(elapsed.as_secs_f64());
}

/// Sets the files of the lake as of the last survey.
pub fn lake(files: u64, bytes: u64, small_files: u64, due_partitions: u64) {
    gauge!("causality_lake_files").set(files as f64);
    gauge!("causality_lake_bytes").set(bytes as f64);
    gauge!("causality_lake_small_files").set(small_files as f64);
    gauge!("causality_lake_due_partitions").set(due_partitions as f64);
}

/// Counts files that a vacuum removed, and the bytes of replaced files among them.
pub fn vacuum_removed(files: u64, bytes: u64) {
    counter!("causality_vacuum_files_total").increment(files);
    counter!("causality_vacuum_bytes_total").increment(bytes);
}

/// Counts partitions, files and bytes that retention removed.
pub fn retention_removed(files: u64, bytes: u64) {
    counter!("causality_retention_partitions_total").increment(1);
    counter!("causality_retention_files_total").increment(files);
    counter!("causality_retention_bytes_total").increment(bytes);
}

/// Counts expired partitions that could not be removed.
pub fn retention_failed() {
    counter!("causality_retention_failures_total").increment(1);
}

/// Counts partitions that were registered with the Hive Metastore.
pub fn hive_registered(partitions: usize) {
    counter!("causality_hive_partitions_total").increment(partitions as u64);
}

/// Sets the number of partitions that wait for registration with the Hive Metastore.
pub fn hive_waiting(partitions: usize) {
    gauge!("causality_hive_waiting_partitions").set(partitions as f64);
}

/// Counts failed attempts to register with the Hive Metastore, by the kind of failure.
pub fn hive_failure(kind: &'static str) {
    counter!("causality_hive_failures_total", "kind" => kind).increment(1);
}

/// Counts dead-lettered messages by reason: `refused`, `failed` or `fatal`.
pub fn bus_dead_lettered(consumer: &str, reason: &'static str, count: u64) {
    counter!("causality_bus_dead_lettered_total", "consumer" => consumer.to_owned(), "reason" => reason)
        .increment(count);
}

/// Sets the number of dead letters.
pub fn bus_dead_letters(kept: u64) {
    gauge!("causality_bus_dead_letters").set(kept as f64);
}

/// Counts messages that were looked up before they were written, and those whose sequence a file contains.
pub fn sink_suspects(looked_up: u64, in_range: u64) {
    counter!("causality_sink_suspects_total").increment(looked_up);
    counter!("causality_sink_suspects_in_range_total").increment(in_range);
}

/// Counts messages that were acknowledged without a row because a file already contains them.
pub fn sink_repeated_rows(count: u64) {
    counter!("causality_sink_repeated_rows_total").increment(count);
}

/// Counts rows that were encoded in vain: their leases ended, and they are redelivered.
pub fn sink_lapsed_rows(count: u64) {
    counter!("causality_sink_lapsed_rows_total").increment(count);
}

/// Counts messages that could not be decoded and went to the dead letters.
pub fn sink_unreadable(count: u64) {
    counter!("causality_sink_unreadable_total").increment(count);
}

/// Sets the number of damaged files that still exist.
pub fn warehouse_unreadable_files(count: usize) {
    gauge!("causality_warehouse_unreadable_files").set(count as f64);
}

/// Sets the open files and the files that are being written.
pub fn sink_open(batches: usize, open_bytes: usize, writing_bytes: usize) {
    gauge!("causality_sink_open_batches").set(batches as f64);
    gauge!("causality_sink_open_bytes").set(open_bytes as f64);
    gauge!("causality_sink_writing_bytes").set(writing_bytes as f64);
}

// --- reaction ---

/// Counts an event on which a rule or an anomaly configuration failed. The caller limits the number of names.
pub fn reaction_fault(kind: &'static str, name: &str, reason: &'static str) {
    counter!("causality_reaction_faults_total", "kind" => kind, "name" => name.to_owned(), "reason" => reason)
        .increment(1);
}

/// Records a webhook attempt by the class of its response (`2xx` to `5xx`, or `none`) and its duration.
pub fn dispatcher_attempt(answer: &'static str, elapsed: Duration) {
    counter!("causality_dispatcher_attempts_total", "answer" => answer).increment(1);
    histogram!("causality_dispatcher_attempt_seconds").record(elapsed.as_secs_f64());
}

/// Counts deliveries that disabled webhooks have lost.
pub fn store_given_up(deliveries: u64) {
    counter!("causality_store_deliveries_given_up_total").increment(deliveries);
}

/// Counts events by outcome (`skipped` if nothing can match them, `evaluated`), and their effects.
pub fn reaction_events(taken: u64, evaluated: u64, matches: u64, anomalies: u64) {
    counter!("causality_reaction_events_total", "outcome" => "skipped").increment(taken.saturating_sub(evaluated));
    counter!("causality_reaction_events_total", "outcome" => "evaluated").increment(evaluated);
    counter!("causality_reaction_matches_total").increment(matches);
    counter!("causality_reaction_anomalies_total").increment(anomalies);
}

/// Records a commit of effects.
pub fn reaction_commit(elapsed: Duration) {
    histogram!("causality_reaction_commit_seconds").record(elapsed.as_secs_f64());
}

/// Counts commits that the store refused because another process was first. They are evaluated again.
pub fn reaction_refused_commit() {
    counter!("causality_reaction_refused_commits_total").increment(1);
}

/// Counts events that could not be decoded.
pub fn reaction_dead_letters(count: u64) {
    counter!("causality_reaction_dead_letters_total").increment(count);
}

/// Sets the webhook requests in flight, and the endpoints that are paused.
pub fn dispatcher_state(in_flight: usize, circuits_open: usize) {
    gauge!("causality_dispatcher_in_flight").set(in_flight as f64);
    gauge!("causality_dispatcher_circuits_open").set(circuits_open as f64);
}

// --- descriptions ---

/// Gives every metric its HELP line. Call this after the recorder is installed.
pub fn describe() {
    for (kind, name, help) in HELP {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const HELP: &[(Kind, &str, &str)] = {
    use Kind::{Counter, Gauge, Histogram};
    &[
        (
            Counter,
            "causality_gateway_events_total",
            "Events taken in, by verdict: accepted, duplicate, rejected, unavailable (valid, and not stored).",
        ),
        (Counter, "causality_gateway_requests_total", "Requests to the gateway, by route and status code."),
        (
            Counter,
            "causality_gateway_unauthorized_total",
            "Requests without a valid API key, by reason: missing, malformed, unknown, expired.",
        ),
        (Gauge, "causality_gateway_api_keys", "API keys that the gateway knows, where it asks for them."),
        (Histogram, "causality_gateway_request_seconds", "Time from the head of a request to its reply, by route."),
        (
            Counter,
            "causality_gateway_rate_limited_total",
            "Requests refused for their rate, by limit: key, address (requests), key_events, address_events, \
             unauthorized, global.",
        ),
        (
            Counter,
            "causality_gateway_refused_origins_total",
            "Requests and preflights of web pages whose origin is not allowed.",
        ),
        (
            Counter,
            "causality_gateway_rejected_total",
            "Events, and bodies that are refused as a whole, by reason: malformed, required, unknown_field, other_app, \
             limit, value, too_large.",
        ),
        (
            Counter,
            "causality_gateway_quarantined_total",
            "Refused input where QUARANTINE is on, by outcome: kept, full (quarantine_max_bytes), too_large, \
             no_memory, failed, paused (for a second after full or failed).",
        ),
        (Gauge, "causality_http_memory_bytes", "Bytes that requests, connections and unread replies hold."),
        (Gauge, "causality_http_memory_bytes_max", "Bytes that they may hold (http_memory_max)."),
        (
            Counter,
            "causality_http_refused_total",
            "Requests and connections refused for want of room, by reason: memory, requests, body_bytes, connections.",
        ),
        (
            Counter,
            "causality_http_floods_total",
            "Connections of HTTP/2 that were ended for frames that carry nothing of a request.",
        ),
        (Gauge, "causality_http_connections", "Open connections of all listeners."),
        (Gauge, "causality_http_requests_in_flight", "Requests whose reply has not left."),
        (Gauge, "causality_http_body_bytes", "Bytes of request bodies that are held."),
        (
            Counter,
            "causality_http_tls_handshakes_total",
            "TLS handshakes, by outcome: completed, failed, timed_out, too_slow (others needed the place), not_tls.",
        ),
        (
            Gauge,
            "causality_tls_certificate_not_after_timestamp_seconds",
            "When the certificate of a listener expires, in seconds since 1970.",
        ),
        (
            Counter,
            "causality_http_cut_for_memory_total",
            "Requests and connections cut because they held memory longest without progress while it was short.",
        ),
        (
            Counter,
            "causality_admin_refused_total",
            "Requests that the admin listener refused, by what their token lacked.",
        ),
        (Counter, "causality_task_restarts_total", "Restarts of a service that failed, by service."),
        (Gauge, "causality_ready", "1 while the process takes traffic, else 0."),
        (Counter, "causality_bus_published_total", "Messages stored on the bus."),
        (Histogram, "causality_bus_group_messages", "Messages of one commit of the bus."),
        (Histogram, "causality_bus_group_bytes", "Bytes of one commit of the bus."),
        (
            Histogram,
            "causality_bus_commit_seconds",
            "Time from the beginning of a commit of the bus until it is durable.",
        ),
        (Counter, "causality_bus_duplicates_total", "Messages not stored because their id was seen within the window."),
        (Counter, "causality_bus_refused_full_total", "Messages refused for want of room."),
        (Gauge, "causality_bus_stored_bytes", "Bytes that the bus holds."),
        (Gauge, "causality_bus_stored_bytes_max", "Bytes at which the bus refuses messages."),
        (Gauge, "causality_bus_consumer_backlog_messages", "Messages that a consumer has not acknowledged."),
        (Gauge, "causality_bus_consumer_pending_messages", "Messages delivered to a consumer and not acknowledged."),
        (
            Gauge,
            "causality_bus_consumer_oldest_seconds",
            "Age of the oldest message that a consumer has not acknowledged.",
        ),
        (Counter, "causality_store_jobs_total", "Use cases that the writer of the store committed."),
        (Histogram, "causality_store_commit_seconds", "Time of one commit of the store."),
        (Counter, "causality_sink_files_total", "Parquet files stored, by the limit that closed them."),
        (Counter, "causality_sink_rows_total", "Rows stored in Parquet files."),
        (Counter, "causality_sink_file_bytes_total", "Bytes of the Parquet files stored."),
        (Histogram, "causality_sink_store_seconds", "Time to store one Parquet file."),
        (Counter, "causality_sink_store_failures_total", "Attempts to store a file that failed, by kind of failure."),
        (Counter, "causality_delta_commits_total", "Commits of the Delta log by this process."),
        (Counter, "causality_delta_files_total", "Files that they added or removed."),
        (
            Counter,
            "causality_warehouse_column_mismatches_total",
            "Values that are not of their promoted column's type.",
        ),
        (Counter, "causality_delta_conflicts_total", "Attempts to commit that found the version taken by another."),
        (Counter, "causality_delta_checkpoints_total", "Checkpoints of the Delta log, written or not."),
        (Histogram, "causality_delta_commit_seconds", "Time of one commit of the Delta log."),
        (Counter, "causality_compaction_runs_total", "Partitions compacted, or not: done, damaged, overtaken, failed."),
        (Counter, "causality_compaction_files_total", "Files that compaction read and wrote."),
        (Counter, "causality_compaction_bytes_total", "Bytes of the files that compaction read and wrote."),
        (Histogram, "causality_compaction_seconds", "Time to compact one partition."),
        (Gauge, "causality_lake_files", "Files of the lake, when it was last looked through."),
        (Gauge, "causality_lake_bytes", "Bytes of these files."),
        (Gauge, "causality_lake_small_files", "Those under half of compaction_target_size."),
        (Gauge, "causality_lake_due_partitions", "Partitions to be compacted."),
        (Counter, "causality_vacuum_files_total", "Files that vacuums removed."),
        (Counter, "causality_vacuum_bytes_total", "Bytes of replaced files that vacuums removed."),
        (Counter, "causality_retention_partitions_total", "Partitions removed because of warehouse_retention."),
        (Counter, "causality_retention_files_total", "Files of these partitions."),
        (Counter, "causality_retention_bytes_total", "Bytes of these files."),
        (Counter, "causality_retention_failures_total", "Attempts to remove such partitions that failed."),
        (Gauge, "causality_delta_version", "The latest version of the Delta log that this process knows."),
        (Counter, "causality_hive_partitions_total", "Partitions that the Hive Metastore was told by this process."),
        (Gauge, "causality_hive_waiting_partitions", "Partitions that the Hive Metastore has still to be told."),
        (
            Counter,
            "causality_hive_failures_total",
            "Attempts to tell the Hive Metastore of the lake that failed, by kind of failure.",
        ),
        (
            Counter,
            "causality_bus_dead_lettered_total",
            "Messages that went to the dead letters, by consumer and reason: refused (cannot be read), failed, fatal.",
        ),
        (Gauge, "causality_bus_dead_letters", "Dead letters that are kept."),
        (
            Counter,
            "causality_sink_suspects_total",
            "Messages looked up before they were written, since they may have been stored before.",
        ),
        (Counter, "causality_sink_suspects_in_range_total", "Messages looked up whose sequence a file holds."),
        (
            Counter,
            "causality_sink_repeated_rows_total",
            "Messages acknowledged without a row, because a file held them already.",
        ),
        (Counter, "causality_sink_lapsed_rows_total", "Rows encoded in vain: the leases of their messages lapsed."),
        (Counter, "causality_sink_unreadable_total", "Messages that could not be read and went to the dead letters."),
        (Gauge, "causality_warehouse_unreadable_files", "Stored files that were found damaged and are still there."),
        (Gauge, "causality_sink_open_batches", "Parquet files being filled."),
        (Gauge, "causality_sink_open_bytes", "Memory of the Parquet files being filled."),
        (Gauge, "causality_sink_writing_bytes", "Bytes of the Parquet files being stored."),
        (
            Counter,
            "causality_reaction_faults_total",
            "Events that a rule or an anomaly could not judge, by its name: failed, or over its budget.",
        ),
        (
            Counter,
            "causality_dispatcher_attempts_total",
            "Webhook attempts, by class of the answer: 2xx to 5xx, or none.",
        ),
        (Histogram, "causality_dispatcher_attempt_seconds", "Duration of one webhook attempt."),
        (
            Counter,
            "causality_store_deliveries_given_up_total",
            "Deliveries given up because too many waited, or for too long, while their webhook was disabled.",
        ),
        (
            Counter,
            "causality_reaction_events_total",
            "Events looked at, by outcome: skipped (nothing could match them) or evaluated.",
        ),
        (Counter, "causality_reaction_matches_total", "Rules that matched an event."),
        (Counter, "causality_reaction_anomalies_total", "Anomalies found."),
        (Histogram, "causality_reaction_commit_seconds", "Time of one commit of effects."),
        (
            Counter,
            "causality_reaction_refused_commits_total",
            "Commits refused because another process was first; they are judged again.",
        ),
        (
            Counter,
            "causality_reaction_dead_letters_total",
            "Events that could not be decoded and went to the dead letters.",
        ),
        (Gauge, "causality_dispatcher_in_flight", "Webhook requests under way."),
        (Gauge, "causality_dispatcher_circuits_open", "Webhooks left alone for now, because they kept failing."),
    ]
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// The metrics of this file, found by the macros that write them.
    fn written() -> BTreeSet<(&'static str, &'static str)> {
        let text = include_str!("metrics.rs");
        let mut written = BTreeSet::new();
        for kind in ["counter", "gauge", "histogram"] {
            // In two parts, or the test would find this line too.
            let call = format!("{kind}!(\"causality{}", '_');
            for (at, _) in text.match_indices(&call) {
                let name = text[at..].split('"').nth(1).unwrap();
                if !text[..at].ends_with("describe_") {
                    written.insert((kind, name));
                }
            }
        }
        written
    }

    #[test]
    fn every_metric_says_what_it_is() {
        let described: BTreeSet<_> = HELP
            .iter()
            .map(|(kind, name, _)| match kind {
                Kind::Counter => ("counter", *name),
                Kind::Gauge => ("gauge", *name),
                Kind::Histogram => ("histogram", *name),
            })
            .collect();
        assert_eq!(described, written());
        assert_eq!(described.len(), HELP.len(), "each once");
    }

    #[test]
    fn help_is_served() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            describe();
            ready(true);
        });
        let text = handle.render();
        assert!(text.contains("# HELP causality_ready 1 while the process takes traffic, else 0.\n"), "{text}");
    }
}
