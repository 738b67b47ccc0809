//! Turns request bodies into events that are ready to be stored, or into errors with JSON pointers.
//!
//! Invariant: an accepted event decodes with [`super::EventRef::decode`]. Knows the product's own JSON and binary
//! bodies; other protocols build on it.

pub(in crate::event) mod field_error;

pub(in crate::event) mod admit;
pub(in crate::event) mod binary;
pub(in crate::event) mod json_reader;
pub(in crate::event) mod validate;

pub mod reason;
pub mod request;

#[cfg(test)]
mod binary_tests;
#[cfg(test)]
mod limits_tests;
#[cfg(test)]
mod request_tests;
