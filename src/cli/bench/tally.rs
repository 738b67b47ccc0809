//! What became of the events and requests of a run.

use std::collections::BTreeMap;

use super::histogram::Histogram;
use super::marks::Marks;

/// Counts of one worker, merged at the end: nothing is shared while the load runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) accepted: u64,
    pub(super) duplicates: u64,
    /// Events with a verdict of their own that is not "accepted".
    pub(super) rejected: u64,
    /// Events of requests that got an answer other than 2xx, and were not sent again.
    pub(super) refused: u64,
    /// Events of requests without an answer: they may be stored or not.
    pub(super) unacknowledged: u64,
    /// Requests sent again, after 429, 503 or a broken connection.
    pub(super) retries: u64,
    pub(super) broken_connections: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    pub(super) latency: Histogram,
    /// The numbers of the accepted events.
    pub(super) accepted_marks: Marks,
    /// The first thing that went wrong, in words.
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
        self.accepted_marks.merge(&other.accepted_marks);
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
