//! What one listener and its connections may use.

use std::time::Duration;

use super::memory::MemoryBudget;
use super::reply::dress::Dress;
use super::tls::reload::Tls;
use crate::base::supervisor::StopBudget;

/// What one listener and its connections may use.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Open connections. When there are as many, those that have been idle for longest make room; when none is idle,
    /// a few more are asked only how the process is.
    pub connections_max: usize,
    /// What all connections hold together, of every listener that shares this budget.
    pub memory: MemoryBudget,
    /// Request line and headers together; less than 8 KiB counts as 8 KiB. In HTTP/2 at most 16 KiB.
    pub header_bytes_max: usize,
    /// Requests that one HTTP/2 connection may have in flight.
    pub streams_max: u32,
    /// Encrypts the connections.
    pub tls: Option<Tls>,
    /// From the first byte of a TLS handshake to its end.
    pub handshake_timeout: Duration,
    /// From the first byte of a request (of a new connection: from its accept) to the end of its headers.
    pub header_timeout: Duration,
    /// From the headers of a request to its reply, after which the connection is cut.
    pub request_timeout: Duration,
    /// How long a client may take to read what was written to it, before the connection is cut.
    pub write_timeout: Duration,
    /// How long a connection may stay open without a request.
    pub idle_timeout: Duration,
    /// How long idle HTTP/1.1 connections stay open after `stop`, so that a client that is about to send on one is
    /// answered, and told that the connection closes.
    pub last_call: Duration,
    /// How long requests in flight may take after `stop` before their connections are cut.
    pub drain_timeout: StopBudget,
    /// What refusals of the listener itself say beside their problem.
    pub dress: Dress,
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
            dress: Dress::default(),
        }
    }
}
