//! The open row group: all columns of the schema, filled one event at a time.

use std::io::Write;

use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::SchemaDescPtr;

use super::device::{DeviceColumns, RowDevice};
use super::kind::KindColumns;
use super::origin::Origin;
use super::promoted::PromotedColumns;
use super::promoted_values::Promoted;
use super::row::StoredRow;
use super::table::{self, COLUMNS, Column, Kind as ColumnKind, NUMBERS, TEXTS, Values};
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
    texts: [TextColumn; TEXTS],
    numbers: [IntegerColumn; NUMBERS],
    kind: KindColumns,
    device: DeviceColumns,
    payload_json: TextColumn,
    promoted: Promoted,
    /// The payload's JSON, if it may contain a promoted column.
    payload: Vec<u8>,
}

impl RowGroup {
    /// `seed` makes the hashes of dictionary values unpredictable.
    pub(crate) fn new(seed: u64, columns: &PromotedColumns) -> Self {
        let mut options = table::of_kind(ColumnKind::Text).map(|column| column.options);
        let texts = std::array::from_fn(|_| {
            let options = options.next();
            TextColumn::new(options.is_some_and(|o| o.bounds), options.is_some_and(|o| o.bloom))
        });
        Self {
            rows: 0,
            present: Vec::new(),
            seed,
            texts,
            numbers: std::array::from_fn(|_| IntegerColumn::int64()),
            kind: KindColumns::new(),
            device: DeviceColumns::new(),
            payload_json: TextColumn::new(false, false),
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
        self.push_values(&table::values(event, origin), compressor)?;
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
        self.row_done(compressor)
    }

    pub(crate) fn push_stored(
        &mut self,
        row: &StoredRow<'_>,
        compressor: &mut Compressor,
    ) -> Result<(), WarehouseError> {
        let seed = self.seed;
        self.push_values(&row.values, compressor)?;
        self.kind.push_texts(row.event_category, row.event_type, seed);
        match &row.device {
            None => {}
            Some(RowDevice::Read(device)) => self.device.push_values(*device, seed),
            Some(RowDevice::Packed(packed)) => self.device.push_packed(packed, seed)?,
        }
        self.present.push(u16::from(row.device.is_some()));
        self.payload_json.push_with(|out| out.extend_from_slice(row.payload_json.as_bytes()), compressor)?;
        if !self.promoted.columns().is_empty() {
            self.promoted.push(field_of(row), row.payload_json.as_bytes(), seed);
        }
        self.row_done(compressor)
    }

    #[inline]
    fn push_values(&mut self, values: &Values<'_>, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        for (column, text) in self.texts.iter_mut().zip(values.texts) {
            column.push(text, compressor)?;
        }
        for (column, number) in self.numbers.iter_mut().zip(values.numbers) {
            column.push(number);
        }
        Ok(())
    }

    fn row_done(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        self.rows += 1;
        if self.present.len() == PAGE_ROWS_MAX { self.close_page(compressor) } else { Ok(()) }
    }

    /// Closes the open page early if unusually long values have made it large.
    pub(crate) fn relieve(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let heavy = self.kind.is_heavy() || self.promoted.is_heavy() || self.device.is_heavy();
        if heavy && !self.present.is_empty() { self.close_page(compressor) } else { Ok(()) }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let texts = self.texts.iter().map(TextColumn::memory_bytes).sum::<usize>() + self.payload_json.memory_bytes();
        let numbers = self.numbers.iter().map(IntegerColumn::memory_bytes).sum::<usize>();
        size_of::<Self>()
            + self.present.capacity() * 2
            + texts
            + numbers
            + self.kind.memory_bytes()
            + self.device.memory_bytes()
            + self.promoted.memory_bytes()
            + self.payload.capacity()
    }

    /// Roughly the bytes that the group would add to the file if it closed now.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let texts = self.texts.iter().map(TextColumn::encoded_bytes).sum::<usize>() + self.payload_json.encoded_bytes();
        let numbers = self.numbers.iter().map(IntegerColumn::encoded_bytes).sum::<usize>();
        texts + numbers + self.kind.encoded_bytes() + self.device.encoded_bytes() + self.promoted.encoded_bytes()
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
        let texts = self.texts.into_iter().map(|column| column.close(compressor)).collect::<Result<Vec<_>, _>>()?;
        let (mut texts, mut numbers) = (texts.into_iter(), self.numbers.into_iter().map(IntegerColumn::close));
        let (category, event_type) = self.kind.close(compressor)?;
        let (mut category, mut event_type) = (Some(category), Some(event_type));
        let mut device = self.device.close(compressor)?;
        let mut payload = Some(self.payload_json.close(compressor)?);
        let next = |column: &Column| match column.kind {
            ColumnKind::Text => texts.next(),
            ColumnKind::Number => numbers.next(),
            ColumnKind::Category => category.take(),
            ColumnKind::EventType => event_type.take(),
            ColumnKind::Payload => payload.take(),
            ColumnKind::DeviceText => device.texts.next(),
            ColumnKind::DeviceNumber => device.numbers.next(),
            ColumnKind::DeviceFlag => device.flags.next(),
        };
        let mut chunks: Vec<Chunk> = COLUMNS.iter().filter_map(next).collect();
        self.promoted.close_into(&mut chunks, compressor)?;
        let append = |(chunk, column): (Chunk, _)| chunk.append_to(group, column, compressor);
        let appended: Result<(), ParquetError> = chunks.into_iter().zip(schema.columns()).try_for_each(append);
        appended.map_err(WarehouseError::encode)
    }

    fn close_page(&mut self, compressor: &mut Compressor) -> Result<(), WarehouseError> {
        let rows = self.present.len();
        let levels = definition_levels(&self.present);
        self.present.clear();
        self.numbers.iter_mut().try_for_each(|column| column.close_page(&[], rows, compressor))?;
        self.kind.close_page(rows, compressor)?;
        self.promoted.close_page(compressor)?;
        self.device.close_page(&levels, rows, compressor)
    }
}

/// The payload's field in the envelope; empty for an unknown kind.
fn field_of(row: &StoredRow<'_>) -> &'static str {
    Kind::named(row.event_category, row.event_type).map_or("", |kind| kind.field)
}
