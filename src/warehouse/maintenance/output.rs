//! Writes rows to files near the target size.
//!
//! A file is written row group by row group. Bounds: [`GROUP_BYTES_MAX`] encoded bytes of the open row group, which is in
//! memory twice while it is laid out, and [`ROWS_MAX`] sequences of eight bytes.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::sync::Arc;

use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescPtr;

use super::scratch::Scratch;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::columns::promoted::schema_with;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::row_group::RowGroup;
use crate::warehouse::file::footer;
use crate::warehouse::layout::new_compacted_name;
use crate::warehouse::pages::compression::Compressor;
use crate::warehouse::sequence_set::SequenceSet;
use crate::warehouse::{Compression, WarehouseError};

/// A row group is closed at this size, regardless of its rows.
const GROUP_BYTES_MAX: usize = 24 << 20;
/// Rows per file.
const ROWS_MAX: usize = 4 << 20;
/// Rows between two checks of the sizes.
const CHECK_ROWS: usize = 1_024;
const BUFFER_BYTES: usize = 256 << 10;

/// How the files are written.
#[derive(Clone, Debug)]
pub(in crate::warehouse) struct OutputSettings {
    pub(in crate::warehouse) compression: Compression,
    pub(in crate::warehouse) row_group_rows: usize,
    pub(in crate::warehouse) target_bytes: u64,
    /// The streams to which the rows' sequences belong.
    pub(in crate::warehouse) stream: String,
    pub(in crate::warehouse) app_id: String,
    pub(in crate::warehouse) promoted: PromotedColumns,
}

/// A complete file in the scratch directory.
#[derive(Debug)]
pub(in crate::warehouse) struct Output {
    /// Its final name.
    pub(in crate::warehouse) name: String,
    /// Its name in the scratch directory.
    pub(super) part: String,
    pub(in crate::warehouse) bytes: u64,
    pub(in crate::warehouse) metadata: ParquetMetaData,
}

/// The outputs of one job.
pub(in crate::warehouse) struct Outputs<'a> {
    settings: OutputSettings,
    schema: SchemaDescPtr,
    scratch: &'a Scratch,
    properties: WriterPropertiesPtr,
    compressor: Compressor,
    seed: u64,
    open: Option<Open>,
    done: Vec<Output>,
    pub(in crate::warehouse) rows: u64,
    /// Rows dropped by [`Outputs::push_unique`].
    pub(in crate::warehouse) repeated: u64,
    last: (i64, String),
}

struct Open {
    name: String,
    part: String,
    writer: SerializedFileWriter<BufWriter<File>>,
    group: RowGroup,
    sequences: Vec<u64>,
    rows: usize,
    full: bool,
}

impl<'a> Outputs<'a> {
    pub(in crate::warehouse) fn new(settings: OutputSettings, scratch: &'a Scratch) -> Result<Self, WarehouseError> {
        let properties = WriterProperties::builder()
            .set_compression(settings.compression.codec())
            .set_created_by(footer::CREATED_BY.to_owned())
            .build();
        Ok(Self {
            compressor: Compressor::new(settings.compression)?,
            schema: schema_with(&settings.promoted),
            settings,
            scratch,
            properties: Arc::new(properties),
            seed: RandomState::new().hash_one(0u8),
            open: None,
            done: Vec::new(),
            rows: 0,
            repeated: 0,
            last: (i64::MIN, String::new()),
        })
    }

    /// Adds the next row, unless it repeats both sequence and id of the row before.
    pub(in crate::warehouse) fn push_unique(&mut self, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        if self.last.0 == row.stream_sequence() && self.last.1 == row.id() {
            self.repeated += 1;
            return Ok(());
        }
        self.last.0 = row.stream_sequence();
        self.last.1.clear();
        self.last.1.push_str(row.id());
        self.push(row)
    }

    /// Adds the next row.
    pub(in crate::warehouse) fn push(&mut self, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        if let Some(open) = self.open.take_if(|open| open.full) {
            let output = self.close(open, None)?;
            self.done.push(output);
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin()?,
        };
        open.group.push_stored(row, &mut self.compressor)?;
        // Imported rows have none.
        open.sequences.extend(u64::try_from(row.stream_sequence()).ok().filter(|sequence| *sequence > 0));
        open.rows += 1;
        self.rows += 1;
        let rows = open.group.rows();
        if rows >= self.settings.row_group_rows || rows.is_multiple_of(CHECK_ROWS) {
            self.check_sizes(&mut open)?;
        }
        self.open = Some(open);
        Ok(())
    }

