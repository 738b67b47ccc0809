//! The schema of events: the tables that `build.rs` generates from `proto/`, size limits, patterns and descriptions.
//!
//! Invariant: tables, validation and documentation have one source, so they cannot disagree. Knows no encoding.

pub(in crate::event) mod limits;
pub(in crate::event) mod pattern;
pub(in crate::event) mod tables;

pub mod describe;
pub(in crate::event) mod json_schema;
