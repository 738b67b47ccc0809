//! The reply for events that the bus did not store.

use http::StatusCode;

use crate::bus::BusErrorKind;
use crate::http::Problem;

/// `Retry-After` where a client can only wait: for events that were not stored, and while the API keys cannot be read.
pub(crate) const RETRY_AFTER_SECONDS: u32 = 2;

/// The reply when the bus stored nothing.
pub(crate) fn not_stored(kind: BusErrorKind) -> Problem {
    let status = status_of(kind);
    let problem = Problem::new(status, why(kind));
    if status == StatusCode::SERVICE_UNAVAILABLE { problem.with_retry_after(RETRY_AFTER_SECONDS) } else { problem }
}

pub(crate) fn status_of(kind: BusErrorKind) -> StatusCode {
    match kind {
        // The only fault that the bus finds in a valid event is its size.
        BusErrorKind::Invalid => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    }
}

pub(crate) fn why(kind: BusErrorKind) -> &'static str {
    match kind {
        BusErrorKind::Full => "The event store is full; send again later.",
        BusErrorKind::Closed => "The server is stopping; send again later.",
        BusErrorKind::Invalid => "The event cannot be stored: it is too large.",
        BusErrorKind::Unavailable
        | BusErrorKind::Refused
        | BusErrorKind::Corrupt
        | BusErrorKind::Fsync
        | BusErrorKind::LeaseLost => "The event store is unavailable; send again later, with the same idempotency key.",
    }
}
