//! The state of one connection: what it is doing, its deadline, and its shutdown.
//!
//! A connection has a single timer, set to the earliest time at which a limit can be violated given the current state,
//! so that a busy connection rarely resets it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::http::limits::Limits;
use crate::http::memory::{Candidate, Exhausted, HTTP2_BYTES, Holder, MemoryBudget, Resource};

/// The state of one connection, shared by its stream, its requests and the drain.
///
/// Times are milliseconds since the accept, plus one; 0 means "not set".
#[derive(Debug)]
pub(crate) struct Watch {
    accepted: Instant,
    /// The time of the current poll; see [`Watch::polling`].
    polled_at: AtomicU64,
    peer: IpAddr,
    pub(super) memory: MemoryBudget,
    /// Budget taken by every connection of the listener.
    base_bytes: usize,
    waker: AtomicWaker,
    stage: AtomicU8,
    /// When the drain began.
    drained: AtomicU64,
    /// When the first bytes of a TLS handshake in progress were received.
    pub(super) handshake: AtomicU64,
    /// The client's first flight was complete and was answered.
    pub(super) handshake_answered: AtomicBool,
    multiplexed: AtomicBool,
    served_any: AtomicBool,
    in_flight: AtomicU32,
    /// When the last request began, was answered, or its reply was sent.
    progress: AtomicU64,
    /// When the first bytes were received while no request was in flight.
    head: AtomicU64,
    /// The number of these bytes.
    head_bytes: AtomicUsize,
    /// When the client stopped reading the reply.
    write_blocked: AtomicU64,
    /// Bytes were written since the last flush.
    unflushed: AtomicBool,
    /// Since when the replies of the current era have been waiting to be read; see [`Listed`].
    reply_waits: AtomicU64,
    /// The last reply was sent before its request's body was read.
    body_unread: AtomicBool,
    /// Budget taken in addition to that of the requests.
    pub(super) own_bytes: AtomicUsize,
    /// The same for TLS records that are incomplete or not sent yet.
    pub(super) record_bytes: AtomicUsize,
    listed: Mutex<Listed>,
    /// The number of listed shares.
    shares: AtomicUsize,
}

/// The requests that hold memory. Their replies are grouped into eras, so that a busy connection knows without a search
/// whether a reply has waited too long: an era's time begins when the last reply of the previous era is sent.
#[derive(Debug, Default)]
struct Listed {
    shares: Vec<Weak<dyn Holder>>,
    era: u32,
    /// Unsent replies of this era, and of the next one.
    replies: u32,
    next_replies: u32,
}

impl Listed {
    /// Returns `true` when the next era begins.
    fn turn(&mut self) -> bool {
        if self.replies > 0 || self.next_replies == 0 {
            return false;
        }
        self.era += 1;
        self.replies = std::mem::take(&mut self.next_replies);
        true
    }
}

const SERVING: u8 = 0;
const DRAINING: u8 = 1;
const CUT: u8 = 2;

/// A partial head up to this size is included in the memory of every connection.
const HEAD_FREE_BYTES: usize = 8 * 1024;
/// Larger heads take budget in steps of this size.
const HEAD_STEP_BYTES: usize = 8 * 1024;

/// What happens at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// Graceful shutdown.
    Idle,
    /// The connection is cut.
    Hard,
}

impl Watch {
    pub(crate) fn new(memory: MemoryBudget, base_bytes: usize, peer: SocketAddr) -> Self {
        memory.connection_opened(base_bytes);
        Self {
            accepted: Instant::now(),
            polled_at: AtomicU64::new(0),
            // A dual-stack listener sees IPv4 peers as mapped addresses.
            peer: peer.ip().to_canonical(),
            memory,
            base_bytes,
            waker: AtomicWaker::new(),
            stage: AtomicU8::new(SERVING),
            drained: AtomicU64::new(0),
            handshake: AtomicU64::new(0),
            handshake_answered: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
            served_any: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            progress: AtomicU64::new(1),
            head: AtomicU64::new(0),
            head_bytes: AtomicUsize::new(0),
            write_blocked: AtomicU64::new(0),
            unflushed: AtomicBool::new(false),
            reply_waits: AtomicU64::new(0),
            body_unread: AtomicBool::new(false),
            own_bytes: AtomicUsize::new(0),
            record_bytes: AtomicUsize::new(0),
            listed: Mutex::default(),
            shares: AtomicUsize::new(0),
        }
    }

