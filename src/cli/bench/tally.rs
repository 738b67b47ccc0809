//! Counts of events and requests of a run, by outcome.

use std::collections::BTreeMap;

use super::histogram::Histogram;
use super::number_set::NumberSet;

/// Counts of one worker, merged at the end. Nothing is shared during the load.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    /// Events with their own outcome other than "accepted".
    pub(super) rejected: u64,
    /// Events of requests with a response other than 2xx that were not retried.
    pub(super) refused: u64,
    /// Events of requests without a response. They may be stored or not.
    pub(super) unacknowledged: u64,
    /// Requests retried after 429, 503 or a broken connection.
    pub(super) retries: u64,
    pub(super) broken_connections: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) latency: Histogram,
    /// The numbers of the accepted events.
    pub(super) accepted_numbers: NumberSet,
    /// The first problem, in words.
    pub(super) first_problem: Option<String>,
}

impl Tally {
    pub(super) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.accepted += other.accepted;
        self.duplicates += other.duplicates;
        self.rejected += other.rejected;
        self.refused += other.refused;
        self.unacknowledged += other.unacknowledged;
        self.retries += other.retries;
        self.broken_connections += other.broken_connections;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        self.latency.merge(&other.latency);
        self.accepted_numbers.merge(&other.accepted_numbers);
        if self.first_problem.is_none() {
            self.first_problem.clone_from(&other.first_problem);
        }
    }

    pub(super) fn problem(&mut self, describe: impl FnOnce() -> String) {
        if self.first_problem.is_none() {
            self.first_problem = Some(describe());
        }
    }
}
