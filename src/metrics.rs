//! Every metric of the product, as a named function, by the conventions of Prometheus.
//!
//! Callers never spell the name of a metric. Labels have few values: never an id, never text of an app.

use std::time::Duration;

use metrics::{Counter, Histogram, counter, gauge, histogram};

mod catalog;
mod label_names;
mod process;

pub use catalog::describe;
pub use label_names::LabelNames;
pub use process::{component, disk, process_started, process_usage};

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
    ["refused", "failed", "fatal"].into_iter().for_each(|reason| bus_dead_lettered(name, reason, 0));
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
    histogram!("causality_sink_file_rows").record(rows as f64);
    histogram!("causality_sink_file_size_bytes").record(bytes as f64);
    histogram!("causality_sink_store_seconds").record(elapsed.as_secs_f64());
}

/// Records a file whose messages were acknowledged: the time that took, and the time since its first row.
pub fn sink_file_acknowledged(acknowledging: Duration, since_opened: Duration) {
    histogram!("causality_sink_ack_seconds").record(acknowledging.as_secs_f64());
    histogram!("causality_sink_flush_seconds").record(since_opened.as_secs_f64());
}

/// Sets the limits of open files.
pub fn sink_limits(flush_interval: Duration, memory_bytes_max: usize) {
    gauge!("causality_sink_flush_interval_seconds").set(flush_interval.as_secs_f64());
    gauge!("causality_sink_memory_bytes_max").set(memory_bytes_max as f64);
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

/// Counts values that are not of their promoted column's type.
pub fn column_mismatches(column: &str, values: u64) {
    counter!("causality_warehouse_column_mismatches_total", "column" => column.to_owned()).increment(values);
}

/// Counts commits that found their version taken.
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

/// Counts an attempt by what became of its delivery. The caller limits the number of names.
pub fn dispatcher_delivery(webhook: &str, result: &'static str) {
    counter!("causality_dispatcher_deliveries_total", "webhook" => webhook.to_owned(), "result" => result).increment(1);
}

/// Records how long a delivery waited for its first attempt.
pub fn dispatcher_wait(wait: Duration) {
    histogram!("causality_dispatcher_wait_seconds").record(wait.as_secs_f64());
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
