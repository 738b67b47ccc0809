//! The event model that every other part shares: the wire messages, validation, kinds, bus subjects and the JSON view.
//!
//! ```text
//!  cloud_event, otlp, segment      other protocols, translated into events
//!            │
//!         intake                   request body → valid events, or errors with pointers
//!            │
//!          model                   a stored event: EventRef, JSON view, subject, person
//!            │
//!          codec                   protobuf wire format, JSON text, Struct
//!            │
//!         schema ◄── build.rs ◄── proto/
//! ```
//!
//! Invariant: [`request`] accepts only bytes that [`EventRef::decode`] reads, with an id, a timestamp, an app, a device
//! and one payload. Imports none of our other modules. Inside, imports only go down in the drawing.

mod schema;

mod codec;
pub mod proto;

mod model;

mod intake;

pub mod cloud_event;
pub mod otlp;
pub mod segment;

#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod protocols_tests;

pub use codec::struct_writer;
pub use codec::unique_keys::{UniqueKeys, UniqueKeysSeed};
pub use codec::wire::DecodeError;
pub use intake::admit::{Arrival, is_of_other_app};
pub use intake::field_error::{FieldError, cut};
pub use intake::reason::Reason;
pub use intake::{reason, request};
pub use model::device_ref::DeviceRef;
pub use model::event_ref::EventRef;
pub use model::ids::{check_names, is_app_id, is_id, new_id};
pub use model::json_view::Int64;
pub use model::person::{GROUP_BYTES_MAX, Person, PersonId};
pub use model::rule_view::{ViewObject, ViewValue};
pub use model::subject;
pub use schema::describe;
pub use schema::json_schema::json_schemas;
pub use schema::limits::{EVENT_BYTES_MAX, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};
pub use schema::pattern::Pattern;
pub use schema::tables::{FieldType, Kind, Rules, field_type};
