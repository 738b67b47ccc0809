//! Whole files in a local directory or an object store. A file is stored atomically and durably, or not at all.
//!
//! Everything here blocks, so call it on threads that may. Knows names and bytes, nothing of
//! the content of a file.

mod file_url;
mod settings;

mod listing;
mod objects;
mod source;

mod local;
mod remote;

mod client;
mod delete;
mod markup;
mod profile;
mod requests;

mod advice;
mod failure;

pub(crate) use listing::{Listed, Walked};
pub(crate) use local::walk;
pub(crate) use objects::Objects;
pub use settings::ObjectSettings;
pub(crate) use source::Source;