    /// The peer: a client, or a proxy in front of it.
    pub(crate) fn peer(&self) -> IpAddr {
        self.peer
    }

    pub(crate) fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Relaxed)
    }

    pub(crate) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Completes requests in flight and accepts no new ones.
    pub(crate) fn drain(&self) {
        self.drained.store(self.now(), Relaxed);
        self.stage.fetch_max(DRAINING, Relaxed);
        self.waker.wake();
    }

    /// Registers the task to wake when the connection is drained or cut.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// When the last request began, was answered, or its reply was sent.
    pub(crate) fn progress(&self) -> u64 {
        self.progress.load(Relaxed)
    }

    /// Until when an idle connection may send a last request during a drain.
    pub(crate) fn last_call(&self, limits: &Limits) -> Instant {
        self.at(self.drained.load(Relaxed), limits.last_call)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.stage.load(Relaxed) != SERVING
    }

    pub(crate) fn cut(&self) {
        self.stage.store(CUT, Relaxed);
        self.waker.wake();
    }

    /// The client uses HTTP/2. `Err` when there is no memory for it.
    pub(crate) fn start_http2(&self) -> Result<(), Exhausted> {
        self.multiplexed.store(true, Relaxed);
        self.memory.take(HTTP2_BYTES, true)?;
        self.own_bytes.fetch_add(HTTP2_BYTES, Relaxed);
        Ok(())
    }

    pub(crate) fn request_began(&self, multiplexed: bool) {
        self.multiplexed.store(multiplexed, Relaxed);
        self.served_any.store(true, Relaxed);
        self.body_unread.store(false, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.head.store(0, Relaxed);
        self.head_bytes.store(0, Relaxed);
        if !multiplexed && self.own_bytes.load(Relaxed) > 0 {
            self.release_own();
        }
        self.progress.store(self.now(), Relaxed);
    }

    pub(crate) fn request_ended(&self) {
        self.progress.store(self.now(), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn left_body_unread(&self) {
        self.body_unread.store(true, Relaxed);
    }

    /// The client may still be sending data that nothing will read: a refused body, or a head that could not be parsed.
    pub(crate) fn leaves_unread(&self) -> bool {
        self.body_unread.load(Relaxed) || (self.head.load(Relaxed) != 0 && !self.multiplexed.load(Relaxed))
    }

    /// `Err` when the bytes belong to a head that there is no memory for.
    pub(crate) fn bytes_received(&self, count: usize) -> Result<(), Exhausted> {
        if self.in_flight.load(Relaxed) > 0 {
            return Ok(());
        }
        if self.head.load(Relaxed) == 0 {
            self.head.store(self.now(), Relaxed);
        }
        // Data after a refusal is discarded.
        if self.multiplexed.load(Relaxed) || self.body_unread.load(Relaxed) {
            return Ok(());
        }
        let head_bytes = self.head_bytes.load(Relaxed) + count;
        self.head_bytes.store(head_bytes, Relaxed);
        if head_bytes > HEAD_FREE_BYTES + self.own_bytes.load(Relaxed) {
            let step = count.max(HEAD_STEP_BYTES);
            self.memory.take(step, false)?;
            self.own_bytes.fetch_add(step, Relaxed);
        }
        Ok(())
    }

    pub(crate) fn write_blocked(&self) {
        if self.write_blocked.load(Relaxed) == 0 {
            self.write_blocked.store(self.now(), Relaxed);
        }
    }

    pub(crate) fn wrote(&self) {
        self.unflushed.store(true, Relaxed);
    }

    /// `false` if part of a reply may have been sent.
    pub(crate) fn is_flushed(&self) -> bool {
        !self.unflushed.load(Relaxed)
    }

    pub(crate) fn all_written(&self) {
        self.unflushed.store(false, Relaxed);
        if self.write_blocked.load(Relaxed) != 0 {
            self.write_blocked.store(0, Relaxed);
        }
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.stage.load(Relaxed) == CUT
    }

    pub(crate) fn list(&self, share: Weak<dyn Holder>) {
        self.listed.lock().shares.push(share);
        self.shares.fetch_add(1, Relaxed);
    }

    pub(crate) fn reply_began(&self, era: &AtomicU32) {
        let mut listed = self.listed.lock();
        era.store(listed.era + 1, Relaxed);
        listed.next_replies += 1;
        if listed.turn() {
            self.reply_waits.store(self.now(), Relaxed);
        }
    }

    pub(crate) fn unlist(&self, share: &dyn Holder, era: u32) {
        let now = self.now();
        let mut listed = self.listed.lock();
        if let Some(index) = listed.shares.iter().position(|other| std::ptr::addr_eq(other.as_ptr(), share)) {
            listed.shares.swap_remove(index);
            self.shares.fetch_sub(1, Relaxed);
        }
        match era {
            0 => {}
            era if era == listed.era => listed.replies -= 1,
            _ => listed.next_replies -= 1,
        }
        if listed.turn() {
            self.reply_waits.store(now, Relaxed);
        } else if listed.replies == 0 {
            self.reply_waits.store(0, Relaxed);
        }
        self.progress.store(now, Relaxed);
    }

    /// No request holds memory.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.shares.load(Relaxed) == 0
    }

    /// Releases the connection's own budget.
    pub(crate) fn release_own(&self) -> usize {
        let bytes = self.own_bytes.swap(0, Relaxed);
        self.memory.release(bytes);
        bytes
    }

    /// The budget held in addition to the requests.
    fn own_holds(&self) -> usize {
        self.own_bytes.load(Relaxed) + self.record_bytes.load(Relaxed)
    }

    /// Releases everything held in addition to the requests, once the connection is cut.
    pub(crate) fn release_all(&self) -> usize {
        let bytes = self.record_bytes.swap(0, Relaxed);
        self.memory.release(bytes);
        bytes + self.release_own()
    }

    /// Appends the holders of this connection that the process waits for.
    pub(crate) fn candidates(self: &Arc<Self>, candidates: &mut Vec<Candidate>) {
        // Released outside the lock, because dropping a share takes the lock.
        let shares: Vec<_> = self.listed.lock().shares.iter().filter_map(Weak::upgrade).collect();
        let own: Option<Arc<dyn Holder>> = if shares.is_empty() { Some(Arc::clone(self) as _) } else { None };
        let waiting = |holder: Arc<dyn Holder>| holder.waits_since().map(|since| Candidate { since, holder });
        candidates.extend(own.into_iter().chain(shares).filter_map(waiting));
    }

    /// Whether there was ever a request, and since when there is none. `None` when a request is in flight.
    pub(crate) fn idle_since(&self) -> Option<(bool, Instant)> {
        let idle = self.in_flight.load(Relaxed) == 0 && self.holds_nothing();
        idle.then(|| (self.served_any.load(Relaxed), self.instant(self.progress.load(Relaxed))))
    }

    /// HTTP/1.1 between two requests: no byte of the next one was received, and the last reply is sent. A connection
    /// whose last body was not read to its end closes with the reply and never gets here.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.load(Relaxed) == 0
            && self.head.load(Relaxed) == 0
            && !self.multiplexed.load(Relaxed)
            && self.is_flushed()
            && self.holds_nothing()
    }

    /// Reads the clock once for a whole poll of the connection: a poll takes well under a millisecond, but needs the
    /// time at every step of a request.
    pub(crate) fn polling<T>(&self, poll: impl FnOnce() -> T) -> T {
        self.polled_at.store(self.read_clock(), Relaxed);
        let polled = poll();
        self.polled_at.store(0, Relaxed);
        polled
    }

    pub(crate) fn now(&self) -> u64 {
        match self.polled_at.load(Relaxed) {
            0 => self.read_clock(),
            polled_at => polled_at,
        }
    }

    fn read_clock(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    pub(crate) fn instant(&self, mark: u64) -> Instant {
        self.accepted + Duration::from_millis(mark.saturating_sub(1))
    }

    pub(crate) fn at(&self, mark: u64, allowed: Duration) -> Instant {
        self.instant(mark) + allowed
    }

    /// The earliest time at which a limit is violated if nothing happens until then.
    pub(crate) fn deadline(&self, limits: &Limits) -> (Instant, Limit) {
        let progress = self.progress.load(Relaxed);
        let head = self.head.load(Relaxed);
        let unread = [&self.write_blocked, &self.reply_waits].map(|since| since.load(Relaxed));
        let unread = unread.into_iter().filter(|since| *since != 0).min();
        let unread = unread.map(|since| (self.at(since, limits.write_timeout), Limit::Hard));
        let request = if self.in_flight.load(Relaxed) > 0 {
            (self.at(progress, limits.request_timeout), Limit::Hard)
        } else if !self.served_any.load(Relaxed) {
            let head = self.accepted + limits.header_timeout;
            (self.handshake_since().map_or(head, |since| head.min(since + limits.handshake_timeout)), Limit::Hard)
        } else if head != 0 && !self.multiplexed.load(Relaxed) {
            (self.at(head, limits.header_timeout), Limit::Hard)
        } else if let Some(unread) = unread {
            return unread;
        } else {
            // In HTTP/2, bytes without a request (acknowledgements, pings) prove nothing.
            (self.at(progress, limits.idle_timeout), Limit::Idle)
        };
        match unread {
            Some(unread) if unread.0 < request.0 => unread,
            _ => request,
        }
    }

    /// The maximum size of a read. Between requests, at most the free size of a head; what follows a head is counted as
    /// its body.
    pub(crate) fn read_bytes_max(&self) -> usize {
        let most = self.memory.read_bytes_max();
        if self.in_flight.load(Relaxed) == 0 { most.min(HEAD_FREE_BYTES - 1) } else { most }
    }
}

/// A connection that holds memory apart from requests: for a partial head, a handshake in progress, or HTTP/2.
impl Holder for Watch {
    fn waits_since(&self) -> Option<Instant> {
        let marks = [&self.handshake, &self.head, &self.progress].map(|mark| mark.load(Relaxed));
        let [handshake, head, progress] = marks;
        let mark = match (handshake, head) {
            _ if self.multiplexed.load(Relaxed) => progress,
            (0, 0) => progress,
            (0, head) => head,
            (handshake, _) => handshake,
        };
        (self.own_holds() > 0).then(|| self.instant(mark))
    }

    fn holds(&self, resource: Resource) -> usize {
        match resource {
            Resource::Memory => self.own_holds(),
            Resource::Requests | Resource::BodyBytes => 0,
        }
    }

    fn evict(&self) -> bool {
        self.cut();
        self.release_all() > 0
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.memory.release(*self.own_bytes.get_mut() + *self.record_bytes.get_mut());
        self.memory.connection_closed(self.base_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(100),
            request_timeout: Duration::from_secs(200),
            write_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(400),
            ..Limits::default()
        }
    }

    /// Hundreds of seconds left, so that a slow machine does not matter.
    fn left(watch: &Watch) -> (u64, Limit) {
        let (deadline, limit) = watch.deadline(&limits());
        (((deadline - Instant::now()).as_secs() + 50) / 100, limit)
    }

    #[test]
    fn each_state_has_its_limit() {
        let mut watch = Watch::new(MemoryBudget::new(1 << 20), 0, ([127, 0, 0, 1], 1).into());
        watch.bytes_received(1).unwrap();
        assert_eq!(left(&watch), (1, Limit::Hard), "first head, from the accept");
        watch.request_began(false);
        assert_eq!(left(&watch), (2, Limit::Hard), "request");
        watch.request_ended();
        assert_eq!(left(&watch), (4, Limit::Idle), "idle");
        watch.accepted -= Duration::from_secs(200);
        watch.bytes_received(1).unwrap();
        assert_eq!(left(&watch), (1, Limit::Hard), "next head, from its first byte");
        watch.request_began(false);
        watch.request_ended();
        watch.write_blocked();
        watch.accepted -= Duration::from_secs(100);
        watch.write_blocked();
        assert_eq!(left(&watch), (2, Limit::Hard), "unread reply, from when it stalled");
        watch.all_written();
        assert_eq!(left(&watch), (3, Limit::Idle), "idle again, since the last request");
        watch.request_began(true);
        watch.request_ended();
        watch.bytes_received(1).unwrap();
        assert_eq!(left(&watch), (4, Limit::Idle), "HTTP/2 bytes without a request");
    }
}
