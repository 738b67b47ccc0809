//! Tells the service manager what the process is doing: `sd_notify(3)`, with the watchdog of `sd_watchdog_enabled(3)`.
//!
//! Everything it is told follows from the readiness. Without a service manager that listens (`NOTIFY_SOCKET`), nothing
//! runs; one that does not read holds up only this task.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as StdDatagram};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::UnixDatagram;
use tracing::warn;

use crate::base::supervisor::Tasks;
use crate::http::Readiness;

/// Signs of life in the time that the watchdog allows between two of them.
const FEEDS: u32 = 3;
const FEED_MIN: Duration = Duration::from_millis(1);
/// The interval of the timer where no watchdog is.
const IDLE: Duration = Duration::from_secs(3_600);

/// Reports the end of the start, each change of the readiness, and the begin of the stop, and feeds the watchdog.
pub(super) fn follow(readiness: &Readiness) {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else { return };
    match connect(&address) {
        Ok(manager) => Tasks::default().spawn(report(manager, readiness.clone())),
        Err(error) => warn!(%error, address = %address.display(), "cannot reach the service manager"),
    }
}

fn connect(address: &OsStr) -> io::Result<UnixDatagram> {
    let socket = StdDatagram::unbound()?;
    match address.as_bytes() {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt as _;
            socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect_addr(&SocketAddr::from_pathname(address)?)?,
    }
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

async fn report(manager: UnixDatagram, readiness: Readiness) {
    let mut changes = readiness.watch();
    let limit = sd_notify::watchdog_enabled();
    let mut feed = tokio::time::interval(limit.map_or(IDLE, |limit| (limit / FEEDS).max(FEED_MIN)));
    let mut is_started = false;
    loop {
        let line = readiness.line();
        let mut states = vec![NotifyState::Status(&line)];
        if !is_started && readiness.has_started() {
            is_started = true;
            states.push(NotifyState::Ready);
        }
        if readiness.draining() {
            states.push(NotifyState::Stopping);
        }
        tell(&manager, &states).await;
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Some(_) => break,
                    None => return,
                },
                _ = feed.tick(), if limit.is_some() => tell(&manager, &[NotifyState::Watchdog]).await,
            }
        }
    }
}

async fn tell(manager: &UnixDatagram, states: &[NotifyState<'_>]) {
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = manager.send(lines.as_bytes()).await {
        warn!(%error, "cannot reach the service manager");
    }
}
