//! Encoded files are read back by the `parquet` crate, every column of every row.

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type};
use arrow_array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
};
use parquet::basic::{Encoding, PageType};
use parquet::file::metadata::PageIndexPolicy;
use parquet::file::properties::ReaderProperties;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::{ReadOptionsBuilder, SerializedFileReader};
use parquet::file::statistics::Statistics;
use prost::Message as _;

use crate::event::proto::EventEnvelope;
use crate::event::proto::event_envelope::Payload;
use crate::event::{EventRef, Kind, samples};
use crate::warehouse::columns::schema;
use crate::warehouse::file::{footer, rewrite};
use crate::warehouse::*;

fn encode(events: &[Vec<u8>], compression: Compression, row_group_rows_max: usize) -> Bytes {
    let settings = EncodeSettings { compression, row_group_rows_max, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(settings).unwrap();
    let mut file = encoder.open("shop");
    for (event, n) in events.iter().zip(1..) {
        let event = EventRef::decode(event).unwrap();
        encoder.push(&mut file, &event, origin(n)).unwrap();
    }
    assert_eq!(file.rows(), events.len());
    encoder.finish(file, 1..=events.len() as u64).unwrap()
}

fn origin(n: u64) -> Origin {
    Origin { sequence: n, received_at_ms: 1_767_225_600_000 + n as i64 }
}

/// One row's columns in schema order, as text.
fn expected(event: &EventRef<'_>, n: u64) -> Vec<Option<String>> {
    let mut payload = Vec::new();
    event.write_payload_json(&mut payload);
    let text = |text: &str| Some(text.to_owned());
    let device = |of: &dyn Fn(&crate::event::DeviceRef<'_>) -> String| event.device().as_ref().map(of);
    vec![
        text(event.id),
        text(event.device_id),
        Some(event.timestamp_ms.to_string()),
        text(event.correlation_id),
        text(event.category()),
        text(&event.event_type()),
        device(&|d| d.platform_name().into()),
        device(&|d| d.os_version.into()),
        device(&|d| d.app_version.into()),
        device(&|d| d.build_number.into()),
        device(&|d| d.device_model.into()),
        device(&|d| d.manufacturer.into()),
        device(&|d| d.screen_width.to_string()),
        device(&|d| d.screen_height.to_string()),
        device(&|d| d.locale.into()),
        device(&|d| d.timezone.into()),
        device(&|d| d.network_type_name().into()),
        device(&|d| d.carrier.into()),
        device(&|d| d.is_jailbroken.to_string()),
        device(&|d| d.is_emulator.to_string()),
        device(&|d| d.sdk_version.into()),
        Some(String::from_utf8(payload).unwrap()),
        Some(origin(n).received_at_ms.to_string()),
        text(event.idempotency_key),
        Some(n.to_string()),
        text(event.user_id),
        text(event.session_id),
    ]
}

fn cell(column: &dyn Array, row: usize) -> Option<String> {
    use arrow_schema::DataType::{Boolean, Int32, Int64, Utf8};
    column.is_valid(row).then(|| match column.data_type() {
        Utf8 => column.as_string::<i32>().value(row).to_owned(),
        Int32 => column.as_primitive::<Int32Type>().value(row).to_string(),
        Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        Boolean => column.as_boolean().value(row).to_string(),
        other => panic!("{other}"),
    })
}

fn assert_rows(batch: &RecordBatch, events: &[Vec<u8>], first: usize) {
    for row in 0..batch.num_rows() {
        let event = EventRef::decode(&events[first + row]).unwrap();
        let expected = expected(&event, (first + row + 1) as u64);
        let found: Vec<_> = batch.columns().iter().map(|column| cell(column, row)).collect();
        assert_eq!(found, expected, "row {}", first + row);
    }
}

fn assert_reads_back(file: Bytes, events: &[Vec<u8>]) {
    let mut first = 0;
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        assert_rows(&batch, events, first);
        first += batch.num_rows();
    }
    assert_eq!(first, events.len());
}

/// `per_kind` random events of each of the kinds, ids and devices made distinct.
fn events(per_kind: u8) -> Vec<Vec<u8>> {
    let mut events = Vec::new();
    for position in 0..Kind::all().len() {
        for n in 0..per_kind {
            let mut event = samples::event(position, [n + 1; 32]);
            event.id = format!("id-{position}-{n}");
            event.device_id = format!("device-{}", n / 2);
            events.push(event.encode_to_vec());
        }
    }
    events
}

#[test]
fn all_kinds_read_back_under_every_codec() {
    let events = events(12);
    assert!(events.len() >= 29 * 12);
    for compression in [Compression::Snappy, Compression::Gzip, Compression::Zstd, Compression::None] {
        assert_reads_back(encode(&events, compression, 100), &events);
    }
}

#[test]
fn many_pages_and_a_dictionary_that_overflows_read_back() {
    let mut event = samples::event(0, [7; 32]);
    let events: Vec<Vec<u8>> = (0..70_000)
        .map(|n: u32| {
            event.id = format!("{n:06}");
            event.device_context = (!n.is_multiple_of(3)).then(|| crate::event::proto::DeviceContext {
                platform: (n % 4) as i32,
                carrier: format!("carrier {}", n.wrapping_mul(2_654_435_761) % 60_000),
                os_version: if n < 30_000 { "1".into() } else { "2".into() },
                screen_width: n.wrapping_mul(2_654_435_761) as i32,
                is_emulator: n.is_multiple_of(7),
                ..Default::default()
            });
            event.timestamp_ms = i64::from(n.wrapping_mul(2_654_435_761)) << (n % 31);
            event.encode_to_vec()
        })
        .collect();
    let file = encode(&events, Compression::Snappy, 1_000_000);
    assert_reads_back(file.clone(), &events);

    let reader = SerializedFileReader::new(file.clone()).unwrap();
    let carrier = schema::schema().columns().iter().position(|column| column.name() == "carrier").unwrap();
    let pages: Vec<_> = reader.get_row_group(0).unwrap().get_column_page_reader(carrier).unwrap().collect();
    let pages: Vec<_> = pages.into_iter().map(|page| page.unwrap()).map(|p| (p.page_type(), p.encoding())).collect();
    assert_eq!(pages.first(), Some(&(PageType::DICTIONARY_PAGE, Encoding::PLAIN)));
    assert!(pages.contains(&(PageType::DATA_PAGE, Encoding::RLE_DICTIONARY)), "{pages:?}");
    assert!(pages.contains(&(PageType::DATA_PAGE, Encoding::PLAIN)), "{pages:?}");

    // Skipping rows goes through the offset index.
    let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
    let metadata = ArrowReaderMetadata::load(&file, options).unwrap();
    let selection = RowSelection::from(vec![RowSelector::skip(55_555), RowSelector::select(100)]);
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let batch = builder.with_row_selection(selection).build().unwrap().next().unwrap().unwrap();
    assert_eq!(batch.num_rows(), 100);
    assert_rows(&batch, &events, 55_555);
}

#[test]
fn repeated_devices_read_back_even_if_there_are_too_many_to_remember() {
    let mut event = samples::event(3, [9; 32]);
    let mut events = Vec::new();
    // Twice round more devices than are remembered, and a carrier that outgrows its dictionary
    // in the first page: contexts remembered until then must not be used afterwards.
    for n in 0..45_000u32 {
        event.id = format!("id-{n}");
        let device = event.device_context.get_or_insert_default();
        device.screen_width = (n % 6_000) as i32;
        device.os_version = format!("{}", n % 50);
        device.carrier = if n < 19_000 { format!("{:0>40}", n % 6_000) } else { "short".into() };
        device.is_emulator = n % 2 == 0;
        events.push(event.encode_to_vec());
    }
    assert_reads_back(encode(&events, Compression::Snappy, 60_000), &events);
    // Few devices, seen many times over several row groups.
    let few: Vec<_> = events[40_000..40_100].iter().cycle().take(5_000).cloned().collect();
    assert_reads_back(encode(&few, Compression::Snappy, 1_500), &few);
}

#[test]
fn footers_bounds_and_filters_are_correct() {
    let events = events(10);
    let file = encode(&events, Compression::Snappy, 50);
    let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
    let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
    let reader = SerializedFileReader::new_with_options(file, options).unwrap();
    let entries = reader.metadata().file_metadata().key_value_metadata().unwrap();
    let entry = |key: &str| entries.iter().find(|entry| entry.key == key).and_then(|entry| entry.value.clone());
    assert_eq!(entry("causality.format").as_deref(), Some("1"));
    assert_eq!(entry("causality.stream").as_deref(), Some("EVENTS"));
    let ranges = SequenceSet::decode(&entry("causality.sequences").unwrap()).unwrap();
    assert_eq!(ranges.iter().collect::<Vec<_>>(), [(1, events.len() as u64)]);

    for (g, rows) in events.chunks(50).enumerate() {
        let rows: Vec<EventRef<'_>> = rows.iter().map(|event| EventRef::decode(event).unwrap()).collect();
        let group = reader.get_row_group(g).unwrap();
        let (ids, times) = (group.metadata().column(0).statistics(), group.metadata().column(2).statistics());
        let (ids, times) = (ids.unwrap(), times.unwrap());
        assert_eq!(ids.min_bytes_opt(), rows.iter().map(|row| row.id.as_bytes()).min());
        assert_eq!(ids.max_bytes_opt(), rows.iter().map(|row| row.id.as_bytes()).max());
        let (min, max) = (rows.iter().map(|row| row.timestamp_ms).min(), rows.iter().map(|row| row.timestamp_ms).max());
        assert_eq!(*times, Statistics::int64(min, max, None, Some(0), false));
        for row in &rows {
            assert!(group.get_column_bloom_filter(0).unwrap().check(row.id));
            assert!(group.get_column_bloom_filter(1).unwrap().check(row.device_id));
            assert!(group.get_column_bloom_filter(25).unwrap().check(row.user_id));
        }
        assert!(group.get_column_bloom_filter(3).is_none());
    }
}

#[test]
fn a_file_with_fewer_rows_is_like_any_other() {
    let events = events(12);
    let kept: Vec<bool> = (0..events.len()).map(|n| n % 3 == 1 || n > 200).collect();
    for compression in [Compression::Snappy, Compression::Gzip, Compression::Zstd, Compression::None] {
        let (whole, fewer) = {
            let whole = encode(&events, compression, 100);
            (whole.clone(), rewrite::keep_rows(&whole, "shop", &PromotedColumns::default(), &kept).unwrap())
        };
        let mut numbers = (0..events.len()).filter(|n| kept[*n]);
        for batch in ParquetRecordBatchReaderBuilder::try_new(fewer.clone()).unwrap().build().unwrap() {
            let batch = batch.unwrap();
            for row in 0..batch.num_rows() {
                let n = numbers.next().expect("no row too many");
                let expected = expected(&EventRef::decode(&events[n]).unwrap(), n as u64 + 1);
                let found: Vec<_> = batch.columns().iter().map(|column| cell(column, row)).collect();
                assert_eq!(found, expected, "row {n}");
            }
        }
        assert_eq!(numbers.next(), None, "no row too few");

        let open = |file: Bytes| {
            let properties = ReaderProperties::builder().set_read_bloom_filter(true).build();
            let options = ReadOptionsBuilder::new().with_reader_properties(properties).build();
            SerializedFileReader::new_with_options(file, options).unwrap()
        };
        let (whole, fewer) = (open(whole), open(fewer));
        for key in ["causality.format", "causality.app_id", "causality.stream"] {
            assert_eq!(footer::entry(fewer.metadata(), key), footer::entry(whole.metadata(), key));
        }
        let ranges = SequenceSet::decode(footer::entry(fewer.metadata(), "causality.sequences").unwrap()).unwrap();
        let sequences = SequenceSet::of((0..events.len()).filter(|n| kept[*n]).map(|n| n as u64 + 1));
        assert_eq!(ranges, sequences);
        let (group, like) = (fewer.get_row_group(0).unwrap(), whole.get_row_group(0).unwrap());
        assert!(group.metadata().num_rows() <= 100);
        for column in 0..schema::schema().num_columns() {
            let (ours, theirs) = (group.metadata().column(column), like.metadata().column(column));
            assert_eq!(ours.encodings().collect::<Vec<_>>(), theirs.encodings().collect::<Vec<_>>());
            assert_eq!(ours.compression(), theirs.compression());
            assert_eq!(ours.statistics().is_some(), theirs.statistics().is_some());
            let filters = [&group, &like].map(|group| group.get_column_bloom_filter(column).is_some());
            assert_eq!(filters[0], filters[1], "column {column}");
        }
        let filter = group.get_column_bloom_filter(0).unwrap();
        assert!(filter.check(EventRef::decode(&events[1]).unwrap().id));
    }
}

#[test]
fn an_absent_device_is_null_and_an_empty_one_is_not() {
    let payload = Payload::UserLogin(Default::default());
    let mut event = EventEnvelope { id: "a".into(), app_id: "x".into(), payload: Some(payload), ..Default::default() };
    let absent = event.encode_to_vec();
    event.device_context = Some(Default::default());
    let events = [absent, event.encode_to_vec()];
    let file = encode(&events, Compression::Snappy, 100);
    let batch = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    let platform = batch.column_by_name("platform").unwrap();
    assert_eq!((cell(platform, 0), cell(platform, 1)), (None, Some("PLATFORM_UNSPECIFIED".to_owned())));
    assert_eq!(batch.column_by_name("is_emulator").unwrap().null_count(), 1);
}
