//! TLS in front of a listener: its certificate, exchanged while it serves, and the handshakes of its clients.
//!
//! Invariants: connections that are open keep the certificate that they began with. A handshake that is under way
//! has a place among a bounded number, memory taken for it, and a time; a client that says nothing has none of them.

pub(crate) mod certificate;
pub(crate) mod files;
pub(crate) mod handshake;
pub(crate) mod reload;
#[cfg(test)]
mod tests;
