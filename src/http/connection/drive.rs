//! Drives a connection: polls its protocol and enforces the limits of its watch.
//!
//! Invariant: an idle HTTP/1.1 connection keeps no protocol state, so that thousands of them are cheap.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::watch::{Limit, Watch};
use crate::http::limits::Limits;

/// How long an idle connection may take to shut down.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);
/// An idle connection releases its buffers after this time. A client that sends again earlier finds them allocated.
const PARK_AFTER: Duration = Duration::from_millis(500);
/// The same if there are many connections.
const PARK_AFTER_IF_MANY: Duration = Duration::from_millis(100);
const MANY_CONNECTIONS: usize = 1_000;

/// A connection's protocol, as the driver sees it.
pub(crate) trait Protocol: Future<Output = ()> {
    fn graceful_shutdown(self: Pin<&mut Self>);

    /// Releases what an idle connection does not need until its client sends again. Returns `false` if there is nothing
    /// to release.
    fn park(self: Pin<&mut Self>) -> bool;
}

/// Drives a connection to its end, or to the first limit that it violates. Connection errors are the client's problem
/// and are not reported.
pub(crate) async fn drive<P: Protocol>(protocol: P, watch: &Watch, limits: &Limits) {
    let mut driver = Driver { watch, limits, closing: false, cut_at: None, parked: 0 };
    let mut protocol = pin!(protocol);
    let mut alarm = pin!(tokio::time::sleep_until(watch.deadline(limits).0));
    let mut step = |cx: &mut Context<'_>| {
        if driver.must_close() {
            protocol.as_mut().graceful_shutdown();
        }
        if watch.is_cut() || protocol.as_mut().poll(cx).is_ready() {
            return Step::End;
        }
        let deadline = match driver.next() {
            Next::End => return Step::End,
            Next::Close => {
                protocol.as_mut().graceful_shutdown();
                return Step::Again;
            }
            Next::Park(_) if protocol.as_mut().park() => return Step::Again,
            Next::Park(deadline) | Next::Wait(deadline) => deadline,
        };
        if deadline < alarm.deadline() || alarm.is_elapsed() {
            alarm.as_mut().reset(deadline);
        }
        if alarm.as_mut().poll(cx).is_pending() { Step::Wait } else { Step::Again }
    };
    poll_fn(|cx| {
        watch.register(cx.waker());
        loop {
            match watch.polling(|| step(cx)) {
                Step::Again => {}
                Step::Wait => return Poll::Pending,
                Step::End => return Poll::Ready(()),
            }
        }
    })
    .await;
}

/// The next step after one poll of the protocol.
enum Step {
    Again,
    Wait,
    End,
}

/// What [`drive`] does once its protocol can make no more progress.
enum Next {
    /// A limit is violated.
    End,
    /// Start a graceful shutdown.
    Close,
    /// Park, or wait if there is nothing to release.
    Park(Instant),
    Wait(Instant),
}

struct Driver<'a> {
    watch: &'a Watch,
    limits: &'a Limits,
    closing: bool,
    /// When an idle connection that is shutting down is cut.
    cut_at: Option<Instant>,
    /// The progress mark at the last time it was parked; bytes received since may be part of a head.
    parked: u64,
}

impl Driver<'_> {
    /// Starts the shutdown for a drain, once. A connection with a request in flight shuts down immediately, and the
    /// reply announces it. An idle HTTP/1.1 connection may send one last request for a while, so that its client does
    /// not send into a closing connection.
    fn must_close(&mut self) -> bool {
        let must = self.watch.is_draining()
            && !self.closing
            && (!self.watch.is_quiet() || self.watch.last_call(self.limits) <= self.now());
        self.closing |= must;
        must
    }

    fn now(&self) -> Instant {
        self.watch.instant(self.watch.now())
    }

    fn next(&mut self) -> Next {
        let now = self.now();
        let (mut deadline, limit) = self.watch.deadline(self.limits);
        if limit == Limit::Idle
            && let Some(cut_at) = self.cut_at
        {
            deadline = cut_at;
        }
        if deadline <= now {
            if limit == Limit::Hard || self.cut_at.is_some() {
                return Next::End;
            }
            self.cut_at = Some(now + SHUTDOWN_GRACE);
            self.closing = true;
            return Next::Close;
        }
        if self.watch.is_draining() && !self.closing {
            deadline = deadline.min(self.watch.last_call(self.limits));
        }
        let progress = self.watch.progress();
        if limit == Limit::Idle && self.cut_at.is_none() && self.parked != progress && self.watch.is_quiet() {
            let many = self.watch.memory().connections() >= MANY_CONNECTIONS;
            let park = self.watch.at(progress, if many { PARK_AFTER_IF_MANY } else { PARK_AFTER });
            if park <= now {
                self.parked = progress;
                return Next::Park(deadline);
            }
            deadline = deadline.min(park);
        }
        Next::Wait(deadline)
    }
}

/// Runs the setup that precedes the protocol, within the limits of the connection. `None` if it did not finish.
pub(crate) async fn bounded<F: Future>(opening: F, watch: &Watch, limits: &Limits) -> Option<F::Output> {
    let mut opening = pin!(opening);
    let mut alarm = pin!(tokio::time::sleep_until(watch.deadline(limits).0));
    poll_fn(|cx| {
        watch.register(cx.waker());
        if watch.is_draining() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(opened) = opening.as_mut().poll(cx) {
            return Poll::Ready(Some(opened));
        }
        loop {
            let (deadline, _) = watch.deadline(limits);
            if deadline <= Instant::now() {
                return Poll::Ready(None);
            }
            if deadline < alarm.deadline() || alarm.is_elapsed() {
                alarm.as_mut().reset(deadline);
            }
            if alarm.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await
}
