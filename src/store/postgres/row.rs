//! Values from rows and into them.

use jiff::Timestamp;

use super::error::damaged;
use crate::store::error::StoreError;

/// A stored time; what is out of range can only be damage.
pub(super) fn timestamp(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| damaged("read time", error))
}

/// PostgreSQL's text has no NUL: what is asked for with one is not there.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// Text that PostgreSQL can keep: its `text` has no NUL.
pub(super) fn json_text(value: &impl serde::Serialize, context: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| damaged(context, error))
}
