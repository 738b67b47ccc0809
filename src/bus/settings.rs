//! The settings of each engine.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of the embedded engine.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The directory that holds `bus.db`.
    pub dir: PathBuf,
    /// Stored bytes above which publishing is refused.
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

/// Settings of the NATS engine: how it reaches the server, and the streams it maintains there.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// Server addresses, comma-separated: `nats://user:password@host:4222`, `tls://host:4222`.
    pub url: String,
    pub client_name: String,
    /// A `.creds` file (JWT and nkey).
    pub credentials_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Consecutive failed attempts after which reconnecting is abandoned and the process ends; `None`: never.
    pub reconnects_max: Option<usize>,
    pub reconnect_wait: Duration,
    /// The timeout of one request: a connection attempt, an acknowledged publish, a JetStream API call.
    pub timeout: Duration,
    pub stream: String,
    pub subjects: Vec<String>,
    /// Durable consumers that must have acknowledged a message before it is purged. A consumer that does not exist yet
    /// counts as having read nothing.
    pub readers: Vec<String>,
    pub age_max: Duration,
    pub bytes_max: u64,
    pub replicas: usize,
    pub storage: StreamStorage,
    pub dead_letter_stream: String,
    pub dead_letter_age_max: Duration,
    pub dedup_window: Duration,
    pub publish: PublishMode,
    /// The largest payload to be published. A warning is raised for a server that accepts less.
    pub event_bytes_max: usize,
}

/// The storage of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStorage {
    File,
    Memory,
}

/// How groups of messages are published to JetStream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// Chooses the faster mode for the server.
    Auto,
    /// One acknowledgement per message, pipelined.
    Single,
    /// Atomic batches, one acknowledgement each (server 2.12 or later).
    Atomic,
}
