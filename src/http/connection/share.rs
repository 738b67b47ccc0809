//! The memory share of one request, from its head until the last byte of its reply is sent.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::watch::Watch;
use crate::http::memory::{Exhausted, Holder, Resource};

/// Memory of a request in addition to its head, body and reply: its task, stream and first buffer.
pub(crate) const REQUEST_BYTES: usize = 8 * 1024;
/// Includes a small body, so that most requests touch the shared counter only twice.
const FREE_BODY_BYTES: usize = 2 * 1024;
/// A growing body takes memory in steps of at least this size, to touch the shared counter less often.
const STEP_BYTES: usize = 8 * 1024;
/// Memory of a refusal until it is sent.
const REFUSAL_BYTES: usize = 2 * 1024;

const READING: u8 = 0;
const HANDLING: u8 = 1;
const REPLYING: u8 = 2;
const EVICTED: u8 = 3;

/// The memory of one request. Dropping it releases the memory: after the last byte of the reply is sent, or when the
/// connection ends.
#[derive(Debug)]
pub(crate) struct Share {
    watch: Arc<Watch>,
    /// The minimum: the request's task and stream.
    base: usize,
    bytes: AtomicUsize,
    /// Body bytes received.
    received: AtomicUsize,
    /// Body bytes counted against the limit for all requests.
    body_bytes: AtomicUsize,
    /// Counted as a request in flight: 1 or 0.
    requests: AtomicUsize,
    phase: AtomicU8,
    /// When the phase began, in the watch's time.
    since: AtomicU64,
    reader: AtomicWaker,
    /// The rest of a body that the service did not read.
    unread: Mutex<Option<Incoming>>,
    /// The era of the connection's replies in which its reply is counted; 0 before the reply.
    era: AtomicU32,
}

impl Share {
    /// Takes the share of a request once its head is received.
    pub(crate) fn take(watch: &Arc<Watch>, head_bytes: usize) -> Result<Arc<Self>, Exhausted> {
        let bytes = REQUEST_BYTES + head_bytes;
        let (memory, may_use_reserve) = (watch.memory(), watch.holds_nothing());
        memory.take_of(Resource::Requests, 1, may_use_reserve)?;
        if let Err(exhausted) = memory.take(bytes, may_use_reserve) {
            memory.release_of(Resource::Requests, 1);
            return Err(exhausted);
        }
        Ok(Self::new(watch, bytes, REQUEST_BYTES, 1))
    }

    /// Takes a share beyond the limit, for a refusal or for a probe, which is never refused. `None` when too many wait
    /// already, and the connection has to be closed.
    pub(crate) fn beyond(watch: &Arc<Watch>) -> Option<Arc<Self>> {
        if watch.memory().overdrawn() {
            return None;
        }
        watch.memory().overdraw(REFUSAL_BYTES);
        Some(Self::new(watch, REFUSAL_BYTES, REFUSAL_BYTES, 0))
    }

    fn new(watch: &Arc<Watch>, bytes: usize, base: usize, requests: usize) -> Arc<Self> {
        let share = Arc::new(Self {
            watch: Arc::clone(watch),
            base,
            bytes: AtomicUsize::new(bytes),
            received: AtomicUsize::new(0),
            body_bytes: AtomicUsize::new(0),
            requests: AtomicUsize::new(requests),
            phase: AtomicU8::new(HANDLING),
            since: AtomicU64::new(watch.now()),
            reader: AtomicWaker::new(),
            unread: Mutex::default(),
            era: AtomicU32::new(0),
        });
        let listed: Weak<Self> = Arc::downgrade(&share);
        watch.list(listed);
        share
    }

    /// The peer that sent the request.
    pub(crate) fn peer(&self) -> IpAddr {
        self.watch.peer()
    }

