//! One connection: what it is doing, until when it may, and who may end it.
//!
//! A connection has a single timer, set to the earliest moment at which a limit could be
//! broken by what is known now, so that a busy connection hardly ever touches it.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::Limits;
use super::memory::{Debtor, HTTP2_BYTES, Held, MemoryBudget, Share, Short};

/// How long an idle connection may take to close after it was told.
const FAREWELL: Duration = Duration::from_secs(1);

/// The state of one connection, shared by its stream, its requests and the drain.
///
/// Times are milliseconds since the accept, plus one: 0 is "not".
#[derive(Debug)]
pub(super) struct Watch {
    accepted: Instant,
    peer: IpAddr,
    memory: MemoryBudget,
    waker: AtomicWaker,
    stage: AtomicU8,
    multiplexed: AtomicBool,
    served_any: AtomicBool,
    in_flight: AtomicU32,
    /// The last request that began, was answered, or whose reply left.
    progress: AtomicU64,
    /// The first bytes that came while no request was in flight.
    head: AtomicU64,
    /// How many there are of them.
    head_bytes: AtomicUsize,
    /// The client leaves reply bytes unread.
    write_blocked: AtomicU64,
    /// Since when the replies of one era wait to be read; see [`Listed`].
    reply_waits: AtomicU64,
    /// The last reply went out before its request's body was read.
    body_unread: AtomicBool,
    /// What is taken from the memory budget beside the requests.
    own_bytes: AtomicUsize,
    listed: Mutex<Listed>,
}

/// The requests that hold something. Their replies are counted by eras, so that a busy connection knows without a
/// search whether one of them waits too long: an era's time begins when the last reply of the era before has left.
#[derive(Debug, Default)]
struct Listed {
    shares: Vec<Weak<Share>>,
    era: u32,
    /// Replies of this era that have not left, and those of the next.
    replies: u32,
    next_replies: u32,
}

impl Listed {
    /// True when the next era began.
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

/// A head in the making up to this is part of what any connection takes.
const HEAD_FREE_BYTES: usize = 8 * 1024;
/// A longer one is taken from the budget in these.
const HEAD_STEP_BYTES: usize = 8 * 1024;

/// What ends when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Told to close, with time to do so.
    Idle,
    /// Cut.
    Hard,
}

impl Watch {
    pub(super) fn new(memory: MemoryBudget, peer: SocketAddr) -> Self {
        memory.connection_opened();
        Self {
            accepted: Instant::now(),
            // A listener for both families sees IPv4 peers as mapped addresses.
            peer: peer.ip().to_canonical(),
            memory,
            waker: AtomicWaker::new(),
            stage: AtomicU8::new(SERVING),
            multiplexed: AtomicBool::new(false),
            served_any: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            progress: AtomicU64::new(1),
            head: AtomicU64::new(0),
            head_bytes: AtomicUsize::new(0),
            write_blocked: AtomicU64::new(0),
            reply_waits: AtomicU64::new(0),
            body_unread: AtomicBool::new(false),
            own_bytes: AtomicUsize::new(0),
            listed: Mutex::default(),
        }
    }

    /// Who connected: a client, or a proxy in front of it.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    pub(super) fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Requests in flight end, no new ones begin.
    pub(super) fn drain(&self) {
        self.stage.fetch_max(DRAINING, Relaxed);
        self.waker.wake();
    }

    pub(super) fn cut(&self) {
        self.stage.store(CUT, Relaxed);
        self.waker.wake();
    }

    /// The client speaks HTTP/2. `Err` when there is no memory for what that takes.
    pub(super) fn speaks_http2(&self) -> Result<(), Short> {
        self.multiplexed.store(true, Relaxed);
        self.memory.take(HTTP2_BYTES, true)?;
        self.own_bytes.fetch_add(HTTP2_BYTES, Relaxed);
        Ok(())
    }

