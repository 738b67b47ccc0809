//! From a request body to events that are ready to be stored, or to errors that say what is wrong and where.
//!
//! Invariant: whatever is accepted here decodes with [`super::EventRef::decode`]. Knows the product's own JSON and
//! binary bodies; other protocols build on it.

pub(in crate::event) mod field_error;

pub(in crate::event) mod admit;
pub(in crate::event) mod binary;
pub(in crate::event) mod json_reader;
pub(in crate::event) mod validate;

pub mod reason;
pub mod request;

#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod request_tests;
