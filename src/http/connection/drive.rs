//! Drives a connection: polls its protocol, and acts on the limits that its watch knows of.
//!
//! Invariant: an idle HTTP/1.1 connection keeps no state of the protocol, so that thousands of them cost little.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::watch::{Limit, Watch};
use crate::http::limits::Limits;

/// How long an idle connection may take to close after it was told.
const FAREWELL: Duration = Duration::from_secs(1);
/// A connection that has been idle for this long gives its buffers back. A client that sends again within it finds
/// them as it left them.
const PARK_AFTER: Duration = Duration::from_millis(500);
/// The same where there are many.
const PARK_AFTER_OF_MANY: Duration = Duration::from_millis(100);
const MANY: usize = 1_000;

/// A connection's protocol, as far as driving it goes.
pub(crate) trait Protocol: Future<Output = ()> {
    fn graceful_shutdown(self: Pin<&mut Self>);

    /// Gives back what an idle connection needs only once its client sends again. False when there is nothing to
    /// give back.
    fn park(self: Pin<&mut Self>) -> bool;
}

/// Drives a connection to its end, or to the first limit that it breaks. Errors of a connection are the
/// client's affair and are not reported.
pub(crate) async fn drive<P: Protocol>(protocol: P, watch: &Watch, limits: &Limits) {
    let mut driver = Driver { watch, limits, told_to_close: false, farewell: None, parked: 0 };
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

/// What comes after one poll of the protocol.
enum Step {
    Again,
    Wait,
    End,
}

/// What [`drive`] does after its protocol did what it could.
enum Next {
    /// A limit is broken.
    End,
    /// Tell the protocol to close.
    Close,
    /// Park, or wait where there is nothing to give back.
    Park(Instant),
    Wait(Instant),
}

struct Driver<'a> {
    watch: &'a Watch,
    limits: &'a Limits,
    told_to_close: bool,
    /// When an idle connection that was told to close is cut.
    farewell: Option<Instant>,
    /// The progress at which it was parked last: what came since may be part of a head.
    parked: u64,
}

impl Driver<'_> {
    /// Of a drain, once: at once where there is a request in flight, whose reply says so. An idle HTTP/1.1 connection
    /// has a while to send a last request, so that its client does not send one into a connection that closes.
    fn must_close(&mut self) -> bool {
        let must = self.watch.is_draining()
            && !self.told_to_close
            && (!self.watch.is_quiet() || self.watch.last_call(self.limits) <= self.now());
        self.told_to_close |= must;
        must
    }

    fn now(&self) -> Instant {
        self.watch.instant(self.watch.now())
    }

    fn next(&mut self) -> Next {
        let now = self.now();
        let (mut deadline, limit) = self.watch.deadline(self.limits);
        if limit == Limit::Idle
            && let Some(farewell) = self.farewell
        {
            deadline = farewell;
        }
        if deadline <= now {
            if limit == Limit::Hard || self.farewell.is_some() {
                return Next::End;
            }
            self.farewell = Some(now + FAREWELL);
            self.told_to_close = true;
            return Next::Close;
        }
        if self.watch.is_draining() && !self.told_to_close {
            deadline = deadline.min(self.watch.last_call(self.limits));
        }
        let progress = self.watch.progress();
        if limit == Limit::Idle && self.farewell.is_none() && self.parked != progress && self.watch.is_quiet() {
            let many = self.watch.memory().connections() >= MANY;
            let park = self.watch.at(progress, if many { PARK_AFTER_OF_MANY } else { PARK_AFTER });
            if park <= now {
                self.parked = progress;
                return Next::Park(deadline);
            }
            deadline = deadline.min(park);
        }
        Next::Wait(deadline)
    }
}

/// Runs what comes before the protocol, within the limits of the connection. `None` when it did not end.
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
