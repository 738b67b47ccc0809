//! Log records of OpenTelemetry (OTLP 1.x): each becomes a custom event. `docs/protocols.md` says what becomes of what.
//!
//! The protobuf form is read in place by the public field numbers of `opentelemetry/proto/logs/v1`, without messages in
//! between: two bytes of an empty record would take a hundred times as much as a message. The JSON form is turned into
//! it first. Unknown fields are passed over, as the protocol asks.
//!
//! Invariant: nothing of a record that is accepted is lost, and the same record of the same export has the same
//! idempotency key whenever it is sent.

mod messages;

mod json;
mod record;
mod values;

mod export;
mod part;

pub use export::{Export, RECORDS_MAX, app_of};
pub use json::from_json;
pub use part::parts;
