//! The open row group: all columns of the schema, filled one event at a time.

use std::io::Write;

use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::SchemaDescPtr;

use super::device::{DeviceColumns, RowDevice};
use super::kind::KindColumns;
use super::promoted::PromotedColumns;
use super::promoted_values::Promoted;
use super::row::{Origin, StoredRow};
use crate::event::{EventRef, Kind};
use crate::warehouse::error::WarehouseError;
use crate::warehouse::pages::chunk::Chunk;
use crate::warehouse::pages::column::{IntegerColumn, PAGE_ROWS_MAX, TextColumn};
use crate::warehouse::pages::compression::Compressor;
use crate::warehouse::pages::encodings::definition_levels;

/// An open row group.
pub(crate) struct RowGroup {
    rows: usize,
    /// Whether each row of the open page has a device context. All columns except for plain text
    /// close their pages together, so the levels are encoded once for all of them.
    present: Vec<u16>,
    seed: u64,
    id: TextColumn,
    device_id: TextColumn,
    timestamp_ms: IntegerColumn,
    correlation_id: TextColumn,
    kind: KindColumns,
    device: DeviceColumns,
    payload_json: TextColumn,
    received_at_ms: IntegerColumn,
    idempotency_key: TextColumn,
    stream_sequence: IntegerColumn,
    user_id: TextColumn,
    session_id: TextColumn,
    promoted: Promoted,
    /// The payload's JSON, if it may contain a promoted column.
    payload: Vec<u8>,
}

impl RowGroup {
    /// `seed` makes the hashes of dictionary values unpredictable.
    pub(crate) fn new(seed: u64, columns: &PromotedColumns) -> Self {
        Self {
            rows: 0,
            present: Vec::new(),
            seed,
            id: TextColumn::new(true, true),
            device_id: TextColumn::new(true, true),
            timestamp_ms: IntegerColumn::int64(),
            correlation_id: TextColumn::new(true, false),
            kind: KindColumns::new(),
            device: DeviceColumns::new(),
            payload_json: TextColumn::new(false, false),
            received_at_ms: IntegerColumn::int64(),
            idempotency_key: TextColumn::new(true, false),
            stream_sequence: IntegerColumn::int64(),
            user_id: TextColumn::new(true, true),
            session_id: TextColumn::new(true, false),
            promoted: Promoted::new(columns),
            payload: Vec::new(),
        }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn push(
        &mut self,
        event: &EventRef<'_>,
        origin: Origin,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let seed = self.seed;
        self.id.push(event.id, compressor)?;
        self.device_id.push(event.device_id, compressor)?;
        self.timestamp_ms.push(event.timestamp_ms);
        self.correlation_id.push(event.correlation_id, compressor)?;
        self.kind.push(event, seed);
        if event.device_bytes.is_some() {
            self.device.push(event, seed);
        }
        self.present.push(u16::from(event.device_bytes.is_some()));
        if self.promoted.columns().are_of(event.kind.field) {
            self.payload.clear();
            event.write_payload_json(&mut self.payload);
            self.promoted.push(event.kind.field, &self.payload, seed);
            self.payload_json.push_with(|out| out.extend_from_slice(&self.payload), compressor)?;
        } else {
            self.promoted.push("", &[], seed);
            self.payload_json.push_with(|out| event.write_payload_json(out), compressor)?;
        }
        self.received_at_ms.push(origin.received_at_ms);
        self.idempotency_key.push(event.idempotency_key, compressor)?;
        self.stream_sequence.push(origin.sequence as i64);
        self.user_id.push(event.user_id, compressor)?;
        self.session_id.push(event.session_id, compressor)?;
        self.row_done(compressor)
    }

    pub(crate) fn push_stored(
        &mut self,
        row: &StoredRow<'_>,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let seed = self.seed;
        self.id.push(row.id, compressor)?;
        self.device_id.push(row.device_id, compressor)?;
        self.timestamp_ms.push(row.timestamp_ms);
        self.correlation_id.push(row.correlation_id, compressor)?;
        self.kind.push_texts(row.event_category, row.event_type, seed);
        match &row.device {
            None => {}
            Some(RowDevice::Read(device)) => self.device.push_plain(device.texts, device.plain, seed),
            Some(RowDevice::Packed(packed)) => self.device.push_packed(packed, seed)?,
        }
        self.present.push(u16::from(row.device.is_some()));
        self.payload_json.push_with(|out| out.extend_from_slice(row.payload_json.as_bytes()), compressor)?;
        if !self.promoted.columns().is_empty() {
            self.promoted.push(field_of(row), row.payload_json.as_bytes(), seed);
        }
        self.received_at_ms.push(row.received_at_ms);
        self.idempotency_key.push(row.idempotency_key, compressor)?;
        self.stream_sequence.push(row.stream_sequence);
        self.user_id.push(row.user_id, compressor)?;
        self.session_id.push(row.session_id, compressor)?;
        self.row_done(compressor)
    }

    fn row_done(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.rows += 1;
        if self.present.len() == PAGE_ROWS_MAX { self.close_page(compressor) } else { Ok(()) }
    }

    /// Closes the open page early if unusually long values have made it large.
    pub(crate) fn relieve(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let heavy = self.kind.is_heavy()
            || self.promoted.is_heavy()
            || self.device.dictionaries().iter().any(|column| column.is_heavy());
        if heavy && !self.present.is_empty() { self.close_page(compressor) } else { Ok(()) }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let texts = self.texts().iter().map(|column| column.memory_bytes()).sum::<usize>();
        let integers = [&self.timestamp_ms, &self.received_at_ms, &self.stream_sequence];
        let integers = integers.iter().map(|column| column.memory_bytes()).sum::<usize>();
        size_of::<Self>()
            + self.present.capacity() * 2
            + texts
            + integers
            + self.kind.memory_bytes()
            + self.device.memory_bytes()
            + self.promoted.memory_bytes()
            + self.payload.capacity()
    }

    /// Roughly the bytes that the group would add to the file if it closed now.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let texts = self.texts().iter().map(|column| column.encoded_bytes()).sum::<usize>();
        let integers = [&self.timestamp_ms, &self.received_at_ms, &self.stream_sequence];
        let integers = integers.iter().map(|column| column.encoded_bytes()).sum::<usize>();
        texts + integers + self.kind.encoded_bytes() + self.device.encoded_bytes() + self.promoted.encoded_bytes()
    }

