//! The error of a request that the server did not answer as expected.

use crate::bus::{BusError, BusErrorKind};

pub(super) fn failed(context: &'static str, error: impl std::fmt::Display) -> BusError {
    BusError::caused(BusErrorKind::Unavailable, context, error.to_string())
}
