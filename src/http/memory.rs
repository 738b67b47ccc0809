//! The memory that peers can make the process hold, on all its listeners together.
//!
//! Each request has a [`Share`] from its head until the last byte of its reply has left: a fixed part, its head, the
//! body bytes that came, then the bytes of its reply. A connection has a charge of its own for a head that is not
//! complete and for what HTTP/2 keeps. Nothing is counted on a peer's word. When the budget is short, the slowest
//! pay: bodies that wait for their client, replies and connections that wait for their reader, oldest first.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::connection::Watch;
use super::connections::Connections;
use crate::metrics;

/// What a request takes beside its head, body and reply: its task, its stream, its first buffer.
pub(super) const REQUEST_BYTES: usize = 8 * 1024;
/// Of which a small body: most requests touch the shared counter twice only.
const FREE_BODY_BYTES: usize = 2 * 1024;
/// A part of what any connection takes: many connections leave less for their requests.
pub(super) const CONNECTION_BYTES: usize = 3 * 1024;
/// What an HTTP/2 connection takes by itself: frame buffers, header tables, a header block in the making.
pub(super) const HTTP2_BYTES: usize = 64 * 1024;
/// What a refusal takes until it has left.
const REFUSAL_BYTES: usize = 2 * 1024;
/// A body that grows takes at least this much more, to touch the shared counter less often.
const STEP_BYTES: usize = 8 * 1024;
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
    bytes_max: usize,
    used: AtomicUsize,
    refused: AtomicU64,
    open: AtomicUsize,
    started: Instant,
    /// Milliseconds from `started`.
    next_search: AtomicU64,
    listeners: Mutex<Vec<Weak<Connections>>>,
}

/// There is no room, and nobody slow to take it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Short;

impl MemoryBudget {
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Inner {
            bytes_max,
            used: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            started: Instant::now(),
            next_search: AtomicU64::new(0),
            listeners: Mutex::default(),
        }))
    }

    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// What is held now. May pass the limit by connections that are idle and the refusals that say so.
    pub fn bytes_used(&self) -> usize {
        self.0.used.load(Relaxed)
    }

    /// Requests and connections that were refused for want of memory, ever.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Relaxed)
    }

    /// The connections of a listener: those that can be made to pay.
    pub(super) fn add_listener(&self, connections: &Arc<Connections>) {
        let mut listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Arc::downgrade(connections));
    }

    pub(super) fn connection_opened(&self) {
        self.0.open.fetch_add(1, Relaxed);
        self.overdraw(CONNECTION_BYTES);
    }

    pub(super) fn connection_closed(&self) {
        self.0.open.fetch_sub(1, Relaxed);
        self.give_back(CONNECTION_BYTES);
    }

    /// How much a connection may read at once. One less than a power of two: the protocol library doubles a buffer
    /// that a read has filled.
    pub(super) fn read_bytes_max(&self) -> usize {
        let each = READ_BUFFERS_BYTES / self.0.open.load(Relaxed).max(1);
        (1 << each.clamp(READ_BUFFER_LEAST, READ_BUFFER_MOST).ilog2()) - 1
    }

    /// Takes `bytes`, from the slow when there is no other way.
    pub(super) fn take(&self, bytes: usize, may_use_reserve: bool) -> Result<(), Short> {
        let limit = self.0.bytes_max - if may_use_reserve { 0 } else { self.0.bytes_max / RESERVE_PART };
        let missing = || (self.bytes_used() + bytes).saturating_sub(limit);
        let taken = self.try_take(bytes, limit) || (self.collect(missing()) && self.try_take(bytes, limit));
        if taken { Ok(()) } else { Err(Short) }
    }

    fn try_take(&self, bytes: usize, limit: usize) -> bool {
        let fits = self.0.used.fetch_add(bytes, Relaxed) + bytes <= limit;
        if !fits {
            self.0.used.fetch_sub(bytes, Relaxed);
        }
        fits
    }

    /// Takes what is held whether there is room or not.
    fn overdraw(&self, bytes: usize) {
        self.0.used.fetch_add(bytes, Relaxed);
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Relaxed);
    }

    pub(super) fn count_refusal(&self) {
        self.0.refused.fetch_add(1, Relaxed);
        metrics::http_refused_for_memory();
    }

    /// More refusals wait to be read than there should be.
    fn overdrawn(&self) -> bool {
        self.bytes_used() > self.0.bytes_max + self.0.bytes_max / RESERVE_PART
    }

    /// Makes the slow pay, oldest first; false when there was nobody to ask.
    fn collect(&self, bytes: usize) -> bool {
        let now = self.0.started.elapsed().as_millis() as u64;
        if now < self.0.next_search.load(Relaxed) {
            return false;
        }
        let goal = bytes.max(self.0.bytes_max / SEARCH_PART);
        let listeners: Vec<_> = {
            let listeners = self.0.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.iter().filter_map(Weak::upgrade).collect()
        };
        let mut debtors = Vec::new();
        for listener in listeners {
            for watch in listener.all() {
                watch.add_debtors(&mut debtors);
            }
        }
        if let Some(latest) = Instant::now().checked_sub(SLOW_AFTER) {
            debtors.retain(|debtor| debtor.since <= latest);
        }
        debtors.sort_unstable_by_key(|debtor| debtor.since);
        let (mut freed, mut cut) = (0, 0);
        for debtor in debtors {
            if freed >= goal {
                break;
            }
            freed += debtor.pay();
            cut += 1;
        }
        if cut > 0 {
            metrics::http_cut_for_memory(cut);
        }
        if freed < goal {
            self.0.next_search.store(now + SEARCH_PAUSE.as_millis() as u64, Relaxed);
        }
        freed > 0
    }
}

