//! Converts CSV and Parquet rows to JSON lines. Each column is a field of the event, named by its dotted JSON path, such
//! as `deviceContext.platform`.

use std::fs::File;
use std::io::{BufRead, Read};
use std::vec::IntoIter;

use anyhow::{Context as _, Result, anyhow, bail};
use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_schema::{DataType, TimeUnit};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, Length};
use serde_json::{Map, Value};

use super::bytes_read::{BytesRead, counted};
use super::chunk::SourceRow;
use super::settings::Settings;
use crate::event::{FieldType, Kind, field_type};

/// Rows of a Parquet file decoded per batch.
const BATCH_ROWS: usize = 1_024;
/// Columns of a lake's file that belong to the stream and not to the event.
const OF_THE_STREAM: [&str; 2] = ["received_at_ms", "stream_sequence"];
/// Columns of a lake's file that name the kind of its `payload_json`.
const KIND: [&str; 2] = ["event_category", "event_type"];
const PAYLOAD: &str = "payload_json";
/// Partition columns of a lake's path.
const OF_THE_PATH: [&str; 4] = ["year", "month", "day", "hour"];

/// Where a column's values go.
enum Target {
    Field { path: Vec<String>, holds: FieldType, is_time: bool },
    Category,
    Type,
    Payload,
    Ignored,
}

/// The columns of a table.
struct Columns(Vec<Target>);

impl Columns {
    fn of<'n>(names: impl Iterator<Item = &'n str>, settings: &Settings) -> Result<Self> {
        let names: Vec<&str> = names.collect();
        if let Some((name, _)) = settings.columns.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            bail!("--column names {name}, which the file does not have: its columns are {}", names.join(", "));
        }
        let is_lake = names.contains(&PAYLOAD);
        names.iter().map(|name| target(name, is_lake, settings)).collect::<Result<_>>().map(Self)
    }

    /// Writes the row as JSON. `value` returns a column's value, or `None` for an empty cell.
    fn write(&self, mut value: impl FnMut(usize) -> Result<Option<Cell>>, out: &mut Vec<u8>) -> Result<()> {
        let mut event = Map::new();
        let (mut category, mut event_type, mut payload) = (String::new(), String::new(), None);
        for (n, target) in self.0.iter().enumerate() {
            if matches!(target, Target::Ignored) {
                continue;
            }
            let Some(cell) = value(n)? else { continue };
            match target {
                Target::Field { path, holds, is_time } => put(&mut event, path, cell.into_value(*holds, *is_time)),
                Target::Category => category = cell.into_text(),
                Target::Type => event_type = cell.into_text(),
                Target::Payload => payload = Some(cell.into_value(FieldType::Json, false)),
                Target::Ignored => {}
            }
        }
        if let Some(payload) = payload {
            // An unknown kind is rejected by validation, which names it.
            let field = Kind::named(&category, &event_type).map_or(event_type.as_str(), |kind| kind.json_name);
            event.insert(field.to_owned(), payload);
        }
        serde_json::to_writer(&mut *out, &event)?;
        out.push(b'\n');
        Ok(())
    }
}

fn target(name: &str, is_lake: bool, settings: &Settings) -> Result<Target> {
    let named = settings.columns.iter().find(|(column, _)| column == name).map(|(_, field)| field.as_deref());
    let field = match named {
        Some(None) => return Ok(Target::Ignored),
        Some(Some(field)) => field,
        None if is_lake && name == PAYLOAD => return Ok(Target::Payload),
        None if is_lake && name == KIND[0] => return Ok(Target::Category),
        None if is_lake && name == KIND[1] => return Ok(Target::Type),
        None if is_lake && (OF_THE_STREAM.contains(&name) || OF_THE_PATH.contains(&name)) => {
            return Ok(Target::Ignored);
        }
        None => name,
    };
    let path: Vec<&str> = field.split('.').collect();
    let of_device = ["deviceContext", field];
    let (path, holds) = match field_type(&path) {
        Some(holds) => (path, holds),
        None if is_lake && named.is_none() => match field_type(&of_device) {
            Some(holds) => (of_device.to_vec(), holds),
            None => return Err(unknown(name, field)),
        },
        None => return Err(unknown(name, field)),
    };
    let is_time = matches!(path.as_slice(), ["timestampMs" | "timestamp_ms"]);
    Ok(Target::Field { path: path.into_iter().map(str::to_owned).collect(), holds, is_time })
}