    pub(crate) fn append_to<W: Write + Send>(
        mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
        schema: &SchemaDescPtr,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        if !self.present.is_empty() {
            self.close_page(compressor)?;
        }
        let mut chunks = Vec::with_capacity(schema.num_columns());
        chunks.push(self.id.close(compressor)?);
        chunks.push(self.device_id.close(compressor)?);
        chunks.push(self.timestamp_ms.close());
        chunks.push(self.correlation_id.close(compressor)?);
        self.kind.close_into(&mut chunks, compressor)?;
        self.device.close_into(&mut chunks, compressor)?;
        chunks.push(self.payload_json.close(compressor)?);
        chunks.push(self.received_at_ms.close());
        chunks.push(self.idempotency_key.close(compressor)?);
        chunks.push(self.stream_sequence.close());
        chunks.push(self.user_id.close(compressor)?);
        chunks.push(self.session_id.close(compressor)?);
        self.promoted.close_into(&mut chunks, compressor)?;
        let append = |(chunk, column): (Chunk, _)| chunk.append_to(group, column, compressor);
        let appended: Result<(), ParquetError> = chunks.into_iter().zip(schema.columns()).try_for_each(append);
        appended.map_err(WarehouseError::encode)
    }

    fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let rows = self.present.len();
        let levels = definition_levels(&self.present);
        self.present.clear();
        for column in [&mut self.timestamp_ms, &mut self.received_at_ms, &mut self.stream_sequence] {
            column.close_page(&[], rows, compressor)?;
        }
        self.kind.close_page(rows, compressor)?;
        self.promoted.close_page(compressor)?;
        self.device.close_page(&levels, rows, compressor)
    }

    fn texts(&self) -> [&TextColumn; 7] {
        [
            &self.id,
            &self.device_id,
            &self.correlation_id,
            &self.payload_json,
            &self.idempotency_key,
            &self.user_id,
            &self.session_id,
        ]
    }
}

/// The payload's field in the envelope; empty for an unknown kind.
fn field_of(row: &StoredRow<'_>) -> &'static str {
    Kind::named(row.event_category, row.event_type).map_or("", |kind| kind.field)
}
