//! How large an event may be: what comes in small must not grow without bound in any form that it is turned into.
//! `docs/events.md` has the same table; a test compares the two.
//!
//! What can be said of one field is a `buf.validate` option in `proto/`, which the checker reads from the tables. Here
//! is what cannot be said so, and what code beyond the checker needs to know.

use super::tables::{EVENT_ENVELOPE, Message};

/// Of an event as it is stored, encoded and with what the gateway assigned, unless the configuration says otherwise.
pub const EVENT_BYTES_MAX: usize = 1_000_000;
/// `id`, `device_id`, `user_id`, `session_id`, `correlation_id`, `idempotency_key`, and the name of a custom event.
pub(crate) const ID_BYTES_MAX: usize = bytes_max(&EVENT_ENVELOPE, 1);
pub(crate) const APP_ID_BYTES_MAX: usize = bytes_max(&EVENT_ENVELOPE, 2);
/// A string in `properties`.
pub(crate) const TEXT_BYTES_MAX: usize = 256 << 10;
/// A key of an object in `properties`, and of a map.
pub const KEY_BYTES_MAX: usize = 256;
/// Members and elements in `properties`, at all levels together.
pub const PROPERTIES_VALUES_MAX: usize = 1_000;
/// Objects and arrays within each other in `properties`, itself included. Each takes up to three protobuf
/// messages, of which common decoders take 100.
pub const PROPERTIES_DEPTH_MAX: usize = 30;
/// Objects and arrays within each other in a JSON body. Only what is refused for other reasons could come near.
pub(crate) const JSON_DEPTH_MAX: usize = 64;

/// Values in lists, maps and `properties` of a stored event that is read. More than any event that is let in today
/// can have: events of older senders and of other publishers to the bus are read, up to what memory bears.
pub(crate) const STORED_VALUES_MAX: usize = 50_000;
/// A stored event that is read, likewise.
pub(crate) const STORED_BYTES_MAX: usize = 16 << 20;

/// What a string field may have.
const fn bytes_max(message: &'static Message, number: usize) -> usize {
    match message.fields[number - 1].rules.bytes_max {
        Some(bytes_max) => bytes_max,
        None => panic!("the field has no limit"),
    }
}