/// Who holds memory while the process waits for a peer.
pub(super) struct Debtor {
    pub(super) since: Instant,
    pub(super) held: Held,
}

pub(super) enum Held {
    /// A body or a reply.
    Share(Arc<Share>),
    /// What a connection holds by itself.
    Connection(Arc<Watch>),
}

impl Debtor {
    /// Gives back what is held; the memory itself is free when its task has run.
    fn pay(self) -> usize {
        match self.held {
            Held::Share(share) => share.evict(),
            Held::Connection(watch) => {
                watch.cut();
                watch.give_back_own()
            }
        }
    }
}

const READING: u8 = 0;
const HANDLING: u8 = 1;
const REPLYING: u8 = 2;
const EVICTED: u8 = 3;

/// What one request holds, given back when it is dropped: after the last byte of the reply has left, or when the
/// connection has ended.
#[derive(Debug)]
pub(super) struct Share {
    watch: Arc<Watch>,
    /// What it holds at least: the request's task and stream.
    base: usize,
    bytes: AtomicUsize,
    /// Body bytes that came.
    came: AtomicUsize,
    phase: AtomicU8,
    /// When the phase began, in the time of the watch.
    since: AtomicU64,
    reader: AtomicWaker,
    /// Which replies of the connection it is counted among, once it has one.
    pub(super) era: AtomicU32,
}

impl Share {
    /// The share of a request whose head is there.
    pub(super) fn take(watch: &Arc<Watch>, head_bytes: usize) -> Result<Arc<Self>, Short> {
        let bytes = REQUEST_BYTES + head_bytes;
        watch.memory().take(bytes, watch.holds_nothing())?;
        Ok(Self::new(watch, bytes, REQUEST_BYTES))
    }

    /// The share of a refusal, or of a probe, which is not refused; nothing when too many wait already, and the
    /// connection has to end.
    pub(super) fn beyond(watch: &Arc<Watch>) -> Option<Arc<Self>> {
        if watch.memory().overdrawn() {
            return None;
        }
        watch.memory().overdraw(REFUSAL_BYTES);
        Some(Self::new(watch, REFUSAL_BYTES, REFUSAL_BYTES))
    }

