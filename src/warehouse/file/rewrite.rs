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
use crate::warehouse::columns::device::{DEVICE_TEXTS, PlainDevice, RowDevice, StoredDevice};
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::columns::row::StoredRow;
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
                sequences.push(row.stream_sequence as u64);
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

/// The columns of one batch.
pub(crate) struct StoredColumns<'b> {
    id: &'b StringArray,
    device_id: &'b StringArray,
    timestamp_ms: &'b Int64Array,
    correlation_id: &'b StringArray,
    event_category: &'b StringArray,
    event_type: &'b StringArray,
    device_texts: [&'b StringArray; DEVICE_TEXTS],
    screen_width: &'b Int32Array,
    screen_height: &'b Int32Array,
    is_jailbroken: &'b BooleanArray,
    is_emulator: &'b BooleanArray,
    payload_json: &'b StringArray,
    received_at_ms: &'b Int64Array,
    idempotency_key: &'b StringArray,
    stream_sequence: &'b Int64Array,
    user_id: &'b StringArray,
    session_id: &'b StringArray,
}

/// In the order of [`StoredDevice::texts`].
const DEVICE_TEXT_NAMES: [&str; DEVICE_TEXTS] = [
    "platform",
    "os_version",
    "app_version",
    "build_number",
    "device_model",
    "manufacturer",
    "locale",
    "timezone",
    "network_type",
    "carrier",
    "sdk_version",
];

impl<'b> StoredColumns<'b> {
    pub(crate) fn of(batch: &'b RecordBatch) -> Result<Self, WarehouseError> {
        let find = |name: &str| batch.column_by_name(name);
        let wrong = || malformed("find the file's columns");
        let text = |name: &str| find(name).and_then(|column| column.as_string_opt::<i32>()).ok_or_else(wrong);
        let long = |name: &str| find(name).and_then(|column| column.as_primitive_opt::<Int64Type>()).ok_or_else(wrong);
        let short = |name: &str| find(name).and_then(|column| column.as_primitive_opt::<Int32Type>()).ok_or_else(wrong);
        let truth = |name: &str| find(name).and_then(|column| column.as_boolean_opt()).ok_or_else(wrong);
        let id = text("id")?;
        let mut device_texts = [id; DEVICE_TEXTS];
        for (column, name) in device_texts.iter_mut().zip(DEVICE_TEXT_NAMES) {
            *column = text(name)?;
        }
        Ok(Self {
            id,
            device_id: text("device_id")?,
            timestamp_ms: long("timestamp_ms")?,
            correlation_id: text("correlation_id")?,
            event_category: text("event_category")?,
            event_type: text("event_type")?,
            device_texts,
            screen_width: short("screen_width")?,
            screen_height: short("screen_height")?,
            is_jailbroken: truth("is_jailbroken")?,
            is_emulator: truth("is_emulator")?,
            payload_json: text("payload_json")?,
            received_at_ms: long("received_at_ms")?,
            idempotency_key: text("idempotency_key")?,
            stream_sequence: long("stream_sequence")?,
            user_id: text("user_id")?,
            session_id: text("session_id")?,
        })
    }

    pub(crate) fn row(&self, row: usize) -> StoredRow<'b> {
        // Either all columns of a device context are present, or none.
        let device = self.device_texts[0].is_valid(row).then(|| {
            RowDevice::Read(StoredDevice {
                texts: self.device_texts.map(|column| column.value(row)),
                plain: PlainDevice {
                    screen_width: self.screen_width.value(row),
                    screen_height: self.screen_height.value(row),
                    is_jailbroken: self.is_jailbroken.value(row),
                    is_emulator: self.is_emulator.value(row),
                },
            })
        });
        StoredRow {
            id: self.id.value(row),
            device_id: self.device_id.value(row),
            timestamp_ms: self.timestamp_ms.value(row),
            correlation_id: self.correlation_id.value(row),
            event_category: self.event_category.value(row),
            event_type: self.event_type.value(row),
            device,
            payload_json: self.payload_json.value(row),
            received_at_ms: self.received_at_ms.value(row),
            idempotency_key: self.idempotency_key.value(row),
            stream_sequence: self.stream_sequence.value(row),
            user_id: self.user_id.value(row),
            session_id: self.session_id.value(row),
        }
    }
}
