//! TLS for a listener: its certificate, reloaded while it serves, and the handshakes of its clients.
//!
//! Invariants: open connections keep the certificate that they began with. A handshake in progress has one of a bounded
//! number of slots, memory taken for it, and a timeout; a silent client has none of these.

pub(crate) mod certificate;
pub(crate) mod files;
pub(crate) mod handshake;
pub(crate) mod reload;
#[cfg(test)]
mod tests;
