//! Serving HTTP, the same way on every listener of the process: the accept loop, the
//! limits of a connection, bounded bodies, problem documents and readiness.
//!
//! Invariants: whatever a client does or leaves undone ends at a named limit; after
//! `stop` the listener is closed at once and a request in flight still gets its reply.
//! Knows nothing of events or of any route.

mod body;
mod client_address;
mod coding;
mod connection;
mod connections;
mod control_frames;
mod drain;
mod dress;
mod drive;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod head;
mod memory;
pub mod own_origin;
mod problem;
#[cfg(test)]
pub(crate) mod raw_client;
mod raw_reply;
mod readiness;
mod reply;
mod request_id;
mod serve;
mod session;
mod share;
mod socket;
mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bounds;
#[cfg(test)]
mod tests_idle;
#[cfg(test)]
mod tests_shedding;
mod tls;
mod zstd_frames;

use std::time::Duration;

use crate::base::supervisor::StopBudget;

pub use body::{BodyError, Inbound, InboundError, read_body};
pub use client_address::{Scheme, SentTo, TrustedProxies};
pub use coding::{Coding, read_coded};
pub use dress::Dress;
pub use head::{header_value, header_values};
pub use memory::MemoryBudget;
pub use problem::Problem;
pub use readiness::{Readiness, ReadinessWatch, Scope};
pub use request_id::RequestIds;
pub use serve::{Drained, SPARE_CONNECTIONS, serve};
pub use tls::{Reload, Tls, TlsError, TlsFile, TlsFiles, Validity};

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