    /// The request came over HTTP/2.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.watch.is_multiplexed()
    }

    /// Counts received body bytes.
    pub(crate) fn body_received(&self, bytes: usize) -> Result<(), Exhausted> {
        // Only the task that reads the body writes this.
        let received = self.received.load(Relaxed) + bytes;
        self.received.store(received, Relaxed);
        let held = received.saturating_sub(FREE_BODY_BYTES);
        let missing = held.saturating_sub(self.body_bytes.load(Relaxed));
        if missing > 0 {
            let step = missing.max(STEP_BYTES);
            self.watch.memory().take_of(Resource::BodyBytes, step, true)?;
            self.body_bytes.fetch_add(step, Relaxed);
        }
        self.reserve(held)
    }

    fn release_body(&self) {
        self.watch.memory().release_of(Resource::BodyBytes, self.body_bytes.swap(0, Relaxed));
    }

    /// Reserves at least `bytes` in addition to the request itself.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<(), Exhausted> {
        let missing = (self.base + bytes).saturating_sub(self.bytes.load(Relaxed));
        if missing == 0 {
            return Ok(());
        }
        let step = missing.max(STEP_BYTES);
        self.watch.memory().take(step, false)?;
        self.bytes.fetch_add(step, Relaxed);
        Ok(())
    }

    /// The body is incomplete and its next part was not received yet.
    pub(crate) fn waits_for_body(&self, waker: &Waker) {
        self.reader.register(waker);
        let _ = self.phase.compare_exchange(HANDLING, READING, Relaxed, Relaxed);
    }

    pub(crate) fn body_ended(&self) {
        let _ = self.phase.compare_exchange(READING, HANDLING, Relaxed, Relaxed);
    }

    pub(crate) fn leave_unread(&self, body: Incoming) {
        *self.unread.lock() = Some(body);
    }

    /// Takes the unread rest of the body, and releases the memory of the part that was read.
    pub(crate) fn take_unread(&self) -> Option<Incoming> {
        let unread = self.unread.lock().take()?;
        let held = self.bytes.load(Relaxed).min(self.base);
        let _ = self.adjust(held, 0, false);
        self.release_body();
        Some(unread)
    }

    /// The client was too slow while memory was short.
    pub(crate) fn is_evicted(&self) -> bool {
        self.phase.load(Relaxed) == EVICTED
    }

    pub(crate) fn count_refusal(&self, exhausted: Exhausted) {
        self.watch.memory().count_refusal(exhausted.reason());
    }

    /// Turns the share into that of the reply. Returns `Err` and changes nothing if there is no room and `may_refuse`
    /// is set.
    pub(crate) fn reply(&self, reply_bytes: usize, may_refuse: bool) -> Result<(), Exhausted> {
        let needed = self.base + reply_bytes;
        let held = self.bytes.load(Relaxed);
        // The memory of a small head or body suffices for a small reply, without touching the shared counter.
        if !(needed..=needed + STEP_BYTES).contains(&held) {
            self.adjust(needed, needed.saturating_sub(held), may_refuse)?;
        }
        self.release_body();
        self.since.store(self.watch.now(), Relaxed);
        self.phase.store(REPLYING, Relaxed);
        self.watch.reply_began(&self.era);
        Ok(())
    }

    fn adjust(&self, needed: usize, growth: usize, may_refuse: bool) -> Result<(), Exhausted> {
        let memory = self.watch.memory();
        let taken = growth > 0 && memory.take(growth, false).is_ok();
        if growth > 0 && !taken && may_refuse {
            return Err(Exhausted(Resource::Memory));
        }
        // A concurrent eviction released the bytes it found; the difference is computed from what is found now.
        let paid = self.bytes.swap(needed, Relaxed) + if taken { growth } else { 0 };
        if paid > needed {
            memory.release(paid - needed);
        } else {
            memory.overdraw(needed - paid);
        }
        Ok(())
    }

    pub(crate) fn is_replying(&self) -> bool {
        self.phase.load(Relaxed) == REPLYING
    }

    fn release_all(&self) {
        let memory = self.watch.memory();
        memory.release(self.bytes.swap(0, Relaxed));
        memory.release_of(Resource::Requests, self.requests.swap(0, Relaxed));
        self.release_body();
    }
}

impl Holder for Share {
    fn waits_since(&self) -> Option<Instant> {
        let waits = matches!(self.phase.load(Relaxed), READING | REPLYING) && self.bytes.load(Relaxed) > 0;
        waits.then(|| self.watch.instant(self.since.load(Relaxed)))
    }

    fn holds(&self, resource: Resource) -> usize {
        match resource {
            Resource::Memory => self.bytes.load(Relaxed),
            Resource::Requests => self.requests.load(Relaxed),
            Resource::BodyBytes => self.body_bytes.load(Relaxed),
        }
    }

    fn evict(&self) -> bool {
        if self.phase.compare_exchange(READING, EVICTED, Relaxed, Relaxed).is_ok() {
            self.reader.wake();
        } else if self.is_replying() {
            self.watch.cut();
        } else {
            return false;
        }
        self.release_all();
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.release_all();
        self.watch.unlist(self, self.era.load(Relaxed));
    }
}
