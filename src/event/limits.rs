//! How large an event may be, in one place: what comes in small must not grow without bound in any form that it is
//! turned into. `docs/events.md` has the same table; a test compares the two.

/// Of an event as it is stored, encoded and with what the gateway assigned, unless the configuration says otherwise.
pub const EVENT_BYTES_MAX: usize = 1_000_000;
/// `id`, `device_id`, `user_id`, `session_id`, `correlation_id`, `idempotency_key`, and the name of a custom event.
pub(super) const ID_BYTES_MAX: usize = 256;
pub(super) const APP_ID_BYTES_MAX: usize = 128;
/// Any other string.
pub(super) const TEXT_BYTES_MAX: usize = 256 << 10;
/// A key of a map, and of an object in `properties`.
pub const KEY_BYTES_MAX: usize = 256;
/// Of a list, or of a map.
pub(super) const ELEMENTS_MAX: usize = 1_000;
/// Members and elements in `properties`, at all levels together.
pub const PROPERTIES_VALUES_MAX: usize = 1_000;
/// Objects and arrays within each other in `properties`, itself included. Each takes up to three protobuf
/// messages, of which common decoders take 100.
pub const PROPERTIES_DEPTH_MAX: usize = 30;
/// Objects and arrays within each other in a JSON body. Only what is refused for other reasons could come near.
pub(super) const JSON_DEPTH_MAX: usize = 64;
/// The last millisecond of the year 9999, UTC.
pub(super) const TIMESTAMP_MS_MAX: i64 = 253_402_300_799_999;

/// Values in lists, maps and `properties` of a stored event that is read. More than any event that is let in today
/// can have: events of older senders and of other publishers to the bus are read, up to what memory bears.
pub(super) const STORED_VALUES_MAX: usize = 50_000;
/// A stored event that is read, likewise.
pub(super) const STORED_BYTES_MAX: usize = 16 << 20;
