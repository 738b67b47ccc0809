//! A chunk of rows as they come from the source, each as one line of JSON.

use std::collections::HashMap;

/// Consecutive rows of the file as JSON lines.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) text: Vec<u8>,
    /// Rows of the file before this chunk.
    pub(super) first_row: u64,
    pub(super) rows: u64,
    /// Faults of rows that could not be converted, by row number from 1.
    pub(super) faults: HashMap<u64, &'static str>,
}

/// A row that was appended to the chunk's text, with its fault if it could not be converted.
#[derive(Debug, Default)]
pub(super) struct SourceRow {
    pub(super) fault: Option<&'static str>,
}
