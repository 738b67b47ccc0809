//! Reads a file of any supported format as chunks of JSON lines.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use data_encoding::HEXLOWER;
use flate2::read::MultiGzDecoder;
use memchr::memchr;
use ring::digest::{Context, SHA256};

use super::bytes_read::{BytesRead, counted};
use super::chunk::{Chunk, SourceRow};
use super::format::Format;
use super::settings::Settings;
use super::table::{CsvRows, ParquetRows};

/// The longest row.
const ROW_BYTES_MAX: u64 = 16 << 20;
/// Bytes read from either end of a file to identify it.
const ENDS_BYTES: u64 = 64 << 10;
const BUFFER_BYTES: usize = 1 << 20;

pub(super) struct Source {
    rows: Rows,
    format: Format,
    identity: String,
    bytes_total: u64,
    bytes_read: BytesRead,
    next_row: u64,
    chunk_bytes: usize,
    app: Option<String>,
    is_stream: bool,
    /// Keeps the file locked during the import: two imports of the same file would each take the other's progress for
    /// their own.
    _file: Option<File>,
}

enum Rows {
    Lines(Box<dyn BufRead + Send>),
    Csv(Box<CsvRows>),
    Parquet(Box<ParquetRows>),
}

impl Source {
    pub(super) fn open(path: &Path, settings: &Settings) -> Result<Self> {
        let is_stream = path == Path::new("-");
        let format = match settings.format {
            Some(format) => format,
            None if is_stream => Format::JsonLines,
            None => Format::of(path)?,
        };
        if format == Format::Segment && settings.app.is_none() {
            bail!("Segment's messages do not say whose they are: give --app");
        }
        let bytes_read = BytesRead::default();
        let (reader, file): (Box<dyn Read + Send>, _) = if is_stream {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path)?;
            if !file.metadata()?.is_file() {
                bail!("it is not a file");
            }
            if file.try_lock().is_err() {
                bail!("another import of it is running");
            }
            (Box::new(file.try_clone()?), Some(file))
        };
        let bytes_total = file.as_ref().map_or(Ok(0), |file| file.metadata().map(|metadata| metadata.len()))?;
        let app = app_of(path);
        let identity = match &file {
            Some(file) => {
                identity(file, bytes_total, &format!("{format:?} {app:?} {:?} {:?}", settings.app, settings.columns))?
            }
            None => uuid::Uuid::now_v7().simple().to_string(),
        };
        let rows = match (format, &file) {
            (Format::Parquet, Some(file)) => {
                Rows::Parquet(Box::new(ParquetRows::open(file.try_clone()?, settings, bytes_read.clone())?))
            }
            (Format::Parquet, None) => bail!("Parquet is read from a file, not from a pipe"),
            (format, _) => {
                let lines = decompressed(counted(reader, bytes_read.clone()))?;
                match format {
                    Format::Csv => Rows::Csv(Box::new(CsvRows::open(lines, settings)?)),
                    _ => Rows::Lines(lines),
                }
            }
        };
        Ok(Self {
            rows,
            format,
            identity,
            bytes_total,
            bytes_read,
            next_row: 0,
            chunk_bytes: settings.chunk_bytes,
            app,
            is_stream,
            _file: file,
        })
    }

    /// Identifies the file and the settings it is read with: the same for every import of both.
    pub(super) fn identity(&self) -> &str {
        &self.identity
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The app named by an `app_id=` directory of the path, as in a lake.
    pub(super) fn app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    pub(super) fn bytes_total(&self) -> u64 {
        self.bytes_total
    }

    pub(super) fn bytes_read(&self) -> BytesRead {
        self.bytes_read.clone()
    }

    /// Skips rows that are already imported.
    pub(super) fn skip(&mut self, rows: u64) -> Result<()> {
        let mut row = Chunk::default();
        while self.next_row < rows {
            row.text.clear();
            row.faults.clear();
            if !self.next_row(&mut row)? {
                bail!("it has fewer rows than were imported of it");
            }
        }
        Ok(())
    }

    /// Returns `None` at the end of the file. `text` is a buffer to reuse.
    pub(super) fn next_chunk(&mut self, mut text: Vec<u8>) -> Result<Option<Chunk>> {
        text.clear();
        let mut chunk = Chunk { text, first_row: self.next_row, ..Chunk::default() };
        chunk.text.reserve(self.bytes_total.min(self.chunk_bytes as u64) as usize);
        while chunk.text.len() < self.chunk_bytes && self.next_row(&mut chunk)? {
            chunk.rows += 1;
        }
        Ok((chunk.rows > 0).then_some(chunk))
    }

    /// Appends the next row as a line. Returns false at the end of the file.
    fn next_row(&mut self, chunk: &mut Chunk) -> Result<bool> {
        let out = &mut chunk.text;
        let next = match &mut self.rows {
            Rows::Lines(lines) => next_line(lines, out).map_err(anyhow::Error::from),
            Rows::Csv(rows) => rows.next(out),
            Rows::Parquet(rows) => rows.next(out),
        };
        let next = next.with_context(|| format!("it cannot be read after row {}", self.next_row))?;
        let Some(SourceRow { fault }) = next else { return Ok(false) };
        self.next_row += 1;
        if let Some(fault) = fault {
            chunk.faults.insert(self.next_row, fault);
        }
        Ok(true)
    }
}

