//! Files of other versions: without a column of this version, or with one that this version does not know.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::properties::WriterProperties;

use crate::warehouse::compaction::tests::{compact, file_of, open, partition, settings, store, store_file};
use crate::warehouse::compaction::tests::{encoded, names};
use crate::warehouse::file::rewrite;
use crate::warehouse::*;

/// The file as another version would have written it.
fn as_of_another_version(file: Bytes, change: impl Fn(RecordBatch) -> RecordBatch) -> Bytes {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let entries = builder.metadata().file_metadata().key_value_metadata().unwrap().clone();
    let entries = entries.into_iter().filter(|entry| entry.key.starts_with("causality.") && !entry.key.contains("crc"));
    let properties = WriterProperties::builder().set_key_value_metadata(Some(entries.collect())).build();
    let batches: Vec<RecordBatch> = builder.build().unwrap().map(|batch| change(batch.unwrap())).collect();
    let mut writer = ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(properties)).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap().into()
}

fn without(batch: RecordBatch, names: &[&str]) -> RecordBatch {
    let schema = batch.schema();
    let kept = schema.fields().iter().enumerate().filter(|(_, field)| !names.contains(&field.name().as_str()));
    let kept: Vec<usize> = kept.map(|(place, _)| place).collect();
    batch.project(&kept).unwrap()
}

fn with_unknown(batch: RecordBatch) -> RecordBatch {
    let mut fields: Vec<Arc<Field>> = batch.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("of_tomorrow", DataType::Utf8, false)));
    let values = StringArray::from(vec!["x"; batch.num_rows()]);
    let columns = batch.columns().iter().cloned().chain([Arc::new(values) as ArrayRef]).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn texts(file: Bytes, column: &str) -> Vec<String> {
    let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().map(|batch| batch.unwrap());
    let of = |batch: RecordBatch| {
        let column = batch.column_by_name(column).unwrap().as_string::<i32>().clone();
        (0..column.len()).map(|row| column.value(row).to_owned()).collect::<Vec<_>>()
    };
    batches.flat_map(of).collect()
}

#[test]
fn a_file_without_a_column_is_rewritten_with_it_empty() {
    let whole = file_of(1..=300, encoded);
    let dropped = ["session_id", "correlation_id", "carrier", "screen_width", "is_emulator"];
    let older = as_of_another_version(whole.clone(), |batch| without(batch, &dropped));
    let kept: Vec<bool> = (0..300).map(|row| row % 2 == 0).collect();
    let rewritten = rewrite::keep_rows(&older, "shop", &PromotedColumns::default(), &kept).unwrap();
    assert_eq!(texts(rewritten.clone(), "correlation_id"), vec![""; 150]);
    let ids: Vec<String> = texts(whole.clone(), "id").into_iter().step_by(2).collect();
    assert_eq!(texts(rewritten.clone(), "id"), ids);
    let devices: Vec<String> = texts(whole, "device_id").into_iter().step_by(2).collect();
    assert_eq!(texts(rewritten, "device_id"), devices);
}

#[test]
fn a_file_without_a_mandatory_column_is_refused() {
    let other = as_of_another_version(file_of(1..=10, encoded), |batch| without(batch, &["payload_json"]));
    let refused = rewrite::keep_rows(&other, "shop", &PromotedColumns::default(), &[true; 10]).unwrap_err();
    assert_eq!(refused.kind, WarehouseErrorKind::Corrupt);
}

#[tokio::test]
async fn compaction_takes_older_files_and_leaves_newer_ones() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store(&warehouse, 1..=50).await;
    let older = as_of_another_version(file_of(51..=100, encoded), |batch| without(batch, &["session_id"]));
    store_file(&warehouse, older).await;
    let newer = as_of_another_version(file_of(101..=150, encoded), with_unknown);
    let newer = store_file(&warehouse, newer).await;
    let CompactionOutcome::Done(done) = compact(&warehouse, &settings()).await else { panic!("nothing was compacted") };
    assert_eq!((done.files_read, done.rows), (2, 100));
    let names = names(dir.path());
    assert!(names.contains(&newer) && names.len() == 2, "{names:?}");
    let compacted = names.iter().find(|name| **name != newer).unwrap();
    let compacted = std::fs::read(dir.path().join(partition().to_string()).join(compacted)).unwrap();
    assert_eq!(texts(Bytes::from(compacted), "session_id").len(), 100);
}
