//! The connection to the server and its state.
//!
//! Invariant: the epoch advances whenever the connection is lost or established, and when a stream or a consumer turns
//! out to be gone or replaced. Knowledge from one epoch (leases, pending acknowledgements) is not certain in the next,
//! since the server may have crashed in between and forgotten what it had not synced.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use async_nats::connection::State;
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::bus::{BusError, BusErrorKind, NatsSettings};

/// The interval of pings to the server; the third without an answer ends the connection. This is the only way out of a
/// connection that accepts no data: the client handles no request while it cannot write.
const PING_INTERVAL: Duration = Duration::from_secs(3);
/// How long to wait for the client to accept a reconnect request. It accepts none while it cannot write.
const REQUEST_MAX: Duration = Duration::from_millis(100);
/// Commands (such as publishes) that wait for the connection's task.
const COMMANDS_MAX: usize = 4_096;
/// Unread messages of one subscription. Never reached: pull requests ask for fewer.
const SUBSCRIPTION_MESSAGES_MAX: usize = 1 << 20;
/// The timeout of one connection attempt; short, so that many attempts fit into the time after an outage.
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(3);
/// Consecutive unanswered requests on a connection that appears to be up, after which it is replaced.
const UNANSWERED_MAX: u32 = 2;

/// Shared by the client's callbacks and all users of the connection.
#[derive(Debug)]
pub(crate) struct Link {
    epoch: watch::Sender<u64>,
    /// Advances only with the connection.
    connections: watch::Sender<u64>,
    /// The client has ended: nothing will arrive any more.
    ended: AtomicBool,
    unanswered: AtomicU32,
    /// When anything last arrived from the server.
    heard_at: Mutex<Instant>,
}

impl Link {
    /// Connects; retries an unreachable server until `timeout` has passed.
    pub(crate) async fn connect(settings: &NatsSettings) -> Result<(Client, Arc<Self>), BusError> {
        let link = Arc::new(Self {
            epoch: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            ended: AtomicBool::new(false),
            unanswered: 0.into(),
            heard_at: Mutex::new(Instant::now()),
        });
        let deadline = Instant::now() + settings.timeout;
        let servers = servers(&settings.url)?;
        loop {
            let options = options(settings, &servers, link.clone()).await?;
            let error = match options.connect(servers.as_slice()).await {
                Ok(client) => return Ok((client, link)),
                Err(error) => error,
            };
            let wait = settings.reconnect_wait.min(Duration::from_secs(1));
            if is_final(&error) || Instant::now() + wait >= deadline {
                return Err(refusal(&error));
            }
            warn!(%error, "NATS (nats_url) cannot be reached, trying again");
            tokio::time::sleep(wait).await;
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        *self.epoch.borrow()
    }

    /// Changes when the connection is lost or established, and with [`Link::advance_epoch`].
    pub(crate) fn epochs(&self) -> watch::Receiver<u64> {
        self.epoch.subscribe()
    }

    /// Changes only when the connection is lost or established.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// Invalidates what is known of leases and acknowledgements: the server has lost or replaced what stores them.
    pub(crate) fn advance_epoch(&self) {
        self.epoch.send_modify(|epoch| *epoch += 1);
    }

    /// Fails when nothing can be sent now.
    pub(crate) fn check(&self, client: &Client, context: &'static str) -> Result<(), BusError> {
        self.check_reconnects(context)?;
        if client.connection_state() != State::Connected {
            return Err(BusError::caused(BusErrorKind::Unavailable, context, "not connected to NATS (nats_url)"));
        }
        Ok(())
    }

    pub(crate) fn check_reconnects(&self, context: &'static str) -> Result<(), BusError> {
        if self.ended.load(Ordering::Relaxed) { Err(reconnects_exhausted(context)) } else { Ok(()) }
    }

    /// Returns once reconnecting was abandoned, or when this process has closed the connection.
    pub(crate) async fn until_reconnects_exhausted(&self) -> BusError {
        let mut epochs = self.epochs();
        while !self.ended.load(Ordering::Relaxed) {
            // `self` owns the sender.
            let _ = epochs.changed().await;
        }
        reconnects_exhausted("keep connection to NATS")
    }

    /// The client has ended. It reports that by itself only when it was asked to end.
    pub(crate) fn mark_ended(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.connections.send_modify(|connection| *connection += 1);
        self.advance_epoch();
    }

    /// An answer has arrived.
    pub(crate) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
        self.heard();
    }

    /// Something has arrived.
    pub(crate) fn heard(&self) {
        *self.heard_at.lock() = Instant::now();
    }

    /// An answer did not arrive in time. A connection that delivers none is dead, whatever state it reports, and is
    /// replaced.
    pub(crate) async fn unanswered(&self, client: &Client) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 < UNANSWERED_MAX {
            return;
        }
        self.replace(client).await;
    }

    /// A message to ourselves, which does not wait for a disk, did not return in time. If nothing else has arrived
    /// either, that alone shows that the connection is dead.
    pub(crate) async fn not_back(&self, client: &Client, waited: Duration) {
        let heard_at = *self.heard_at.lock();
        if heard_at.elapsed() >= waited {
            self.replace(client).await;
        }
    }

    async fn replace(&self, client: &Client) {
        self.unanswered.store(0, Ordering::Relaxed);
        if client.connection_state() == State::Connected {
            warn!("NATS does not answer, connecting anew");
            // Fails when the client has ended or cannot write; then its pings end the connection.
            let _ = tokio::time::timeout(REQUEST_MAX, client.force_reconnect()).await;
        }
    }

    fn happened(&self, event: &Event) {
        match event {
            Event::Connected | Event::Disconnected => {
                info!(%event, "NATS");
                self.unanswered.store(0, Ordering::Relaxed);
                self.connections.send_modify(|connection| *connection += 1);
                self.advance_epoch();
            }
            Event::SlowConsumer(_) | Event::LameDuckMode | Event::ServerError(_) => warn!(%event, "NATS"),
            Event::ClientError(_) | Event::Draining | Event::Closed => debug!(%event, "NATS"),
        }
    }
}

