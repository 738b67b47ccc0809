//! Authentication and authorization: tokens, roles, failed attempts and refusals.

mod attempts;
mod gate;
mod refusal_log;

pub use gate::{Access, AccessSettings};
pub(super) use gate::{FIRST_ADMIN, Identity, LOOPBACK, Peer, admit_to_metrics, authenticate, peer_of, require};
