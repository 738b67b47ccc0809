//! One row, as it comes from the bus and as a file holds it.

use super::device::RowDevice;

/// Where an event comes from: its place in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub sequence: u64,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub received_at_ms: i64,
}

/// A row as a file holds it.
pub(crate) struct StoredRow<'a> {
    pub(crate) id: &'a str,
    pub(crate) device_id: &'a str,
    pub(crate) timestamp_ms: i64,
    pub(crate) correlation_id: &'a str,
    pub(crate) event_category: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) device: Option<RowDevice<'a>>,
    pub(crate) payload_json: &'a str,
    pub(crate) received_at_ms: i64,
    pub(crate) idempotency_key: &'a str,
    pub(crate) stream_sequence: i64,
    pub(crate) user_id: &'a str,
    pub(crate) session_id: &'a str,
}
