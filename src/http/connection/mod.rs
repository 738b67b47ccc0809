//! Connections: the state of each, what bounds it, and the HTTP/1.1 and HTTP/2 protocols on top.

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
