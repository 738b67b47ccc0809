//! The plain alternative to the encoder: Arrow builders and the `parquet` crate's `ArrowWriter`, with the same columns,
//! codec, page size, statistics and Bloom filters.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, Int32Builder, Int64Builder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use causality::event::EventRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// Rows that are gathered before they are handed to the writer.
const BATCH_ROWS: usize = 8_192;

const TEXTS: [&str; 20] = [
    "id",
    "device_id",
    "correlation_id",
    "event_category",
    "event_type",
    "payload_json",
    "idempotency_key",
    "user_id",
    "session_id",
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
const TIMES: [&str; 3] = ["timestamp_ms", "received_at_ms", "stream_sequence"];
const SIZES: [&str; 2] = ["screen_width", "screen_height"];
const FLAGS: [&str; 2] = ["is_jailbroken", "is_emulator"];

#[derive(Default)]
struct Builders {
    texts: [StringBuilder; TEXTS.len()],
    times: [Int64Builder; TIMES.len()],
    sizes: [Int32Builder; SIZES.len()],
    flags: [BooleanBuilder; FLAGS.len()],
    json: Vec<u8>,
}

impl Builders {
    fn push(&mut self, event: &EventRef<'_>, sequence: u64, received_at_ms: i64) {
        self.json.clear();
        event.write_payload_json(&mut self.json);
        let json = std::str::from_utf8(&self.json).expect("JSON is UTF-8");
        let event_type = event.event_type();
        let texts = [
            event.id,
            event.device_id,
            event.correlation_id,
            event.category(),
            &event_type,
            json,
            event.idempotency_key,
            event.user_id,
            event.session_id,
        ];
        for (builder, text) in self.texts.iter_mut().zip(texts) {
            builder.append_value(text);
        }
        for (builder, number) in self.times.iter_mut().zip([event.timestamp_ms, received_at_ms, sequence as i64]) {
            builder.append_value(number);
        }
        let of_device = &mut self.texts[texts.len()..];
        let Some(device) = event.device() else {
            of_device.iter_mut().for_each(StringBuilder::append_null);
            self.sizes.iter_mut().for_each(Int32Builder::append_null);
            self.flags.iter_mut().for_each(BooleanBuilder::append_null);
            return;
        };
        let (platform, network) = (device.platform_name(), device.network_type_name());
        let texts = [
            &*platform,
            device.os_version,
            device.app_version,
            device.build_number,
            device.device_model,
            device.manufacturer,
            device.locale,
            device.timezone,
            &*network,
            device.carrier,
            device.sdk_version,
        ];
        of_device.iter_mut().zip(texts).for_each(|(builder, text)| builder.append_value(text));
        for (builder, size) in self.sizes.iter_mut().zip([device.screen_width, device.screen_height]) {
            builder.append_value(size);
        }
        for (builder, flag) in self.flags.iter_mut().zip([device.is_jailbroken, device.is_emulator]) {
            builder.append_value(flag);
        }
    }

    fn finish(&mut self, schema: &Arc<Schema>) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(schema.fields().len());
        columns.extend(self.texts.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.extend(self.times.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.extend(self.sizes.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.extend(self.flags.iter_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
    }
}

fn schema() -> Arc<Schema> {
    let field = |name: &&str, of: DataType| Field::new(*name, of, true);
    let mut fields: Vec<Field> = TEXTS.iter().map(|name| field(name, DataType::Utf8)).collect();
    fields.extend(TIMES.iter().map(|name| field(name, DataType::Int64)));
    fields.extend(SIZES.iter().map(|name| field(name, DataType::Int32)));
    fields.extend(FLAGS.iter().map(|name| field(name, DataType::Boolean)));
    Arc::new(Schema::new(fields))
}

/// The bytes of a file with these events.
pub(crate) fn encode(events: &[Vec<u8>], received_at_ms: i64) -> usize {
    let schema = schema();
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(1_000_000));
    // The encoder has dictionaries for the same columns: others hardly repeat.
    let distinct = ["id", "device_id", "correlation_id", "payload_json", "idempotency_key", "user_id", "session_id"];
    for name in distinct.into_iter().chain(TIMES) {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(name), false);
    }
    for name in ["id", "device_id", "user_id"] {
        let path = ColumnPath::from(name);
        properties = properties
            .set_column_bloom_filter_enabled(path.clone(), true)
            .set_column_bloom_filter_max_ndv(path, events.len() as u64);
    }
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties.build())).expect("writer");
    let mut builders = Builders::default();
    for (n, event) in events.iter().enumerate() {
        builders.push(&EventRef::decode_admitted(event).expect("decode"), n as u64 + 1, received_at_ms);
        if (n + 1) % BATCH_ROWS == 0 {
            writer.write(&builders.finish(&schema)).expect("write");
        }
    }
    writer.write(&builders.finish(&schema)).expect("write");
    writer.into_inner().expect("finish").len()
}
