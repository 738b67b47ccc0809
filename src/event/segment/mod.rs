//! Messages of Segment's API as events (<https://segment.com/docs/connections/spec/>). `docs/segment.md` says what becomes
//! of what.
//!
//! Invariant: nothing of a message that is accepted is lost. Knows nothing of HTTP, nor of who may send.

mod body;
mod device;
mod json;
mod mapping;
mod message;
mod value;

pub use body::{Around, Body, MESSAGE_BYTES_MAX};
pub use message::Call;
