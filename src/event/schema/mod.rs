//! What an event can hold: the tables that `build.rs` generates from `proto/`, and what derives from them.
//!
//! Invariant: tables, checks and documents have one source, so they cannot disagree. Knows no bytes.

pub(in crate::event) mod limits;
pub(in crate::event) mod pattern;
pub(in crate::event) mod tables;

pub mod describe;
pub(in crate::event) mod json_schema;
