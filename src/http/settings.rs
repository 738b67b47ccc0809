//! The settings of the gateway's listener, and the limits that the admin listener shares.

use std::path::PathBuf;
use std::time::Duration;

use super::limits::Limits;
use super::memory::MemoryBudget;
use super::request::client_address::TrustedProxies;
use crate::base::settings::{Address, Reader, Size};

/// Without a setting, bodies get this many quarters of the memory.
const BODY_PARTS: usize = 3;

/// Where the gateway listens, and what requests may take.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    pub addr: Address,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub trusted_proxies: TrustedProxies,
    /// The longest that the head and the body of a request may take to arrive.
    pub read_timeout: Duration,
    pub write_timeout: Duration,
    pub idle_timeout: Duration,
    pub header_bytes_max: usize,
    pub connections_max: usize,
    pub requests_max: usize,
    /// The memory of all requests on both listeners.
    pub memory_bytes_max: usize,
    /// The part of it that bodies may hold.
    pub body_memory_bytes_max: usize,
    /// How long requests in flight may take once the listener is closed.
    pub shutdown_timeout: Duration,
}

impl HttpSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let memory_bytes_max = from.bytes("http_memory_max");
        let body_memory = from.optional::<Size>("http_body_memory_max");
        Self {
            addr: from.get("http_addr"),
            tls_certificate: from.optional("tls_cert_file"),
            tls_key: from.optional("tls_key_file"),
            trusted_proxies: TrustedProxies(from.optional("trusted_proxies").unwrap_or_default()),
            read_timeout: from.positive("http_read_timeout"),
            write_timeout: from.get("http_write_timeout"),
            idle_timeout: from.get("http_idle_timeout"),
            header_bytes_max: from.bytes("http_max_header_bytes"),
            connections_max: from.get("http_max_connections"),
            requests_max: from.get("http_max_requests"),
            memory_bytes_max,
            body_memory_bytes_max: body_memory.map_or(memory_bytes_max / 4 * BODY_PARTS, |size| size.0 as usize),
            shutdown_timeout: from.get("http_shutdown_timeout"),
        }
    }

    /// A budget that both listeners share.
    pub fn memory(&self) -> MemoryBudget {
        MemoryBudget::with_caps(self.memory_bytes_max, self.requests_max, self.body_memory_bytes_max)
    }

    /// The limits of a listener with this budget.
    pub fn limits(&self, memory: MemoryBudget) -> Limits {
        Limits {
            memory,
            header_bytes_max: self.header_bytes_max,
            header_timeout: self.read_timeout,
            write_timeout: self.write_timeout,
            idle_timeout: self.idle_timeout,
            ..Limits::default()
        }
    }
}
