//! Encodes events into a Parquet file.
//!
//! Rows are encoded as they arrive, so that closing a file is cheap and an open file
//! holds compressed pages. Knows columns and footers, nothing of directories.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescPtr;

use super::footer;
use crate::event::EventRef;
use crate::warehouse::columns::origin::Origin;
use crate::warehouse::columns::promoted::{PromotedColumns, schema_with};
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::row_group::RowGroup;
use crate::warehouse::columns::schema::schema;
use crate::warehouse::error::WarehouseError;
use crate::warehouse::pages::compression::{Compression, Compressor};
use crate::warehouse::sequence_set::SequenceSet;

/// Rows between checks whether a page has grown too large.
const RELIEVE_ROWS: usize = 1_024;

/// Capacity reserved for Bloom filters, indexes and footer.
const FOOTER_BYTES: usize = 1 << 20;

/// How files are encoded.
#[derive(Clone, Debug)]
pub struct EncodeSettings {
    pub compression: Compression,
    /// Rows at which a row group closes.
    pub row_group_rows_max: usize,
    /// The bus stream that the sequences belong to.
    pub stream: String,
}

/// The state that the files of a thread share: settings and the codec's tables.
pub struct Encoder {
    settings: EncodeSettings,
    properties: Arc<WriterProperties>,
    compressor: Compressor,
    seed: u64,
    columns: PromotedColumns,
    schema: SchemaDescPtr,
}

/// An open file of one app, to which rows are added.
pub struct OpenFile {
    app_id: Box<str>,
    group: RowGroup,
    /// The closed row groups.
    closed: Option<SerializedFileWriter<Vec<u8>>>,
    closed_rows: usize,
}

impl Encoder {
    pub fn new(settings: EncodeSettings) -> Result<Self, WarehouseError> {
        let properties = WriterProperties::builder()
            .set_compression(settings.compression.codec())
            .set_created_by(footer::CREATED_BY.to_owned())
            .build();
        let compressor = Compressor::new(settings.compression)?;
        let seed = RandomState::new().hash_one(0u8);
        let (columns, schema) = (PromotedColumns::default(), schema().clone());
        Ok(Self { settings, properties: Arc::new(properties), compressor, seed, columns, schema })
    }

    /// Adds promoted columns.
    pub fn promoting(mut self, columns: &PromotedColumns) -> Self {
        self.schema = schema_with(columns);
        self.columns = columns.clone();
        self
    }

    pub fn open(&self, app_id: &str) -> OpenFile {
        OpenFile { app_id: app_id.into(), group: RowGroup::new(self.seed, &self.columns), closed: None, closed_rows: 0 }
    }

    pub fn push(&mut self, file: &mut OpenFile, event: &EventRef<'_>, origin: Origin) -> Result<(), WarehouseError> {
        file.group.push(event, origin, &mut self.compressor)?;
        self.pushed(file)
    }

    /// Adds a row that was read from a file.
    pub(crate) fn push_stored(&mut self, file: &mut OpenFile, row: &StoredRow<'_>) -> Result<(), WarehouseError> {
        file.group.push_stored(row, &mut self.compressor)?;
        self.pushed(file)
    }

    fn pushed(&mut self, file: &mut OpenFile) -> Result<(), WarehouseError> {
        let rows = file.group.rows();
        if rows >= self.settings.row_group_rows_max {
            self.close_group(file)?;
        } else if rows.is_multiple_of(RELIEVE_ROWS) {
            file.group.relieve(&mut self.compressor)?;
        }
        Ok(())
    }

    /// Closes the file. `sequences` are the sequences of its rows, in any order.
    pub fn finish(
        &mut self,
        mut file: OpenFile,
        sequences: impl Iterator<Item = u64>,
    ) -> Result<Bytes, WarehouseError> {
        if file.group.rows() > 0 || file.closed.is_none() {
            self.close_group(&mut file)?;
        }
        let Some(mut writer) = file.closed else { return Ok(Bytes::new()) };
        let sequences = SequenceSet::of(sequences);
        for (key, value) in footer::entries(&sequences, &file.app_id, &self.settings.stream) {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let mut file = writer.into_inner().map_err(WarehouseError::encode)?;
        footer::seal(&mut file);
        if file.len() < file.capacity() / 2 {
            file.shrink_to_fit();
        }
        Ok(Bytes::from(file))
    }

    fn close_group(&mut self, file: &mut OpenFile) -> Result<(), WarehouseError> {
        let group = std::mem::replace(&mut file.group, RowGroup::new(self.seed, &self.columns));
        let rows = group.rows();
        if file.closed.is_none() {
            // Most files have one group. Unused capacity takes no physical memory, while growing would copy the file.
            let bytes = group.encoded_bytes() * 9 / 8 + FOOTER_BYTES;
            let memory = Vec::with_capacity(bytes);
            let writer = SerializedFileWriter::new(memory, self.schema.root_schema_ptr(), self.properties.clone());
            file.closed = Some(writer.map_err(WarehouseError::encode)?);
        }
        let Some(writer) = &mut file.closed else { return Ok(()) };
        let mut out = writer.next_row_group().map_err(WarehouseError::encode)?;
        group.append_to(&mut out, &self.schema, &mut self.compressor)?;
        out.close().map_err(WarehouseError::encode)?;
        file.closed_rows += rows;
        Ok(())
    }
}

impl OpenFile {
    pub fn rows(&self) -> usize {
        self.closed_rows + self.group.rows()
    }

    /// Roughly the size of the file if it closed now.
    pub fn encoded_bytes(&self) -> usize {
        self.closed_bytes() + self.group.encoded_bytes()
    }

    pub fn memory_bytes(&self) -> usize {
        self.closed.as_ref().map_or(0, |writer| writer.inner().capacity()) + self.group.memory_bytes()
    }

    fn closed_bytes(&self) -> usize {
        self.closed.as_ref().map_or(0, SerializedFileWriter::bytes_written)
    }
}