/// Appends the next line, always with a newline at its end. A line that is too long is truncated.
fn next_line(lines: &mut dyn BufRead, out: &mut Vec<u8>) -> io::Result<Option<SourceRow>> {
    let (start, mut next) = (out.len(), SourceRow::default());
    if (&mut *lines).take(ROW_BYTES_MAX).read_until(b'\n', out)? == 0 {
        return Ok(None);
    }
    if out.last() != Some(&b'\n') {
        if (out.len() - start) as u64 == ROW_BYTES_MAX {
            out.truncate(start + 1_024);
            skip_line(lines)?;
            next.fault = Some("must have at most 16 MiB");
        }
        out.push(b'\n');
    }
    Ok(Some(next))
}

fn skip_line(lines: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let buffer = lines.fill_buf()?;
        let end = memchr(b'\n', buffer);
        let used = end.map_or(buffer.len(), |end| end + 1);
        lines.consume(used);
        if end.is_some() || used == 0 {
            return Ok(());
        }
    }
}

/// Detects gzip and zstd by their first bytes rather than by the file's name, and drops a byte order mark.
fn decompressed(file: impl Read + Send + 'static) -> Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, file);
    let head = file.fill_buf()?;
    let (is_gzip, is_zstd) = (head.starts_with(&[0x1f, 0x8b]), head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let has_bom = head.starts_with(b"\xef\xbb\xbf");
    Ok(if is_gzip {
        without_bom(Box::new(BufReader::with_capacity(BUFFER_BYTES, MultiGzDecoder::new(file))))?
    } else if is_zstd {
        let decoder = zstd::Decoder::with_buffer(file)?;
        without_bom(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)))?
    } else {
        if has_bom {
            file.consume(3);
        }
        Box::new(file)
    })
}

fn without_bom(mut text: Box<dyn BufRead + Send>) -> Result<Box<dyn BufRead + Send>> {
    if text.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
        text.consume(3);
    }
    Ok(text)
}

/// A file that has grown gets a new identity: all of its rows are read again, and those already in the table are
/// recognized by their ids.
fn identity(file: &File, bytes: u64, how: &str) -> Result<String> {
    let mut file = file;
    let mut digest = Context::new(&SHA256);
    digest.update(format!("{bytes} {how} ").as_bytes());
    let mut end = Vec::new();
    for start in [0, bytes.saturating_sub(ENDS_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        end.clear();
        file.take(ENDS_BYTES).read_to_end(&mut end)?;
        digest.update(&end);
    }
    file.seek(SeekFrom::Start(0))?;
    Ok(HEXLOWER.encode(&digest.finish().as_ref()[..16]))
}

fn app_of(path: &Path) -> Option<String> {
    path.iter().rev().find_map(|part| part.to_str()?.strip_prefix("app_id=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_truncated_and_every_line_ends_with_a_newline() {
        let long = "x".repeat(ROW_BYTES_MAX as usize + 5);
        let text = format!("{{}}\r\n\n{long}\n{{\"a\":1}}");
        let (mut lines, mut out) = (text.as_bytes(), Vec::new());
        let mut faults = Vec::new();
        while let Some(next) = next_line(&mut lines, &mut out).unwrap() {
            faults.push(next.fault.is_some());
        }
        assert_eq!(faults, [false, false, true, false]);
        let lines: Vec<usize> = out.split(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lines, [3, 0, 1_024, 7, 0]);
    }

    #[test]
    fn a_path_of_a_lake_names_the_app() {
        assert_eq!(app_of(Path::new("/l/app_id=shop/year=2026/events_1.parquet")).as_deref(), Some("shop"));
    }
}