fn reconnects_exhausted(context: &'static str) -> BusError {
    let why = "the connection to NATS was given up after the attempts that nats_max_reconnects allows";
    BusError::caused(BusErrorKind::Closed, context, why)
}

fn servers(urls: &str) -> Result<Vec<ServerAddr>, BusError> {
    let parsed = urls.split(',').map(|url| url.trim().parse::<ServerAddr>()).collect::<Result<Vec<_>, _>>();
    parsed.map_err(|error| {
        let text = format!("{error}; nats_url must be nats://host:port, several with commas");
        BusError::caused(BusErrorKind::Refused, "connect to NATS", text)
    })
}

/// The client does not take credentials from URLs: a user and a password, or only a token.
fn authenticated(options: ConnectOptions, servers: &[ServerAddr]) -> ConnectOptions {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    match servers.iter().find_map(|server| Some((server.username()?, server.password()))) {
        Some((user, Some(password))) => options.user_and_password(decoded(user), decoded(password)),
        Some((token, None)) => options.token(decoded(token)),
        None => options,
    }
}

async fn options(settings: &NatsSettings, servers: &[ServerAddr], link: Arc<Link>) -> Result<ConnectOptions, BusError> {
    let wait = settings.reconnect_wait;
    let mut options = ConnectOptions::new()
        .name(&settings.client_name)
        .connection_timeout(settings.timeout.min(CONNECT_TIMEOUT_MAX))
        .request_timeout(Some(settings.timeout))
        .ping_interval(PING_INTERVAL)
        .client_capacity(COMMANDS_MAX)
        .subscription_capacity(SUBSCRIPTION_MESSAGES_MAX)
        .read_buffer_capacity(u16::MAX)
        .skip_subject_validation(true)
        .max_reconnects(settings.reconnects_max)
        .reconnect_delay_callback(move |attempt| if attempt <= 1 { Duration::ZERO } else { wait })
        .event_callback(move |event| {
            let link = link.clone();
            async move { link.happened(&event) }
        });
    options = authenticated(options, servers);
    if let Some(path) = &settings.credentials_file {
        options = options.credentials_file(path).await.map_err(|error| {
            let what = format!("nats_credentials_file {}: {error}", path.display());
            BusError::caused(BusErrorKind::Refused, "read NATS credentials", what)
        })?;
    }
    if let Some(path) = &settings.ca_file {
        check_authorities(path)?;
        options = options.add_root_certificates(path.clone());
    }
    Ok(options)
}

/// The client would silently treat a file without certificates as trusting no authority.
fn check_authorities(path: &Path) -> Result<(), BusError> {
    let wrong = |what: String| {
        let text = format!("nats_ca_file {}: {what}", path.display());
        BusError::caused(BusErrorKind::Refused, "read NATS certificates", text)
    };
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match certificates {
        Ok(certificates) if certificates.is_empty() => Err(wrong("holds no certificate".to_owned())),
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// The TLS error behind a connection error, which the client reports as an IO error.
fn tls_failure(error: &ConnectError) -> Option<&rustls::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(failure) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Some(failure);
        }
        source = cause.source();
    }
    None
}

/// Whether another attempt would fail in the same way.
fn is_final(error: &ConnectError) -> bool {
    let refused = matches!(
        error.kind(),
        ConnectErrorKind::ServerParse | ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
    );
    refused || matches!(tls_failure(error), Some(rustls::Error::InvalidCertificate(_)))
}

fn refusal(error: &ConnectError) -> BusError {
    let (kind, advice) = match error.kind() {
        _ if tls_failure(error).is_some() => (BusErrorKind::Refused, tls_advice(error)),
        ConnectErrorKind::ServerParse => (BusErrorKind::Refused, "nats_url must be nats://host:port"),
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => (
            BusErrorKind::Refused,
            "the server does not accept the user and password in nats_url, or nats_credentials_file",
        ),
        ConnectErrorKind::Tls => (BusErrorKind::Refused, "TLS failed: see nats_url (tls://) and nats_ca_file"),
        ConnectErrorKind::Dns => (BusErrorKind::Unavailable, "the host in nats_url is not known"),
        _ => (BusErrorKind::Unavailable, "is nats_url right, and does a server listen there?"),
    };
    BusError::caused(kind, "connect to NATS", format!("{error}; {advice}"))
}

fn tls_advice(error: &ConnectError) -> &'static str {
    use rustls::CertificateError::{NotValidForName, NotValidForNameContext};
    match tls_failure(error) {
        Some(rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. })) => {
            "the server's certificate must name the host in nats_url"
        }
        Some(error) if error.to_string().contains("CaUsedAsEndEntity") => {
            "the server shows the certificate of an authority: issue it one of its own, and name that authority in nats_ca_file"
        }
        Some(rustls::Error::InvalidCertificate(_)) => "nats_ca_file must hold the authority that signed it",
        _ => "does the server speak TLS, as nats_url says (tls://)?",
    }
}
