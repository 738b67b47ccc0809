//! The listening sockets of the process: bound by it, or passed by a service manager (`sd_listen_fds(3)`).
//!
//! A passed socket outlives the process: connections that come while none accepts wait in its backlog for the next one.

use std::io;
use std::net::TcpListener as StdListener;
use std::os::fd::{FromRawFd as _, RawFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use socket2::SockRef;
use tokio::net::TcpListener;

use crate::base::settings::Address;
use crate::config::Config;

/// The name (`FileDescriptorName`) of the socket for the admin API; any other is for events.
const ADMIN: &str = "admin";
/// Clients that waited in the backlog through a restart wait this much longer for the start to complete, rather than be
/// told at once that the process is starting.
const BACKLOG_WAIT: Duration = Duration::from_secs(5);

/// Where a listener comes from. Cheap to clone.
#[derive(Clone)]
pub(super) struct Socket {
    address: Address,
    setting: &'static str,
    passed: Option<Arc<StdListener>>,
}

#[derive(Clone)]
pub(super) struct Sockets {
    pub(super) http: Socket,
    pub(super) admin: Socket,
}

impl Sockets {
    /// Takes over the sockets that were passed. Call it once.
    pub(super) fn of(config: &Config, serves_events: bool) -> anyhow::Result<Self> {
        let mut sockets = Self {
            http: Socket::new(&config.http.addr, "http_addr"),
            admin: Socket::new(&config.admin.addr, "admin_addr"),
        };
        let passed = sd_notify::listen_fds_with_names().context("the sockets that the service manager passed")?;
        for (descriptor, name) in passed {
            let socket = if name == ADMIN { &mut sockets.admin } else { &mut sockets.http };
            let listener = take(descriptor).with_context(|| format!("the passed socket `{name}`"))?;
            socket.pass(listener)?;
        }
        ensure!(
            serves_events || sockets.http.passed.is_none(),
            "a socket for events was passed, but these roles do not listen for any; a socket for the admin API has \
             FileDescriptorName={ADMIN}"
        );
        Ok(sockets)
    }
}

impl Socket {
    fn new(address: &Address, setting: &'static str) -> Self {
        Self { address: address.clone(), setting, passed: None }
    }

    /// Whether keys and tokens are asked for depends on the setting, so the socket must not reach further than it.
    fn pass(&mut self, listener: StdListener) -> anyhow::Result<()> {
        let (own, setting, address) = (listener.local_addr()?, self.setting, self.address.host_port());
        if self.passed.is_some() {
            bail!("two sockets were passed for {setting}; the one for the admin API has FileDescriptorName={ADMIN}");
        }
        if self.address.is_loopback() && !own.ip().is_loopback() {
            bail!(
                "the passed socket listens on {own}, which other machines can reach, while {setting} is {address}; set \
                 {setting} to the address of the socket"
            );
        }
        self.passed = Some(Arc::new(listener));
        Ok(())
    }

    pub(super) async fn listen(&self) -> anyhow::Result<TcpListener> {
        match &self.passed {
            Some(passed) => Ok(TcpListener::from_std(passed.try_clone()?)?),
            None => {
                let text = self.address.host_port();
                let bound = TcpListener::bind(&text).await;
                bound.with_context(|| format!("cannot listen on {text} ({})", self.setting))
            }
        }
    }

    /// Returns the listener of the start or, after a failure, another one.
    pub(super) async fn again(&self, first: Option<TcpListener>) -> anyhow::Result<TcpListener> {
        match first {
            Some(listener) => Ok(listener),
            None => self.listen().await,
        }
    }

    /// How long nothing answers on it during the start.
    pub(super) fn wait(&self) -> Duration {
        self.passed.as_ref().map_or(Duration::ZERO, |_| BACKLOG_WAIT)
    }
}

#[expect(unsafe_code, reason = "a passed descriptor is a number in the environment")]
fn take(descriptor: RawFd) -> io::Result<StdListener> {
    // SAFETY: the service manager passed it to this process, and nothing else has taken it.
    let listener = unsafe { StdListener::from_raw_fd(descriptor) };
    let is_listener = SockRef::from(&listener).is_listener()?;
    if !is_listener || listener.local_addr().is_err() {
        return Err(io::Error::other("is no listening TCP socket (ListenStream=ADDRESS:PORT)"));
    }
    listener.set_nonblocking(true)?;
    Ok(listener)
}
