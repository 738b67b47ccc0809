//! The limits of a listener and its connections.

use std::time::Duration;

use super::memory::MemoryBudget;
use super::reply::refusal_headers::RefusalHeaders;
use super::tls::reload::Tls;
use crate::base::supervisor::StopBudget;

/// The limits of a listener and its connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. At the limit, the connections that have been idle longest are closed to make room. If none is
    /// idle, a few more are accepted for health probes only.
    pub connections_max: usize,
    /// The memory of all connections, on all listeners that share this budget.
    pub memory: MemoryBudget,
    /// Request line and headers together. At least 8 KiB; in HTTP/2 at most 16 KiB.
    pub header_bytes_max: usize,
    /// Concurrent requests on one HTTP/2 connection.
    pub streams_max: u32,
    /// Serves TLS connections.
    pub tls: Option<Tls>,
    /// From the first byte of a TLS handshake to its end.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its headers; on a new connection, from the accept.
    pub header_timeout: Duration,
    /// From the headers of a request to its reply. After it the connection is cut.
    pub request_timeout: Duration,
    /// How long a client may take to read written data before the connection is cut.
    pub write_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long idle HTTP/1.1 connections stay open after `stop`, so that a client that is about to send gets its
    /// reply, which announces the close.
    pub last_call: Duration,
    /// How long requests in flight may take after `stop` before their connections are cut.
    pub drain_timeout: StopBudget,
    /// The headers that refusals of the listener itself carry.
    pub refusal_headers: RefusalHeaders,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 4_096,
            memory: MemoryBudget::new(64 * 1024 * 1024),
            header_bytes_max: 64 * 1024,
            streams_max: 128,
            tls: None,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(120),
            last_call: Duration::ZERO,
            drain_timeout: Duration::from_secs(15).into(),
            refusal_headers: RefusalHeaders::default(),
        }
    }
}
