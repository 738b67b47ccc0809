//! What a run sends, and to whom: shared by all of its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::connection::{Security, Target};
use super::flights::Flights;
use super::pool::{Form, Pool};
use super::stock::Stock;

/// What all slices of a run have in common.
pub(super) struct Load {
    pub(super) pool: Pool,
    pub(super) batch_events: usize,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) api_key: Option<String>,
    /// What Segment's API is told in place of a key.
    pub(super) app_id: String,
    /// The bodies, where they are not made as they are needed.
    pub(super) stock: Option<Stock>,
    pub(super) idempotency_keys: bool,
    /// Events per second, evenly spread.
    pub(super) rate: Option<f64>,
    /// Events in all.
    pub(super) count: Option<u64>,
    pub(super) stop: CancellationToken,
    /// The number of the next event.
    pub(super) next_event: AtomicU64,
    /// Events accepted so far, for the progress bar.
    pub(super) accepted: AtomicU64,
}

/// A stretch of time against one server.
pub(super) struct Slice {
    pub(super) target: Target,
    pub(super) address: SocketAddr,
    pub(super) security: Option<Security>,
    pub(super) started: Instant,
    pub(super) until: Option<Instant>,
    /// The number of the next request of the schedule, when there is a rate.
    pub(super) next_slot: AtomicU64,
    pub(super) flights: Option<Arc<Flights>>,
}

impl Load {
    /// Whether a request holds an event, and no list of them.
    pub(super) fn single(&self) -> bool {
        self.batch_events == 1 && self.pool.form() != Form::Segment
    }

    /// The next events to send: the number of the first and how many.
    pub(super) fn claim(&self) -> Option<(u64, usize)> {
        let first = self.next_event.fetch_add(self.batch_events as u64, Relaxed);
        let left = self.count.map_or(u64::MAX, |count| count.saturating_sub(first));
        (left > 0).then(|| (first, self.batch_events.min(usize::try_from(left).unwrap_or(usize::MAX))))
    }
}
