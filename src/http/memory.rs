//! The memory that peers can make the process hold, on all its listeners together.
//!
//! Each request has a [`Share`](super::connection::share::Share) from its head until the last byte of its reply is
//! sent: a fixed part, its head, the received body bytes, then the reply. A connection has its own memory for a partial
//! head and for HTTP/2. Only received bytes count, never declared sizes. The number of requests and their body bytes
//! have their own limits within the budget. When one of the three is exhausted, the slowest holders are evicted, oldest
//! first: bodies that wait for their client, and replies and connections that wait for their reader.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::reply::problem::Problem;
use crate::metrics;

/// Part of a connection's memory; many connections leave less for their requests.
pub(crate) const CONNECTION_BYTES: usize = 3 * 1024;
/// Part of a TLS session's memory. Counting all of it would leave nothing for requests once the maximum number of idle
/// connections is open.
pub(crate) const TLS_CONNECTION_BYTES: usize = 1024;
/// Memory of a TLS handshake until it ends.
pub(crate) const HANDSHAKE_BYTES: usize = 16 * 1024;
/// Memory of an HTTP/2 connection: frame buffers, header tables, a partial header block.
pub(crate) const HTTP2_BYTES: usize = 64 * 1024;
/// Only the first request of a connection may use the last part of the budget, so that many streams or large bodies
/// leave room for small requests.
const RESERVE_PART: usize = 8;
/// One eviction frees up to this fraction of the budget.
const EVICTION_PART: usize = 16;
/// Holders are not considered slow before this time.
const SLOW_AFTER: Duration = Duration::from_millis(500);
/// Pause after an eviction that freed too little.
const EVICTION_PAUSE: Duration = Duration::from_millis(20);
/// Read buffers of all connections together. Each has a minimum size, so many connections take more.
const READ_BUFFERS_BYTES: usize = 8 * 1024 * 1024;
const READ_BUFFER_MIN: usize = 8 * 1024;
const READ_BUFFER_MAX: usize = 64 * 1024;

/// The bytes that all connections and requests may hold together. Clones share one budget.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes: Account,
    requests: Account,
    body_bytes: Account,
    refused: AtomicU64,
    open: AtomicUsize,
    started: Instant,
    listeners: Mutex<Vec<Weak<dyn Holders>>>,
}

/// The limit and the usage of one resource.
#[derive(Debug)]
struct Account {
    max: usize,
    used: AtomicUsize,
    /// The time of the next eviction, in milliseconds since the budget was created.
    next_eviction: AtomicU64,
}

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    Memory,
    Requests,
    BodyBytes,
}

/// A resource is used up, and no slow holder could be evicted to free enough of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted(pub(crate) Resource);

impl Exhausted {
    /// The reason as metrics name it.
    pub(crate) fn reason(self) -> &'static str {
        match self.0 {
            Resource::Memory => "memory",
            Resource::Requests => "requests",
            Resource::BodyBytes => "body_bytes",
        }
    }

    pub(crate) fn problem(self) -> Problem {
        match self.0 {
            Resource::Memory | Resource::BodyBytes => Problem::short_of_memory(),
            Resource::Requests => Problem::too_many_requests_in_flight(),
        }
    }
}

/// A request or a connection that holds part of a budget and can be evicted.
pub(crate) trait Holder: fmt::Debug + Send + Sync {
    /// Since when the process has waited for this holder's client; `None` when it does not wait, or nothing is held.
    fn waits_since(&self) -> Option<Instant>;

    /// How much of a resource it holds.
    fn holds(&self, resource: Resource) -> usize;

    /// Releases everything it holds; the memory itself is freed once its task has run. Returns `false` when it was
    /// released in the meantime.
    fn evict(&self) -> bool;
}

/// A holder that the process waits for.
pub(crate) struct Candidate {
    pub(crate) since: Instant,
    pub(crate) holder: Arc<dyn Holder>,
}

/// The holders of one listener.
pub(crate) trait Holders: fmt::Debug + Send + Sync {
    /// Appends those that the process waits for.
    fn candidates(&self, candidates: &mut Vec<Candidate>);
}

impl Account {
    fn new(max: usize) -> Self {
        Self { max, used: AtomicUsize::new(0), next_eviction: AtomicU64::new(0) }
    }

    fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The last part is reserved for the first request of each connection.
    fn limit(&self, may_use_reserve: bool) -> usize {
        self.max - if may_use_reserve { 0 } else { self.max / RESERVE_PART }
    }

    fn try_take(&self, count: usize, limit: usize) -> bool {
        let fits = self.used.fetch_add(count, Relaxed) + count <= limit;
        if !fits {
            self.used.fetch_sub(count, Relaxed);
        }
        fits
    }

    fn release(&self, count: usize) {
        self.used.fetch_sub(count, Relaxed);
    }
}

impl MemoryBudget {
    /// Limits bytes only.
    pub fn new(bytes_max: usize) -> Self {
        Self::with_caps(bytes_max, usize::MAX, usize::MAX)
    }

