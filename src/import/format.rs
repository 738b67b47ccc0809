//! The file formats that can be imported.

use std::path::Path;
use std::str::FromStr;

use anyhow::{Result, bail};

/// The format of an imported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One event per line, as in a batch of JSON lines.
    JsonLines,
    /// A header, then one event per row.
    Csv,
    /// One event per row: files of our own lake, or other files mapped by column name.
    Parquet,
    /// One message per line, as exported by Segment.
    Segment,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "json-lines" => Ok(Self::JsonLines),
            "csv" => Ok(Self::Csv),
            "parquet" => Ok(Self::Parquet),
            "segment" => Ok(Self::Segment),
            _ => Err("must be json-lines, csv, parquet or segment".to_owned()),
        }
    }
}

impl Format {
    /// Derives the format from the file's extension, ignoring `.gz` and `.zst`.
    pub(super) fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_ascii_lowercase();
        let bare = name.strip_suffix(".gz").or(name.strip_suffix(".zst")).unwrap_or(&name);
        match bare.rsplit_once('.').map(|(_, extension)| extension) {
            Some("jsonl" | "ndjson" | "json") => Ok(Self::JsonLines),
            Some("csv") => Ok(Self::Csv),
            Some("parquet") => Ok(Self::Parquet),
            _ => bail!("its name does not say what it holds: give --format json-lines, csv, parquet or segment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_from_the_extension() {
        for (name, format) in [
            ("a.jsonl", Format::JsonLines),
            ("b/C.NDJSON.gz", Format::JsonLines),
            ("a.csv.zst", Format::Csv),
            ("events_1.parquet", Format::Parquet),
        ] {
            assert_eq!(Format::of(Path::new(name)).unwrap(), format, "{name}");
        }
        assert!(Format::of(Path::new("a.gz")).is_err() && Format::of(Path::new("a")).is_err());
    }
}
