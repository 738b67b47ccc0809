//! The OpenAPI document of the gateway, built from its routes and the schemas of events.

mod cloud_events;
pub(crate) mod document;
mod native;
pub(crate) mod options;
mod otlp;
mod refusals;
mod segment;
