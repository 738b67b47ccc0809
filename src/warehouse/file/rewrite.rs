//! Rewrites a stored file with a subset of its rows.
//!
//! The rows pass through the same columns as when first written, so that encodings, statistics and filters are
//! like those of any other file. Knows one file, nothing of why rows are dropped.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;

use super::encode::{EncodeSettings, Encoder};
use super::footer;
use crate::warehouse::columns::device::RowDevice;
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::table::{
    self, DEVICE_FLAGS, DEVICE_NUMBERS, DEVICE_TEXTS, DeviceValues, Kind, NUMBERS, TEXTS, Values,
};
use crate::warehouse::error::{WarehouseError, WarehouseErrorKind};
use crate::warehouse::pages::compression::Compression;

const CONTEXT: &str = "read rows of file";

/// Rewrites `file`, which belongs to `app_id`, with the rows that `kept` marks, in file order.
pub(crate) fn keep_rows(
    file: &Bytes,
    app_id: &str,
    columns: &PromotedColumns,
    kept: &[bool],
) -> Result<Bytes, WarehouseError> {
    let parquet = |error| WarehouseError::parquet(CONTEXT, error);
    let metadata = Arc::new(footer::read(file)?);
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(parquet)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata);
    let mut encoder = Encoder::new(settings_of(builder.metadata())?)?.promoting(columns);
    let mut out = encoder.open(app_id);
    let mut sequences = Vec::new();
    let mut kept = kept.iter();
    for batch in builder.build().map_err(parquet)? {
        let batch = batch.map_err(|error| WarehouseError::caused(WarehouseErrorKind::Corrupt, CONTEXT, error))?;
        let columns = StoredColumns::of(&batch)?;
        for row in 0..batch.num_rows() {
            if kept.next().is_some_and(|kept| *kept) {
                let row = columns.row(row);
                sequences.push(row.stream_sequence() as u64);
                encoder.push_stored(&mut out, &row)?;
            }
        }
    }
    if kept.next().is_some() {
        return Err(malformed("find all rows of the file"));
    }
    encoder.finish(out, sequences.into_iter())
}

/// The settings that the file was written with.
fn settings_of(metadata: &ParquetMetaData) -> Result<EncodeSettings, WarehouseError> {
    let codec = metadata.row_groups().first().map(|group| group.column(0).compression());
    let compression = codec.and_then(Compression::of_codec).ok_or_else(|| malformed("find the file's codec"))?;
    let stream = footer::entry(metadata, footer::STREAM_KEY).ok_or_else(|| malformed("find the file's stream"))?;
    let rows_max = metadata.row_groups().iter().map(|group| group.num_rows()).max().unwrap_or_default();
    Ok(EncodeSettings { compression, row_group_rows_max: rows_max.max(1) as usize, stream: stream.to_owned() })
}

fn malformed(context: &'static str) -> WarehouseError {
    WarehouseError::new(WarehouseErrorKind::Corrupt, context)
}

/// The columns of one batch. Files of other versions may lack some; their values are empty.
pub(crate) struct StoredColumns<'b> {
    texts: [Option<&'b StringArray>; TEXTS],
    numbers: [Option<&'b Int64Array>; NUMBERS],
    event_category: &'b StringArray,
    event_type: &'b StringArray,
    payload_json: &'b StringArray,
    device_texts: [Option<&'b StringArray>; DEVICE_TEXTS],
    device_numbers: [Option<&'b Int32Array>; DEVICE_NUMBERS],
    device_flags: [Option<&'b BooleanArray>; DEVICE_FLAGS],
}

impl<'b> StoredColumns<'b> {
    pub(crate) fn of(batch: &'b RecordBatch) -> Result<Self, WarehouseError> {
        Ok(Self {
            texts: find_all(batch, Kind::Text, |array| array.as_string_opt())?,
            numbers: find_all(batch, Kind::Number, |array| array.as_primitive_opt::<Int64Type>())?,
            event_category: find_one(batch, Kind::Category)?,
            event_type: find_one(batch, Kind::EventType)?,
            payload_json: find_one(batch, Kind::Payload)?,
            device_texts: find_all(batch, Kind::DeviceText, |array| array.as_string_opt())?,
            device_numbers: find_all(batch, Kind::DeviceNumber, |array| array.as_primitive_opt::<Int32Type>())?,
            device_flags: find_all(batch, Kind::DeviceFlag, |array| array.as_boolean_opt())?,
        })
    }

    pub(crate) fn row(&self, row: usize) -> StoredRow<'b> {
        let text = |column: Option<&'b StringArray>| column.map_or("", |column| column.value(row));
        // Either all columns of a device context are present, or none.
        let device = self.device_texts.iter().flatten().next().is_some_and(|column| column.is_valid(row)).then(|| {
            RowDevice::Read(DeviceValues {
                texts: self.device_texts.map(text),
                numbers: self.device_numbers.map(|column| column.map_or(0, |column| column.value(row))),
                flags: self.device_flags.map(|column| column.is_some_and(|column| column.value(row))),
            })
        });
        StoredRow {
            values: Values {
                texts: self.texts.map(text),
                numbers: self.numbers.map(|column| column.map_or(0, |column| column.value(row))),
            },
            event_category: self.event_category.value(row),
            event_type: self.event_type.value(row),
            payload_json: self.payload_json.value(row),
            device,
        }
    }
}

/// The arrays of the columns of one kind, in table order.
fn find_all<'b, A, const N: usize>(
    batch: &'b RecordBatch,
    kind: Kind,
    typed: impl Fn(&'b dyn Array) -> Option<&'b A>,
) -> Result<[Option<&'b A>; N], WarehouseError> {
    let mut found = [None; N];
    for (place, column) in found.iter_mut().zip(table::of_kind(kind)) {
        *place = match batch.column_by_name(column.name) {
            Some(array) => Some(typed(array).ok_or_else(|| malformed("read the file's columns"))?),
            None if column.options.mandatory => return Err(malformed("find the file's columns")),
            None => None,
        };
    }
    Ok(found)
}

fn find_one(batch: &RecordBatch, kind: Kind) -> Result<&StringArray, WarehouseError> {
    let [column] = find_all(batch, kind, |array| array.as_string_opt())?;
    column.ok_or_else(|| malformed("find the file's columns"))
}
