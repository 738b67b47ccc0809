//! The settings of an import.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::format::Format;
use crate::warehouse::EncodeSettings;

/// How files are imported.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `None` derives the format from the file's name.
    pub format: Option<Format>,
    /// The app of rows that name none.
    pub app: Option<String>,
    /// Maps a column to an event field, for CSV and Parquet. `None` leaves the column out.
    pub columns: Vec<(String, Option<String>)>,
    /// Where rejected rows are written. `None` puts them next to the file.
    pub rejects: Option<PathBuf>,
    /// Validates every row and stores nothing.
    pub dry_run: bool,
    pub event_bytes_max: usize,
    /// Size of the JSON text that is validated and committed as one chunk. Smaller chunks make smaller files.
    pub chunk_bytes: usize,
    pub encode: EncodeSettings,
    pub threads: usize,
}

/// Parses a column mapping: `COLUMN=FIELD`, or `COLUMN=` to leave the column out.
pub fn column(text: &str) -> Result<(String, Option<String>)> {
    let Some((column, field)) = text.rsplit_once('=').filter(|(column, _)| !column.is_empty()) else {
        bail!("`{text}` is not COLUMN=FIELD, such as sku=customEvent.properties.sku, nor COLUMN= to leave it out");
    };
    Ok((column.to_owned(), (!field.is_empty()).then(|| field.to_owned())))
}
