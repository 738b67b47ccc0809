//! The Parquet page writer: values of a column in, encoded and compressed pages out.
//!
//! Knows values and bytes, nothing of events.

pub(super) mod column;

pub(super) mod chunk;
mod page_header;

mod bloom;
pub(super) mod compression;
pub(super) mod encodings;
pub(super) mod short_text;
