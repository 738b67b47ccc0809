//! Size limits of an event. A small input must not grow without bound in any representation. `docs/events.md` has the
//! same table; a test compares the two.
//!
//! Limits on a single field are `buf.validate` options in `proto/`, which the validator reads from the tables. This
//! file has the limits that those options cannot express, and those that other code needs.

use super::tables::{EVENT_ENVELOPE, Message};

/// Bytes of a stored event: encoded, with the fields that the gateway assigns. The default of the setting.
pub const EVENT_BYTES_MAX: usize = 1_000_000;
/// `id`, `device_id`, `user_id`, `session_id`, `correlation_id`, `idempotency_key`, and the name of a custom event.
pub(crate) const ID_BYTES_MAX: usize = bytes_max(&EVENT_ENVELOPE, 1);
pub(crate) const APP_ID_BYTES_MAX: usize = bytes_max(&EVENT_ENVELOPE, 2);
/// A string in `properties`.
pub(crate) const TEXT_BYTES_MAX: usize = 256 << 10;
/// A key of an object in `properties`, and of a map.
pub const KEY_BYTES_MAX: usize = 256;
/// Members and elements in `properties`, over all levels.
pub const PROPERTIES_VALUES_MAX: usize = 1_000;
/// Nesting depth of `properties`, counting the outermost object. Each level takes up to three protobuf messages, and
/// common decoders allow 100.
pub const PROPERTIES_DEPTH_MAX: usize = 30;
/// Nesting depth of a JSON body. A body that nests this deep is invalid for other reasons too.
pub(crate) const JSON_DEPTH_MAX: usize = 64;

/// Values in lists, maps and `properties` of a stored event that is read. More than any event accepted today can have:
/// events from older versions and from other publishers to the bus are read as far as memory allows.
pub(crate) const STORED_VALUES_MAX: usize = 50_000;
/// Bytes of a stored event that is read, for the same reason.
pub(crate) const STORED_BYTES_MAX: usize = 16 << 20;

/// The limit of a string field.
const fn bytes_max(message: &'static Message, number: usize) -> usize {
    match message.fields[number - 1].rules.bytes_max {
        Some(bytes_max) => bytes_max,
        None => panic!("the field has no limit"),
    }
}