fn unknown(column: &str, field: &str) -> anyhow::Error {
    anyhow!(
        "column {column}: an event has no field {field}; say where it goes, such as \
         --column {column}=customEvent.properties.{column}, or leave it out with --column {column}="
    )
}

fn put(event: &mut Map<String, Value>, path: &[String], value: Value) {
    let Some((last, before)) = path.split_last() else { return };
    let mut object = event;
    for name in before {
        let inner = object.entry(name.clone()).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(inner) = inner else { return };
        object = inner;
    }
    object.insert(last.clone(), value);
}

/// A cell before conversion to the type of its field.
enum Cell {
    Text(String),
    Value(Value),
    /// Milliseconds since the Unix epoch.
    Time(i64),
}

impl Cell {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Value(value) => value.to_string(),
            Self::Time(ms) => Timestamp::from_millisecond(ms).map_or_else(|_| ms.to_string(), |at| at.to_string()),
        }
    }

    fn into_value(self, holds: FieldType, is_time: bool) -> Value {
        match (self, holds) {
            (Self::Text(text), FieldType::Number) if is_time => time_ms(&text).map_or(Value::String(text), Value::from),
            // A value of the wrong type is rejected by validation, along with the row's other faults.
            (Self::Text(text), FieldType::Number | FieldType::Bool | FieldType::Json) => {
                serde_json::from_str(&text).unwrap_or(Value::String(text))
            }
            (Self::Time(ms), FieldType::Number) => ms.into(),
            (Self::Value(value), FieldType::Number | FieldType::Bool | FieldType::Json) => value,
            (cell, _) => Value::String(cell.into_text()),
        }
    }
}

/// Parses milliseconds or a date and time. A time without an offset is UTC.
fn time_ms(text: &str) -> Option<i64> {
    let text = text.trim();
    if let Ok(ms) = text.parse() {
        return Some(ms);
    }
    let at = text.parse::<Timestamp>().ok();
    let at = at.or_else(|| text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp()));
    at.map(Timestamp::as_millisecond)
}

pub(super) struct CsvRows {
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    columns: Columns,
    record: csv::ByteRecord,
}

impl CsvRows {
    pub(super) fn open(text: Box<dyn BufRead + Send>, settings: &Settings) -> Result<Self> {
        // A row with too few or too many cells is a fault of that row alone.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(text);
        let columns = Columns::of(reader.headers()?.iter().map(str::trim), settings)?;
        Ok(Self { reader, columns, record: csv::ByteRecord::new() })
    }

    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<SourceRow>> {
        if !self.reader.read_byte_record(&mut self.record)? {
            return Ok(None);
        }
        let (record, mut next) = (&self.record, SourceRow::default());
        if record.len() > self.columns.0.len() {
            next.fault = Some("has more cells than the header");
        }
        let mut text = |cell: &[u8]| {
            if std::str::from_utf8(cell).is_err() {
                next.fault = Some("is not UTF-8");
            }
            Cell::Text(String::from_utf8_lossy(cell).into_owned())
        };
        let cell = |n| Ok(record.get(n).filter(|cell| !cell.is_empty()).map(&mut text));
        self.columns.write(cell, out)?;
        Ok(Some(next))
    }
}

/// A file that counts the bytes read from it.
struct CountedFile(File, BytesRead);