    fn new(watch: &Arc<Watch>, bytes: usize, base: usize) -> Arc<Self> {
        let share = Arc::new(Self {
            watch: Arc::clone(watch),
            base,
            bytes: AtomicUsize::new(bytes),
            came: AtomicUsize::new(0),
            phase: AtomicU8::new(HANDLING),
            since: AtomicU64::new(watch.now()),
            reader: AtomicWaker::new(),
            era: AtomicU32::new(0),
        });
        watch.list(&share);
        share
    }

    /// Who sent the request.
    pub(super) fn peer(&self) -> IpAddr {
        self.watch.peer()
    }

    /// Counts body bytes that came.
    pub(super) fn body_came(&self, bytes: usize) -> Result<(), Short> {
        // Only the reader of the body writes it.
        let came = self.came.load(Relaxed) + bytes;
        self.came.store(came, Relaxed);
        self.hold(came.saturating_sub(FREE_BODY_BYTES))
    }

    /// Holds at least this much beside the request itself.
    pub(super) fn hold(&self, bytes: usize) -> Result<(), Short> {
        let missing = (self.base + bytes).saturating_sub(self.bytes.load(Relaxed));
        if missing == 0 {
            return Ok(());
        }
        let step = missing.max(STEP_BYTES);
        self.watch.memory().take(step, false)?;
        self.bytes.fetch_add(step, Relaxed);
        Ok(())
    }

    /// The body is not complete, and its next part has not come.
    pub(super) fn waits_for_body(&self, waker: &Waker) {
        self.reader.register(waker);
        let _ = self.phase.compare_exchange(HANDLING, READING, Relaxed, Relaxed);
    }

    pub(super) fn body_ended(&self) {
        let _ = self.phase.compare_exchange(READING, HANDLING, Relaxed, Relaxed);
    }

    /// The client was too slow while memory was short.
    pub(super) fn is_evicted(&self) -> bool {
        self.phase.load(Relaxed) == EVICTED
    }

    pub(super) fn count_refusal(&self) {
        self.watch.memory().count_refusal();
    }

    /// From now on the share is that of the reply. `Err`, with nothing changed, when there is no room for it and
    /// `may_refuse`.
    pub(super) fn reply(&self, reply_bytes: usize, may_refuse: bool) -> Result<(), Short> {
        let memory = self.watch.memory();
        let needed = self.base + reply_bytes;
        let growth = needed.saturating_sub(self.bytes.load(Relaxed));
        let taken = growth > 0 && memory.take(growth, false).is_ok();
        if growth > 0 && !taken && may_refuse {
            return Err(Short);
        }
        // An eviction meanwhile gave back what it found: the difference is settled with what is found now.
        let paid = self.bytes.swap(needed, Relaxed) + if taken { growth } else { 0 };
        if paid > needed {
            memory.give_back(paid - needed);
        } else {
            memory.overdraw(needed - paid);
        }
        self.since.store(self.watch.now(), Relaxed);
        self.phase.store(REPLYING, Relaxed);
        self.watch.reply_began(self);
        Ok(())
    }

    pub(super) fn is_replying(&self) -> bool {
        self.phase.load(Relaxed) == REPLYING
    }

    /// As one who makes the process wait, if it does.
    pub(super) fn debtor(self: Arc<Self>) -> Option<Debtor> {
        let waits = matches!(self.phase.load(Relaxed), READING | REPLYING) && self.bytes.load(Relaxed) > 0;
        waits.then(|| Debtor { since: self.watch.instant(self.since.load(Relaxed)), held: Held::Share(self) })
    }

    fn evict(&self) -> usize {
        if self.phase.compare_exchange(READING, EVICTED, Relaxed, Relaxed).is_ok() {
            self.reader.wake();
        } else if self.is_replying() {
            self.watch.cut();
        } else {
            return 0;
        }
        let bytes = self.bytes.swap(0, Relaxed);
        self.watch.memory().give_back(bytes);
        bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.watch.memory().give_back(*self.bytes.get_mut());
        self.watch.unlist(self);
    }
}
