//! The event model that every part shares: the wire messages, what makes an event
//! valid, its kind, its bus subject and its JSON view.
//!
//! Invariant: what [`request`] accepts is bytes that [`EventRef::decode`] reads, with an id,
//! a timestamp, an app, a device and one payload. Imports nothing of ours.

pub mod proto;
mod schema;

pub mod describe;
mod json_schema;
mod pattern;
mod plain;

mod accept;
mod binary;
pub mod cloud_event;
mod decimal;
mod invalid;
mod json_read;
mod json_text;
mod limits;
pub mod otlp;
mod properties;
pub mod reason;
pub mod request;
mod rules;
pub mod segment;
pub mod struct_writer;
pub mod subject;

mod json_view;
mod person;
mod stored;
mod unique;
mod wire;

pub use accept::{Arrival, check_names, is_app_id, is_id, is_of_other_app, new_id};
pub use invalid::{FieldError, cut};
pub use json_schema::json_schemas;
pub use json_view::Int64;
pub use limits::{EVENT_BYTES_MAX, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};
pub use pattern::Pattern;
pub use person::{GROUP_BYTES_MAX, Person, PersonId};
pub use reason::Reason;
pub use schema::{Holds, Kind, Rules, field_holds};
pub use stored::{DeviceRef, EventRef};
pub use unique::{Unique, UniqueWithin};
pub use wire::DecodeError;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod view_tests;

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod protocols_tests;
#[cfg(test)]
mod request_tests;
