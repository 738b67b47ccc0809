//! What each engine of the bus is told at its start.

use std::path::PathBuf;
use std::time::Duration;

/// How the embedded engine keeps its file.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The directory that holds `bus.db`.
    pub dir: PathBuf,
    /// Stored bytes at which publishing is refused.
    pub bytes_max: u64,
    /// Messages that every consumer has acknowledged are purged at this age.
    pub age_max: Duration,
    /// Dead letters are purged at this age.
    pub dead_letter_age_max: Duration,
    /// How long a message id is remembered.
    pub dedup_window: Duration,
    /// Bytes of recent groups kept in memory for consumers near the head.
    pub tail_bytes_max: usize,
}

/// How the NATS engine reaches its server, and the streams that it keeps there.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// Server addresses, comma-separated: `nats://user:password@host:4222`, `tls://host:4222`.
    pub url: String,
    pub client_name: String,
    /// A `.creds` file (JWT and nkey).
    pub credentials_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities of the server, trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Failed attempts in a row after which the connection is given up and the process ends; none: never.
    pub reconnects_max: Option<usize>,
    pub reconnect_wait: Duration,
    /// How long one request may take: a connection, an acknowledged publish, a call of the JetStream API.
    pub timeout: Duration,
    pub stream: String,
    pub subjects: Vec<String>,
    /// Durable consumers that must have acknowledged a message before it is purged, even those that nobody has created
    /// yet: such a one has read nothing.
    pub readers: Vec<String>,
    pub age_max: Duration,
    pub bytes_max: u64,
    pub replicas: usize,
    pub storage: StreamStorage,
    pub dead_letter_stream: String,
    pub dead_letter_age_max: Duration,
    pub dedup_window: Duration,
    pub publish: PublishMode,
    /// The largest payload that is published: a server that takes less is warned of.
    pub event_bytes_max: usize,
}

/// Where a stream keeps its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStorage {
    File,
    Memory,
}

/// How groups of messages are published to JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// The better one for the server at hand.
    Auto,
    /// One acknowledgement a message, pipelined.
    Single,
    /// Atomic batches, one acknowledgement each (server 2.12 or later).
    Atomic,
}