    pub(super) fn request_began(&self, multiplexed: bool) {
        self.multiplexed.store(multiplexed, Relaxed);
        self.served_any.store(true, Relaxed);
        self.body_unread.store(false, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.head.store(0, Relaxed);
        self.head_bytes.store(0, Relaxed);
        if !multiplexed && self.own_bytes.load(Relaxed) > 0 {
            self.give_back_own();
        }
        self.progress.store(self.now(), Relaxed);
    }

    pub(super) fn request_ended(&self) {
        self.progress.store(self.now(), Relaxed);
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(super) fn left_body_unread(&self) {
        self.body_unread.store(true, Relaxed);
    }

    /// The client may still be sending something that nobody will read: a refused body, or a head that
    /// could not be read.
    pub(super) fn leaves_unread(&self) -> bool {
        self.body_unread.load(Relaxed) || (self.head.load(Relaxed) != 0 && !self.multiplexed.load(Relaxed))
    }

    /// `Err` when they are part of a head that there is no memory for.
    pub(super) fn bytes_came(&self, count: usize) -> Result<(), Short> {
        if self.in_flight.load(Relaxed) > 0 {
            return Ok(());
        }
        if self.head.load(Relaxed) == 0 {
            self.head.store(self.now(), Relaxed);
        }
        // What follows a refusal is thrown away.
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

    pub(super) fn write_blocked(&self) {
        if self.write_blocked.load(Relaxed) == 0 {
            self.write_blocked.store(self.now(), Relaxed);
        }
    }

    pub(super) fn all_written(&self) {
        if self.write_blocked.load(Relaxed) != 0 {
            self.write_blocked.store(0, Relaxed);
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.stage.load(Relaxed) == CUT
    }

    pub(super) fn list(&self, share: &Arc<Share>) {
        self.listed().shares.push(Arc::downgrade(share));
    }

    pub(super) fn reply_began(&self, share: &Share) {
        let mut listed = self.listed();
        share.era.store(listed.era + 1, Relaxed);
        listed.next_replies += 1;
        if listed.turn() {
            self.reply_waits.store(self.now(), Relaxed);
        }
    }

    pub(super) fn unlist(&self, share: &Share) {
        let now = self.now();
        let mut listed = self.listed();
        if let Some(index) = listed.shares.iter().position(|other| std::ptr::eq(other.as_ptr(), share)) {
            listed.shares.swap_remove(index);
        }
        match share.era.load(Relaxed) {
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

    /// No request holds anything.
    pub(super) fn holds_nothing(&self) -> bool {
        self.listed().shares.is_empty()
    }

    /// What a connection itself took is free again.
    pub(super) fn give_back_own(&self) -> usize {
        let bytes = self.own_bytes.swap(0, Relaxed);
        self.memory.give_back(bytes);
        bytes
    }

    /// Adds what this connection holds while the process waits for its client.
    pub(super) fn add_debtors(self: &Arc<Self>, debtors: &mut Vec<Debtor>) {
        // Out of the lock before any of them can be dropped, which takes the lock.
        let shares: Vec<_> = self.listed().shares.iter().filter_map(Weak::upgrade).collect();
        if shares.is_empty() && self.own_bytes.load(Relaxed) > 0 {
            let mark = if self.multiplexed.load(Relaxed) { &self.progress } else { &self.head };
            debtors.push(Debtor { since: self.instant(mark.load(Relaxed)), held: Held::Connection(Arc::clone(self)) });
        }
        debtors.extend(shares.into_iter().filter_map(Share::debtor));
    }

    /// Whether there ever was a request, and since when there is none; `None` when there is one.
    pub(super) fn idle_since(&self) -> Option<(bool, Instant)> {
        let idle = self.in_flight.load(Relaxed) == 0 && self.holds_nothing();
        idle.then(|| (self.served_any.load(Relaxed), self.instant(self.progress.load(Relaxed))))
    }

    fn listed(&self) -> MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    pub(super) fn instant(&self, mark: u64) -> Instant {
        self.accepted + Duration::from_millis(mark.saturating_sub(1))
    }

    fn at(&self, mark: u64, allowed: Duration) -> Instant {
        self.instant(mark) + allowed
    }

    /// The earliest moment at which a limit is broken if nothing happens until then.
    fn deadline(&self, limits: &Limits) -> (Instant, Limit) {
        let progress = self.progress.load(Relaxed);
        let head = self.head.load(Relaxed);
        let unread = [&self.write_blocked, &self.reply_waits].map(|since| since.load(Relaxed));
        let unread = unread.into_iter().filter(|since| *since != 0).min();
        let unread = unread.map(|since| (self.at(since, limits.write_timeout), Limit::Hard));
        let request = if self.in_flight.load(Relaxed) > 0 {
            (self.at(progress, limits.request_timeout), Limit::Hard)
        } else if !self.served_any.load(Relaxed) {
            (self.accepted + limits.header_timeout, Limit::Hard)
        } else if head != 0 && !self.multiplexed.load(Relaxed) {
            (self.at(head, limits.header_timeout), Limit::Hard)
        } else if let Some(unread) = unread {
            return unread;
        } else {
            // In HTTP/2 bytes come and go without a request too (acknowledgements, pings), and prove nothing.
            (self.at(progress, limits.idle_timeout), Limit::Idle)
        };
        match unread {
            Some(unread) if unread.0 < request.0 => unread,
            _ => request,
        }
    }

    /// How much may be read at once. While a head is awaited no more than what is free: what follows it is counted
    /// as a body.
    pub(super) fn read_bytes_max(&self) -> usize {
        let most = self.memory.read_bytes_max();
        if self.in_flight.load(Relaxed) == 0 { most.min(HEAD_FREE_BYTES - 1) } else { most }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.memory.give_back(*self.own_bytes.get_mut());
        self.memory.connection_closed();
    }
}

/// A connection of the protocol library, as far as driving it goes.
pub(super) trait Protocol: Future {
    fn graceful_shutdown(self: std::pin::Pin<&mut Self>);
}

/// Drives a connection to its end, or to the first limit that it breaks. Errors of a connection are the
/// client's affair and are not reported.
pub(super) async fn drive<P: Protocol>(protocol: P, watch: &Watch, limits: &Limits) {
    let mut protocol = pin!(protocol);
    let mut alarm = pin!(tokio::time::sleep_until(watch.deadline(limits).0));
    let mut told_to_close = false;
    let mut farewell = None;
    poll_fn(|cx| {
        watch.waker.register(cx.waker());
        loop {
            match watch.stage.load(Relaxed) {
                CUT => return Poll::Ready(()),
                DRAINING if !told_to_close => {
                    told_to_close = true;
                    protocol.as_mut().graceful_shutdown();
                }
                _ => {}
            }
            if protocol.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let (mut deadline, limit) = watch.deadline(limits);
            if limit == Limit::Idle
                && let Some(farewell) = farewell
            {
                deadline = farewell;
            }
            if deadline <= Instant::now() {
                if limit == Limit::Hard || farewell.is_some() {
                    return Poll::Ready(());
                }
                farewell = Some(Instant::now() + FAREWELL);
                told_to_close = true;
                protocol.as_mut().graceful_shutdown();
                continue;
            }
            if deadline < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(deadline);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
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

    /// Hundreds of seconds left: a slow machine does not matter.
    fn left(watch: &Watch) -> (u64, Limit) {
        let (deadline, limit) = watch.deadline(&limits());
        (((deadline - Instant::now()).as_secs() + 50) / 100, limit)
    }

    #[test]
    fn each_state_has_its_limit() {
        let mut watch = Watch::new(MemoryBudget::new(1 << 20), ([127, 0, 0, 1], 1).into());
        watch.bytes_came(1).unwrap();
        assert_eq!(left(&watch), (1, Limit::Hard), "first head, from the accept");
        watch.request_began(false);
        assert_eq!(left(&watch), (2, Limit::Hard), "request");
        watch.request_ended();
        assert_eq!(left(&watch), (4, Limit::Idle), "idle");
        watch.accepted -= Duration::from_secs(200);
        watch.bytes_came(1).unwrap();
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
        watch.bytes_came(1).unwrap();
        assert_eq!(left(&watch), (4, Limit::Idle), "HTTP/2 bytes without a request");
    }
}