    fn check_sizes(&mut self, open: &mut Open) -> Result<(), WarehouseError> {
        open.group.relieve(&mut self.compressor)?;
        let encoded = open.group.encoded_bytes();
        let bytes = (open.writer.bytes_written() + encoded) as u64;
        open.full = bytes >= self.settings.target_bytes || open.rows >= ROWS_MAX;
        if open.full || encoded >= GROUP_BYTES_MAX || open.group.rows() >= self.settings.row_group_rows {
            self.close_group(open)?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<Open, WarehouseError> {
        let (part, file) = self.scratch.part()?;
        let file = BufWriter::with_capacity(BUFFER_BYTES, file);
        let writer = SerializedFileWriter::new(file, self.schema.root_schema_ptr(), self.properties.clone());
        Ok(Open {
            name: new_compacted_name(),
            part,
            writer: writer.map_err(failed)?,
            group: RowGroup::new(self.seed, &self.settings.promoted),
            sequences: Vec::new(),
            rows: 0,
            full: false,
        })
    }

    fn close_group(&mut self, open: &mut Open) -> Result<(), WarehouseError> {
        let group = std::mem::replace(&mut open.group, RowGroup::new(self.seed, &self.settings.promoted));
        if group.rows() == 0 {
            return Ok(());
        }
        let mut out = open.writer.next_row_group().map_err(failed)?;
        group.append_to(&mut out, &self.schema, &mut self.compressor)?;
        out.close().map(drop).map_err(failed)
    }

    /// Completes a file. The footer of the last output names the files that all outputs replace.
    fn close(&mut self, mut open: Open, replaces: Option<&footer::Replaces>) -> Result<Output, WarehouseError> {
        self.close_group(&mut open)?;
        let ranges = SequenceSet::of(std::mem::take(&mut open.sequences).into_iter());
        for (key, value) in footer::compacted_entries(&ranges, &self.settings.app_id, &self.settings.stream, replaces) {
            open.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let file = open.writer.into_inner().map_err(failed)?;
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        let (metadata, bytes) = seal(file)?;
        Ok(Output { name: open.name, part: open.part, bytes, metadata })
    }

    /// Returns the files in the order of their rows. `replaced` are the names of the files that they replace.
    pub(in crate::warehouse) fn finish(mut self, replaced: &[&str]) -> Result<Vec<Output>, WarehouseError> {
        if let Some(open) = self.open.take() {
            let outputs: Vec<&str> = self.done.iter().map(|output| output.name.as_str()).collect();
            let replaces = footer::Replaces::of(replaced, &outputs);
            let output = self.close(open, Some(&replaces))?;
            self.done.push(output);
        }
        Ok(self.done)
    }
}

/// Writes the checksum into the footer of an otherwise complete file.
fn seal(mut file: File) -> Result<(ParquetMetaData, u64), WarehouseError> {
    let bytes = file.metadata().map_err(io)?.len();
    let mut length = [0; 4];
    file.seek(SeekFrom::Start(bytes - 8)).and_then(|_| file.read_exact(&mut length)).map_err(io)?;
    let from = bytes - 8 - u64::from(u32::from_le_bytes(length));
    let mut end = vec![0; (bytes - from) as usize];
    file.seek(SeekFrom::Start(from)).and_then(|_| file.read_exact(&mut end)).map_err(io)?;
    footer::seal(&mut end);
    file.seek(SeekFrom::Start(from)).and_then(|_| file.write_all(&end)).map_err(io)?;
    Ok((footer::read(&file)?, bytes))
}

fn io(error: std::io::Error) -> WarehouseError {
    WarehouseError::io("write compacted file", error, false)
}

/// Keeps an I/O error of the written file an I/O error.
fn failed(error: parquet::errors::ParquetError) -> WarehouseError {
    match error {
        parquet::errors::ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(error) => io(*error),
            Err(source) => WarehouseError::encode(parquet::errors::ParquetError::External(source)),
        },
        error => WarehouseError::encode(error),
    }
}
