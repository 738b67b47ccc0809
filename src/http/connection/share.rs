//! What one request holds of the memory, from its head until the last byte of its reply has left; and who pays when
//! there is too little.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::watch::Watch;
use crate::http::memory::{Exhausted, Holder, Resource};

/// What a request takes beside its head, body and reply: its task, its stream, its first buffer.
pub(crate) const REQUEST_BYTES: usize = 8 * 1024;
/// Of which a small body: most requests touch the shared counter twice only.
const FREE_BODY_BYTES: usize = 2 * 1024;
/// A body that grows takes at least this much more, to touch the shared counter less often.
const STEP_BYTES: usize = 8 * 1024;
/// What a refusal takes until it has left.
const REFUSAL_BYTES: usize = 2 * 1024;

const READING: u8 = 0;
const HANDLING: u8 = 1;
const REPLYING: u8 = 2;
const EVICTED: u8 = 3;

/// What one request holds, given back when it is dropped: after the last byte of the reply has left, or when the
/// connection has ended.
#[derive(Debug)]
pub(crate) struct Share {
    watch: Arc<Watch>,
    /// What it holds at least: the request's task and stream.
    base: usize,
    bytes: AtomicUsize,
    /// Body bytes that came.
    came: AtomicUsize,
    /// Those of them that are counted among the body bytes of all requests.
    body_bytes: AtomicUsize,
    /// It is counted among the requests in flight: 1, or 0.
    requests: AtomicUsize,
    phase: AtomicU8,
    /// When the phase began, in the time of the watch.
    since: AtomicU64,
    reader: AtomicWaker,
    /// The rest of a body that nobody wanted to read.
    unread: Mutex<Option<Incoming>>,
    /// Which replies of the connection it is counted among, once it has one.
    era: AtomicU32,
}

impl Share {
    /// The share of a request whose head is there.
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

    /// The share of a refusal, or of a probe, which is not refused; nothing when too many wait already, and the
    /// connection has to end.
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
            came: AtomicUsize::new(0),
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

    /// Who sent the request.
    pub(crate) fn peer(&self) -> IpAddr {
        self.watch.peer()
    }

    /// It came over HTTP/2.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.watch.is_multiplexed()
    }

    /// Counts body bytes that came.
    pub(crate) fn body_came(&self, bytes: usize) -> Result<(), Exhausted> {
        // Only the reader of the body writes it.
        let came = self.came.load(Relaxed) + bytes;
        self.came.store(came, Relaxed);
        let held = came.saturating_sub(FREE_BODY_BYTES);
        let missing = held.saturating_sub(self.body_bytes.load(Relaxed));
        if missing > 0 {
            let step = missing.max(STEP_BYTES);
            self.watch.memory().take_of(Resource::BodyBytes, step, true)?;
            self.body_bytes.fetch_add(step, Relaxed);
        }
        self.hold(held)
    }

    fn release_body(&self) {
        self.watch.memory().release_of(Resource::BodyBytes, self.body_bytes.swap(0, Relaxed));
    }

    /// Holds at least this much beside the request itself.
    pub(crate) fn hold(&self, bytes: usize) -> Result<(), Exhausted> {
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
    pub(crate) fn waits_for_body(&self, waker: &Waker) {
        self.reader.register(waker);
        let _ = self.phase.compare_exchange(HANDLING, READING, Relaxed, Relaxed);
    }

    pub(crate) fn body_ended(&self) {
        let _ = self.phase.compare_exchange(READING, HANDLING, Relaxed, Relaxed);
    }

    pub(crate) fn leave_unread(&self, body: Incoming) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
    }

    /// What was left unread. What was read of it is held no more.
    pub(crate) fn take_unread(&self) -> Option<Incoming> {
        let unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let held = self.bytes.load(Relaxed).min(self.base);
        let _ = self.hold_exactly(held, 0, false);
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

    /// From now on the share is that of the reply. `Err`, with nothing changed, when there is no room for it and
    /// `may_refuse`.
    pub(crate) fn reply(&self, reply_bytes: usize, may_refuse: bool) -> Result<(), Exhausted> {
        let needed = self.base + reply_bytes;
        let held = self.bytes.load(Relaxed);
        // What it held for a small head or body is enough for a small reply: the shared counter is left alone.
        if !(needed..=needed + STEP_BYTES).contains(&held) {
            self.hold_exactly(needed, needed.saturating_sub(held), may_refuse)?;
        }
        self.release_body();
        self.since.store(self.watch.now(), Relaxed);
        self.phase.store(REPLYING, Relaxed);
        self.watch.reply_began(&self.era);
        Ok(())
    }

    fn hold_exactly(&self, needed: usize, growth: usize, may_refuse: bool) -> Result<(), Exhausted> {
        let memory = self.watch.memory();
        let taken = growth > 0 && memory.take(growth, false).is_ok();
        if growth > 0 && !taken && may_refuse {
            return Err(Exhausted(Resource::Memory));
        }
        // An eviction meanwhile gave back what it found: the difference is settled with what is found now.
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
