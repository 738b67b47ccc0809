//! The memory that peers can make the process hold, on all its listeners together.
//!
//! Each request has a [`Share`](super::connection::share::Share) from its head until the last byte of its reply has left: a fixed part, its head, the
//! body bytes that came, then the bytes of its reply. A connection has a charge of its own for a head that is not
//! complete and for what HTTP/2 keeps. Nothing is counted on a peer's word. Requests and the bytes of their bodies have
//! bounds of their own within the budget. When one of the three is short, the slowest pay: bodies that wait for their
//! client, replies and connections that wait for their reader, oldest first.

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::reply::problem::Problem;
use crate::metrics;

/// A part of what any connection takes: many connections leave less for their requests.
pub(crate) const CONNECTION_BYTES: usize = 3 * 1024;
/// A part of what its TLS session takes: no more, or as many idle connections as there may be would leave nothing for
/// requests.
pub(crate) const TLS_CONNECTION_BYTES: usize = 1024;
/// What a TLS handshake takes until it has ended.
pub(crate) const HANDSHAKE_BYTES: usize = 16 * 1024;
/// What an HTTP/2 connection takes by itself: frame buffers, header tables, a header block in the making.
pub(crate) const HTTP2_BYTES: usize = 64 * 1024;
/// Only a connection's first request may take the last part of the budget: many streams, or large bodies, leave
/// room for small requests.
const RESERVE_PART: usize = 8;
/// One search for the slow frees up to this part of the budget.
const SEARCH_PART: usize = 16;
/// No request or connection is slow before this.
const SLOW_AFTER: Duration = Duration::from_millis(500);
/// A search that found too little is not repeated sooner.
const SEARCH_PAUSE: Duration = Duration::from_millis(20);
/// Read buffers of all connections together; each has at least the least, so many connections take more.
const READ_BUFFERS_BYTES: usize = 8 * 1024 * 1024;
const READ_BUFFER_LEAST: usize = 8 * 1024;
const READ_BUFFER_MOST: usize = 64 * 1024;

/// Bytes that all connections and requests may hold together. Clones share one budget.
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

/// What requests may hold of one thing.
#[derive(Debug)]
struct Account {
    max: usize,
    used: AtomicUsize,
    /// When the slow are looked for again, in milliseconds since the budget began.
    next_search: AtomicU64,
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
        Self { max, used: AtomicUsize::new(0), next_search: AtomicU64::new(0) }
    }

    fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// The last part is kept for the first request of each connection.
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
    /// Bounded by bytes alone.
    pub fn new(bytes_max: usize) -> Self {
        Self::with_caps(bytes_max, usize::MAX, usize::MAX)
    }

    /// Within the bytes, so many requests in flight, and so many bytes of their bodies.
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

    /// What is held now. May pass the limit by connections that are idle and the refusals that say so.
    pub fn bytes_used(&self) -> usize {
        self.0.bytes.used()
    }

    /// Requests and connections that were refused for want of room, ever.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// Shows what is held as metrics.
    pub fn set_gauges(&self) {
        let Inner { bytes, requests, body_bytes, open, .. } = &*self.0;
        metrics::http_memory(bytes.used(), bytes.max);
        metrics::http_in_flight(open.load(Relaxed), requests.used(), body_bytes.used());
    }

    /// The connections of a listener: those that can be made to pay.
    pub(crate) fn add_listener(&self, listener: Weak<dyn Holders>) {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Those that are open, of all listeners.
    pub(crate) fn connections(&self) -> usize {
        self.0.open.load(Relaxed)
    }

    /// How much a connection may read at once. One less than a power of two: the protocol library doubles a buffer
    /// that a read has filled.
    pub(crate) fn read_bytes_max(&self) -> usize {
        let each = READ_BUFFERS_BYTES / self.0.open.load(Relaxed).max(1);
        (1 << each.clamp(READ_BUFFER_LEAST, READ_BUFFER_MOST).ilog2()) - 1
    }

    /// Takes `bytes`, from the slow when there is no other way.
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

    /// Takes what is held whether there is room or not.
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

    /// More refusals wait to be read than there should be.
    pub(crate) fn overdrawn(&self) -> bool {
        self.bytes_used() > self.0.bytes.max + self.0.bytes.max / RESERVE_PART
    }

    /// Makes the slow pay, oldest first; false when there was nobody to ask.
    fn evict_slow(&self, resource: Resource, missing: usize) -> bool {
        let account = self.account(resource);
        let now = self.0.started.elapsed().as_millis() as u64;
        if now < account.next_search.load(Relaxed) {
            return false;
        }
        let goal = missing.max(account.max / SEARCH_PART).max(1);
        let listeners: Vec<_> = {
            let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
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
            account.next_search.store(now + SEARCH_PAUSE.as_millis() as u64, Relaxed);
        }
        freed > 0
    }
}
