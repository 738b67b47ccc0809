//! One connection: what it is doing, until when it may, and who may end it.
//!
//! A connection has a single timer, set to the earliest moment at which a limit could be
//! broken by what is known now, so that a busy connection hardly ever touches it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::task::Poll;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::Limits;

/// How long an idle connection may take to close after it was told.
const FAREWELL: Duration = Duration::from_secs(1);

/// The state of one connection, shared by its stream, its requests and the drain.
///
/// Times are milliseconds since the accept, plus one: 0 is "not".
#[derive(Debug)]
pub(super) struct Watch {
    accepted: Instant,
    waker: AtomicWaker,
    stage: AtomicU8,
    multiplexed: AtomicBool,
    served_any: AtomicBool,
    in_flight: AtomicU32,
    /// The last request that began or ended, or reply bytes that left.
    progress: AtomicU64,
    /// The first bytes that came while no request was in flight.
    head: AtomicU64,
    /// The client leaves reply bytes unread.
    write_blocked: AtomicU64,
    /// The last reply went out before its request's body was read.
    body_unread: AtomicBool,
}

const SERVING: u8 = 0;
const DRAINING: u8 = 1;
const CUT: u8 = 2;

/// What ends when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    /// Told to close, with time to do so.
    Idle,
    /// Cut.
    Hard,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self {
            accepted: Instant::now(),
            waker: AtomicWaker::new(),
            stage: AtomicU8::new(SERVING),
            multiplexed: AtomicBool::new(false),
            served_any: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            progress: AtomicU64::new(1),
            head: AtomicU64::new(0),
            write_blocked: AtomicU64::new(0),
            body_unread: AtomicBool::new(false),
        }
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

    pub(super) fn request_began(&self, multiplexed: bool) {
        self.multiplexed.store(multiplexed, Relaxed);
        self.served_any.store(true, Relaxed);
        self.body_unread.store(false, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        self.head.store(0, Relaxed);
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

    pub(super) fn bytes_came(&self) {
        if self.in_flight.load(Relaxed) == 0 && self.head.load(Relaxed) == 0 {
            self.head.store(self.now(), Relaxed);
        }
    }

    pub(super) fn bytes_left(&self) {
        self.progress.store(self.now(), Relaxed);
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

    fn now(&self) -> u64 {
        self.accepted.elapsed().as_millis() as u64 + 1
    }

    fn at(&self, mark: u64, allowed: Duration) -> Instant {
        self.accepted + Duration::from_millis(mark.saturating_sub(1)) + allowed
    }

    /// The earliest moment at which a limit is broken if nothing happens until then.
    fn deadline(&self, limits: &Limits) -> (Instant, Limit) {
        let progress = self.progress.load(Relaxed);
        let head = self.head.load(Relaxed);
        let request = if self.in_flight.load(Relaxed) > 0 {
            (self.at(progress, limits.request_timeout), Limit::Hard)
        } else if !self.served_any.load(Relaxed) {
            (self.accepted + limits.header_timeout, Limit::Hard)
        } else if head != 0 && !self.multiplexed.load(Relaxed) {
            (self.at(head, limits.header_timeout), Limit::Hard)
        } else {
            // In HTTP/2 bytes come without a request too (acknowledgements, pings), and prove nothing.
            (self.at(progress, limits.idle_timeout), Limit::Idle)
        };
        match self.write_blocked.load(Relaxed) {
            0 => request,
            since => {
                let write = (self.at(since, limits.write_timeout), Limit::Hard);
                if write.0 < request.0 { write } else { request }
            }
        }
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
        let mut watch = Watch::new();
        watch.bytes_came();
        assert_eq!(left(&watch), (1, Limit::Hard), "first head, from the accept");
        watch.request_began(false);
        assert_eq!(left(&watch), (2, Limit::Hard), "request");
        watch.request_ended();
        assert_eq!(left(&watch), (4, Limit::Idle), "idle");
        watch.accepted -= Duration::from_secs(200);
        watch.bytes_came();
        assert_eq!(left(&watch), (1, Limit::Hard), "next head, from its first byte");
        watch.request_began(false);
        watch.request_ended();
        watch.write_blocked();
        watch.accepted -= Duration::from_secs(100);
        watch.write_blocked();
        assert_eq!(left(&watch), (2, Limit::Hard), "unread reply, from when it stalled");
        watch.all_written();
        watch.bytes_left();
        assert_eq!(left(&watch), (4, Limit::Idle), "idle again");
        watch.request_began(true);
        watch.request_ended();
        watch.bytes_came();
        assert_eq!(left(&watch), (4, Limit::Idle), "HTTP/2 bytes without a request");
    }
}
