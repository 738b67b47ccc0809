//! Converts messages of Segment's API to events (<https://segment.com/docs/connections/spec/>). `docs/segment.md`
//! describes the mapping.
//!
//! Invariants: an accepted message loses nothing, and no value of a field is a reason to refuse one. A value that does
//! not fit its field is kept in `properties`, and JSON that an event cannot represent is kept as the original text.
//! Knows nothing about HTTP, nor who may send.

mod batch_fields;
mod body;
mod device;
mod json;
mod mapping;
mod message;
mod repair;
mod value;

pub use batch_fields::BatchFields;
pub use body::{Body, MESSAGE_BYTES_MAX, MESSAGES_MAX};
pub use message::Call;
