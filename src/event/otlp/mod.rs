//! OpenTelemetry log records (OTLP 1.x). Each becomes a custom event; `docs/protocols.md` describes the mapping.
//!
//! Protobuf is read in place by the public field numbers of `opentelemetry/proto/logs/v1`, without decoding messages:
//! two bytes of an empty record would take a hundred times as much memory. JSON is converted to protobuf first. Unknown
//! fields are skipped, as the protocol requires.
//!
//! Invariant: an accepted record loses nothing, and the same record of the same export has the same idempotency key
//! every time it is sent.

mod messages;

mod json;
mod record;
mod values;

mod export;
mod part;

pub use export::{Export, RECORDS_MAX, app_of};
pub use json::from_json;
pub use part::parts;
