//! Messages of Segment's API as events (<https://segment.com/docs/connections/spec/>). `docs/segment.md` says what becomes
//! of what.
//!
//! Invariants: nothing of a message that is accepted is lost, and no value of a field is a reason to refuse one: what does
//! not fit where it belongs is kept beside it, and what JSON can say and an event cannot as the text that was sent. Knows nothing of HTTP, nor of who may send.

mod batch;
mod body;
mod device;
mod json;
mod mapping;
mod mend;
mod message;
mod value;

pub use batch::BatchFields;
pub use body::{Body, MESSAGE_BYTES_MAX, MESSAGES_MAX};
pub use message::Call;
