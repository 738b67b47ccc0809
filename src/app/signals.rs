//! The signals that stop the process, and the delay between the first of them and the stop.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use crate::base::supervisor::{Failed, Supervisor, Tasks};

/// SIGTERM and Ctrl-C. The first stops the process in order, the second cuts `shutdown_delay` short if there is one, and
/// the next exits immediately.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn install() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn first(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    pub(super) fn exit_on_second(mut self) {
        Tasks::default().spawn(async move {
            let name = self.first().await;
            error!(signal = name, "second signal: ending at once");
            // No destructor may run: it could wait for the part that is stuck.
            std::process::exit(130);
        });
    }
}

/// Keeps serving while unready, for `delay`, until load balancers have noticed. Another signal or a failed service ends it.
pub(super) async fn serve_on(delay: Duration, stop: &mut Signals, supervisor: &mut Supervisor) -> Option<Failed> {
    if delay.is_zero() {
        return None;
    }
    info!(delay_ms = delay.as_millis() as u64, "unready, and serving on for shutdown_delay");
    tokio::select! {
        () = tokio::time::sleep(delay) => None,
        name = stop.first() => {
            info!(signal = name, "second signal: shutdown_delay is over");
            None
        }
        failed = supervisor.failure() => Some(failed),
    }
}