impl Length for CountedFile {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for CountedFile {
    type T = Box<dyn Read + Send>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(Box::new(counted(self.0.get_read(start)?, self.1.clone())))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<bytes::Bytes, ParquetError> {
        self.1.add(length as u64);
        self.0.get_bytes(start, length)
    }
}

pub(super) struct ParquetRows {
    batches: ParquetRecordBatchReader,
    columns: Columns,
    batch: IntoIter<Vec<u8>>,
}

impl ParquetRows {
    pub(super) fn open(file: File, settings: &Settings, bytes_read: BytesRead) -> Result<Self> {
        // Ignoring the embedded Arrow schema reads dictionaries as plain text.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let file = CountedFile(file, bytes_read);
        let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file, options)?;
        let fields = builder.schema().fields().clone();
        let columns = Columns::of(fields.iter().map(|field| field.name().as_str()), settings)?;
        for (field, target) in fields.iter().zip(&columns.0) {
            if !matches!(target, Target::Ignored) && !is_readable(field.data_type()) {
                bail!(
                    "column {}: values of type {} are not read; leave it out with --column {}=",
                    field.name(),
                    field.data_type(),
                    field.name()
                );
            }
        }
        let batches = builder.with_batch_size(BATCH_ROWS).build()?;
        Ok(Self { batches, columns, batch: Vec::new().into_iter() })
    }

    pub(super) fn next(&mut self, out: &mut Vec<u8>) -> Result<Option<SourceRow>> {
        loop {
            if let Some(line) = self.batch.next() {
                out.extend_from_slice(&line);
                return Ok(Some(SourceRow::default()));
            }
            let Some(batch) = self.batches.next() else { return Ok(None) };
            self.batch = self.lines(&batch.context("damaged Parquet")?)?.into_iter();
        }
    }

    fn lines(&self, batch: &RecordBatch) -> Result<Vec<Vec<u8>>> {
        let line = |row| {
            let mut line = Vec::with_capacity(512);
            self.columns.write(|column| cell(batch.column(column), row), &mut line)?;
            Ok(line)
        };
        (0..batch.num_rows()).map(line).collect()
    }
}

fn is_readable(kind: &DataType) -> bool {
    use DataType::*;
    kind.is_integer()
        || matches!(kind, Utf8 | LargeUtf8 | Utf8View | Boolean | Float32 | Float64 | Timestamp(..) | Date32 | Null)
}

fn cell(column: &ArrayRef, row: usize) -> Result<Option<Cell>> {
    if column.is_null(row) {
        return Ok(None);
    }
    macro_rules! number {
        ($kind:ty) => {
            Cell::Value(column.as_primitive::<$kind>().value(row).into())
        };
    }
    let text = |text: &str| Cell::Text(text.to_owned());
    Ok(Some(match column.data_type() {
        DataType::Utf8 => text(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(column.as_string::<i64>().value(row)),
        DataType::Utf8View => text(column.as_string_view().value(row)),
        DataType::Boolean => Cell::Value(column.as_boolean().value(row).into()),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Date32 => Cell::Time(i64::from(column.as_primitive::<Date32Type>().value(row)) * 86_400_000),
        DataType::Timestamp(unit, _) => Cell::Time(match unit {
            TimeUnit::Second => column.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1_000),
            TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().value(row),
            TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1_000),
            TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000_000),
        }),
        kind => bail!("values of type {kind} are not read"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_people_write() {
        for text in ["1767225600000", "2026-01-01T00:00:00Z", "2026-01-01 00:00:00", " 2026-01-01T01:00:00+01:00"] {
            assert_eq!(time_ms(text), Some(1_767_225_600_000), "{text}");
        }
        assert_eq!(time_ms("yesterday"), None);
    }

    #[test]
    fn a_cell_is_converted_to_the_type_of_its_field() {
        let value = |text: &str, holds| Cell::Text(text.to_owned()).into_value(holds, false).to_string();
        assert_eq!(value("12", FieldType::Text), "\"12\"");
        assert_eq!(value("12", FieldType::Json), "12");
        assert_eq!(value("012", FieldType::Json), "\"012\"");
        assert_eq!(value("true", FieldType::Bool), "true");
        assert_eq!(value("much", FieldType::Number), "\"much\"");
        assert_eq!(Cell::Value(7.into()).into_value(FieldType::Text, false), Value::from("7"));
        assert_eq!(Cell::Time(0).into_value(FieldType::Number, true), Value::from(0));
    }
}
