//! Connections: their state and limits, and the HTTP/1.1 and HTTP/2 protocols.

pub(crate) mod control_frames;
pub(crate) mod drain;
pub(crate) mod drive;
mod encrypted;
pub(crate) mod open_connections;
pub(crate) mod outbound;
pub(crate) mod session;
pub(crate) mod share;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod version;
pub(crate) mod watch;