    /// Limits bytes, requests in flight, and their body bytes.
    pub fn with_caps(bytes_max: usize, requests_max: usize, body_bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            bytes: Account::new(bytes_max),
            requests: Account::new(requests_max),
            body_bytes: Account::new(body_bytes_max.min(bytes_max)),
            refused: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            started: Instant::now(),
            listeners: Mutex::default(),
        }))
    }

    pub fn bytes_max(&self) -> usize {
        self.0.bytes.max
    }

    /// The bytes in use. May exceed the limit by idle connections and by refusals.
    pub fn bytes_used(&self) -> usize {
        self.0.bytes.used()
    }

    /// The total of requests and connections refused for lack of room.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Exports the usage as metrics.
    pub fn set_gauges(&self) {
        let Inner { bytes, requests, body_bytes, open, .. } = &*self.0;
        metrics::http_memory(bytes.used(), bytes.max);
        metrics::http_in_flight(open.load(Relaxed), requests.used(), body_bytes.used());
    }

    /// Adds a listener, whose holders can be evicted.
    pub(crate) fn add_listener(&self, listener: Weak<dyn Holders>) {
        let mut listeners = self.0.listeners.lock();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(listener);
    }

    pub(crate) fn connection_opened(&self, bytes: usize) {
        self.0.open.fetch_add(1, Relaxed);
        self.overdraw(bytes);
    }

    pub(crate) fn connection_closed(&self, bytes: usize) {
        self.0.open.fetch_sub(1, Relaxed);
        self.release(bytes);
    }

    /// The open connections of all listeners.
    pub(crate) fn connections(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// The maximum size of a connection's read. One less than a power of two, because hyper doubles a buffer that a
    /// read has filled.
    pub(crate) fn read_bytes_max(&self) -> usize {
        let each = READ_BUFFERS_BYTES / self.0.open.load(Relaxed).max(1);
        (1 << each.clamp(READ_BUFFER_MIN, READ_BUFFER_MAX).ilog2()) - 1
    }

    /// Takes `bytes`, evicting slow holders if necessary.
    pub(crate) fn take(&self, bytes: usize, may_use_reserve: bool) -> Result<(), Exhausted> {
        self.take_of(Resource::Memory, bytes, may_use_reserve)
    }

    fn account(&self, resource: Resource) -> &Account {
        match resource {
            Resource::Memory => &self.0.bytes,
            Resource::Requests => &self.0.requests,
            Resource::BodyBytes => &self.0.body_bytes,
        }
    }

    pub(crate) fn take_of(&self, resource: Resource, count: usize, may_use_reserve: bool) -> Result<(), Exhausted> {
        let account = self.account(resource);
        let limit = account.limit(may_use_reserve);
        let missing = || (account.used() + count).saturating_sub(limit);
        let taken =
            account.try_take(count, limit) || (self.evict_slow(resource, missing()) && account.try_take(count, limit));
        if taken { Ok(()) } else { Err(Exhausted(resource)) }
    }

    /// Takes bytes even beyond the limit.
    pub(crate) fn overdraw(&self, bytes: usize) {
        self.0.bytes.used.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.release_of(Resource::Memory, bytes);
    }

    pub(crate) fn release_of(&self, resource: Resource, count: usize) {
        if count > 0 {
            self.account(resource).release(count);
        }
    }

    pub(crate) fn count_refusal(&self, reason: &'static str) {
        self.0.refused.fetch_add(1, Relaxed);
        metrics::http_refused(reason);
    }

    /// Too many refusals are waiting to be read.
    pub(crate) fn overdrawn(&self) -> bool {
        self.bytes_used() > self.0.bytes.max + self.0.bytes.max / RESERVE_PART
    }

    /// Evicts slow holders, oldest first. Returns `false` if there are none.
    fn evict_slow(&self, resource: Resource, missing: usize) -> bool {
        let account = self.account(resource);
        let now = self.0.started.elapsed().as_millis() as u64;
        if now < account.next_eviction.load(Relaxed) {
            return false;
        }
        let goal = missing.max(account.max / EVICTION_PART).max(1);
        let listeners: Vec<_> = {
            let listeners = self.0.listeners.lock();
            listeners.iter().filter_map(Weak::upgrade).collect()
        };
        let mut candidates = Vec::new();
        listeners.iter().for_each(|listener| listener.candidates(&mut candidates));
        candidates.retain(|one| one.since + SLOW_AFTER <= Instant::now() && one.holder.holds(resource) > 0);
        candidates.sort_unstable_by_key(|candidate| candidate.since);
        let (mut freed, mut cut) = (0, 0);
        for Candidate { holder, .. } in candidates {
            if freed >= goal {
                break;
            }
            let held = holder.holds(resource);
            if holder.evict() {
                freed += held;
                cut += 1;
            }
        }
        if cut > 0 {
            metrics::http_cut_for_memory(cut);
        }
        if freed < goal {
            account.next_eviction.store(now + EVICTION_PAUSE.as_millis() as u64, Relaxed);
        }
        freed > 0
    }
}
