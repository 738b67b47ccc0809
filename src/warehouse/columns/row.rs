//! One row of a file.

use super::device::RowDevice;
use super::table::{self, Values};

/// A row as a file holds it.
pub(crate) struct StoredRow<'a> {
    /// The text and number columns, in table order.
    pub(crate) values: Values<'a>,
    pub(crate) event_category: &'a str,
    pub(crate) event_type: &'a str,
    pub(crate) payload_json: &'a str,
    pub(crate) device: Option<RowDevice<'a>>,
}

impl<'a> StoredRow<'a> {
    pub(crate) fn id(&self) -> &'a str {
        self.values.texts[table::ID]
    }

    pub(crate) fn device_id(&self) -> &'a str {
        self.values.texts[table::DEVICE_ID]
    }

    pub(crate) fn user_id(&self) -> &'a str {
        self.values.texts[table::USER_ID]
    }

    pub(crate) fn timestamp_ms(&self) -> i64 {
        self.values.numbers[table::TIMESTAMP_MS]
    }

    pub(crate) fn stream_sequence(&self) -> i64 {
        self.values.numbers[table::STREAM_SEQUENCE]
    }
}
