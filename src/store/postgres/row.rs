//! Reading values from rows and writing them.

use jiff::Timestamp;

use super::error::damaged;
use crate::store::error::StoreError;

/// A stored time; one out of range means damage.
pub(super) fn timestamp(ms: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_millisecond(ms).map_err(|error| damaged("read time", error))
}

/// PostgreSQL's text has no NUL, so no stored text matches one that has.
pub(super) fn is_storable(text: &str) -> bool {
    !text.contains('\0')
}

/// JSON never contains a NUL, so PostgreSQL can store it as text.
pub(super) fn json_text(value: &impl serde::Serialize, context: &'static str) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| damaged(context, error))
}
