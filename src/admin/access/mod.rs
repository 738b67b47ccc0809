//! Who may ask for what: tokens, their roles, attempts that failed, and who is refused.

mod attempts;
mod gate;
mod refusal_log;

pub use gate::{Access, AccessSettings};
pub(super) use gate::{FIRST_ADMIN, Identity, LOOPBACK, Peer, admit_to_metrics, authenticate, peer_of, require};
