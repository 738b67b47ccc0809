//! The load of a run, shared by all of its connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::connection::{Security, Target};
use super::pool::{BodyFormat, Pool};
use super::prepared_bodies::PreparedBodies;
use super::round_trips::RoundTrips;

/// State shared by all slices of a run.
pub(super) struct Load {
    pub(super) pool: Pool,
    pub(super) batch_events: usize,
    pub(super) connections: usize,
    pub(super) threads: usize,
    pub(super) api_key: Option<String>,
    /// The app id that Segment's API gets instead of a key.
    pub(super) app_id: String,
    /// Bodies prepared before the run, if any.
    pub(super) prepared: Option<PreparedBodies>,
    pub(super) idempotency_keys: bool,
    /// Events per second, evenly spread.
    pub(super) rate: Option<f64>,
    /// Total events.
    pub(super) count: Option<u64>,
    pub(super) stop: CancellationToken,
    /// The number of the next event.
    pub(super) next_event: AtomicU64,
    /// Events accepted so far, for the progress bar.
    pub(super) accepted: AtomicU64,
}

/// A period of time with one server.
pub(super) struct Slice {
    pub(super) target: Target,
    pub(super) address: SocketAddr,
    pub(super) security: Option<Security>,
    pub(super) started: Instant,
    pub(super) until: Option<Instant>,
    /// The number of the next request in the schedule, if there is a rate.
    pub(super) next_slot: AtomicU64,
    pub(super) round_trips: Option<Arc<RoundTrips>>,
}

impl Load {
    /// Whether a request is a single event, not a list.
    pub(super) fn single(&self) -> bool {
        self.batch_events == 1 && self.pool.format() != BodyFormat::Segment
    }

    /// The next events to send: the number of the first and how many.
    pub(super) fn claim(&self) -> Option<(u64, usize)> {
        let first = self.next_event.fetch_add(self.batch_events as u64, Relaxed);
        let left = self.count.map_or(u64::MAX, |count| count.saturating_sub(first));
        (left > 0).then(|| (first, self.batch_events.min(usize::try_from(left).unwrap_or(usize::MAX))))
    }
}
