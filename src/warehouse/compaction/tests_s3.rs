//! Compaction in a bucket whose requests may fail after taking effect, and of files with promoted columns.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use prost::Message;

use super::tests::{compact, file_of, full_rows, names, open, partition, settings, sorted, store, store_file, table};
use super::*;
use crate::event::EventRef;
use crate::event::proto::{EventEnvelope, PurchaseComplete, event_envelope::Payload};
use crate::services::s3::{Fault, S3Server};
use crate::warehouse::layout::is_compacted;
use crate::warehouse::{
    Compression, DeltaSettings, EncodeSettings, Encoder, ObjectSettings, Origin, PartitionFilter, PromotedColumns,
};

/// Every way in which a write may end without a truthful response.
const FAULTS: [Fault; 9] = [
    Fault::FailAfterStoring,
    Fault::HangAfterStoring,
    Fault::Hang,
    Fault::CloseInAnswer,
    Fault::SlowDown,
    Fault::Close,
    Fault::StoreLate,
    Fault::Conflict { done: true },
    Fault::Precondition { done: true },
];
/// Longer than the delay of a request that takes effect late, and longer than the second to which a store truncates its
/// time, within which a file that was just stored appears to be from the future.
const LATEST: Duration = Duration::from_millis(1_100);
/// Rows per file.
const ROWS: u64 = 300;

async fn in_bucket(server: &S3Server, columns: &str) -> Warehouse {
    let warehouse = Warehouse::open_objects(ObjectSettings::of_test(server)).await.unwrap();
    let warehouse = warehouse.promote(promoted(columns));
    warehouse.keep_log(DeltaSettings { retention: Duration::from_secs(3_600) }).await.unwrap()
}

fn promoted(columns: &str) -> PromotedColumns {
    PromotedColumns::parse(columns.split(',').filter(|column| !column.is_empty())).unwrap()
}

fn made_in(scratch: &Path) -> CompactionSettings {
    CompactionSettings { scratch: scratch.to_owned(), ..settings() }
}

fn expected(rows: u64) -> Vec<(i64, String)> {
    (0..rows).map(|sequence| (sequence as i64, format!("id-{sequence}"))).collect()
}

fn in_the_making(bucket: &Path) -> Vec<String> {
    let entries =
        std::fs::read_dir(bucket.join("_compaction")).map(|entries| entries.map(|entry| entry.unwrap().file_name()));
    entries.map(|names| names.map(|name| name.into_string().unwrap()).collect()).unwrap_or_default()
}

/// The store's clock is read by writing an object, which all workers share.
#[tokio::test(flavor = "multi_thread")]
async fn workers_that_read_the_clock_concurrently_do_not_interfere() {
    let (server, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let (one, other) = (in_bucket(&server, "").await, in_bucket(&server, "").await);
    let (settings, all) = (made_in(scratch.path()), PartitionFilter::default());
    for _ in 0..20 {
        let ask = |warehouse: &Warehouse| {
            let (warehouse, settings, all) = (warehouse.clone(), settings.clone(), all.clone());
            async move { warehouse.survey(&settings, &all, |_| true).await.unwrap() }
        };
        tokio::join!(ask(&one), ask(&other), ask(&one), ask(&other));
        // A starting process probes the bucket.
        tokio::join!(ask(&one), async { in_bucket(&server, "").await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_compacted_like_a_directory() {
    let (server, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let warehouse = in_bucket(&server, "").await;
    for n in 0..5 {
        store(&warehouse, n * ROWS..(n + 1) * ROWS).await;
    }
    let bucket = server.bucket();
    let before: Vec<_> =
        names(&bucket).iter().map(|name| full_rows(&bucket.join(partition().to_string()).join(name))).collect();
    tokio::time::sleep(LATEST).await;
    let outcome = compact(&warehouse, &made_in(scratch.path())).await;
    let CompactionOutcome::Done(done) = outcome else { panic!("{outcome:?}") };
    assert_eq!((done.files_read, done.files_written, done.rows), (5, 1, 5 * ROWS));
    let there = names(&bucket);
    assert!(there.len() == 1 && is_compacted(&there[0]), "{there:?}");
    let after = full_rows(&bucket.join(partition().to_string()).join(&there[0]));
    assert_eq!(sorted(after), sorted(before.concat()), "every column of every row");
    assert_eq!(sorted(table(&bucket)), expected(5 * ROWS));
    // No leftovers in the bucket or on this machine.
    assert_eq!(in_the_making(&bucket), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    assert_eq!(compact(&warehouse, &made_in(scratch.path())).await, CompactionOutcome::Nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failed_write_loses_or_duplicates_rows_or_leaves_files() {
    let (server, scratch) = (S3Server::start(), tempfile::tempdir().unwrap());
    let (warehouse, settings) = (in_bucket(&server, "").await, made_in(scratch.path()));
    let bucket = server.bucket();
    let mut rows = 0;
    for fault in FAULTS {
        // Of the conditional writes: the lease, and then the commit.
        let every = if matches!(fault, Fault::Conflict { .. } | Fault::Precondition { .. }) { 2 } else { 3 };
        for _ in 0..2 {
            store(&warehouse, rows..rows + 10).await;
            rows += 10;
        }
        tokio::time::sleep(LATEST).await;
        let met = server.faulty_writes();
        server.fail(fault, every);
        // It may fail after doing all, some or none of the work.
        let _ = warehouse.compact(&partition(), &settings, |_| true).await;
        assert!(server.faulty_writes() > met, "{fault:?}");
        server.heal();
        tokio::time::sleep(LATEST).await;
        assert_eq!(sorted(table(&bucket)), expected(rows), "{fault:?}");
        // As if the holder of a lease had been gone for longer than that.
        for lease in in_the_making(&bucket).iter().filter(|name| name.ends_with(".lease")) {
            std::fs::remove_file(bucket.join("_compaction").join(lease)).unwrap();
        }
        warehouse.compact(&partition(), &settings, |_| true).await.unwrap();
        warehouse.vacuum(&settings, Duration::ZERO, |_| true).await.unwrap();
        assert_eq!(sorted(table(&bucket)), expected(rows), "{fault:?}");
        assert_eq!(in_the_making(&bucket), Vec::<String>::new(), "{fault:?}");
        let there = names(&bucket);
        assert!(there.len() == 1 && is_compacted(&there[0]), "{fault:?}: {there:?}");
    }
}

const CENTS: &str = "cents: int64 = $.purchase_complete.total_cents";
const CURRENCY: &str = "currency: string = $.purchase_complete.currency";

/// Each row has 100 cents times its sequence.
fn purchases(sequences: std::ops::Range<u64>, columns: &str) -> bytes::Bytes {
    let encoded = |sequence| {
        let purchase = PurchaseComplete {
            order_id: "o".to_owned(),
            total_cents: 100 * sequence as i64,
            currency: if sequence % 2 == 0 { "EUR" } else { "USD" }.to_owned(),
            ..Default::default()
        };
        let event = EventEnvelope {
            id: format!("id-{sequence}"),
            app_id: "shop".to_owned(),
            device_id: "d".to_owned(),
            timestamp_ms: partition().hour * 3_600_000 + sequence as i64,
            payload: Some(Payload::PurchaseComplete(purchase)),
            ..Default::default()
        };
        event.encode_to_vec()
    };
    if columns.is_empty() {
        return file_of(sequences, encoded);
    }
    let encode = EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 700, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(encode).unwrap().promoting(&promoted(columns));
    let mut file = encoder.open("shop");
    for sequence in sequences.clone() {
        let event = encoded(sequence);
        let origin = Origin { sequence, received_at_ms: 7 };
        encoder.push(&mut file, &EventRef::decode(&event).unwrap(), origin).unwrap();
    }
    encoder.finish(file, sequences).unwrap()
}

/// Files without a promoted column, with it, and with one that is no longer promoted become one file with the current
/// columns.
async fn becomes_one_file_with_current_columns(warehouse: &Warehouse, root: &Path, scratch: &Path) {
    for (n, columns) in ["", CENTS, CURRENCY].into_iter().enumerate() {
        let from = n as u64 * 20;
        store_file(warehouse, purchases(from..from + 20, columns)).await;
    }
    tokio::time::sleep(LATEST).await;
    let outcome = compact(warehouse, &made_in(scratch)).await;
    assert!(matches!(outcome, CompactionOutcome::Done(done) if done.rows == 60), "{outcome:?}");
    let there = names(root);
    assert_eq!(there.len(), 1, "{there:?}");
    let file = std::fs::File::open(root.join(partition().to_string()).join(&there[0])).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert!(reader.schema().field_with_name("currency").is_err());
    // The column's bounds, by which readers skip files.
    let log: BTreeSet<String> = std::fs::read_dir(root.join("_delta_log"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default())
        .collect();
    let bounds = r#"\"cents\":5900"#;
    assert!(log.iter().any(|commit| commit.contains(&there[0]) && commit.contains(bounds)), "{log:?}");
    let mut rows = 0;
    for batch in reader.build().unwrap() {
        use arrow_array::cast::AsArray as _;
        use arrow_array::types::Int64Type;
        let batch = batch.unwrap();
        let sequences = batch.column_by_name("stream_sequence").unwrap().as_primitive::<Int64Type>().clone();
        let cents = batch.column_by_name("cents").unwrap().as_primitive::<Int64Type>().clone();
        for (sequence, cents) in sequences.iter().zip(cents.iter()) {
            assert_eq!(cents, sequence.map(|sequence| 100 * sequence));
            rows += 1;
        }
    }
    assert_eq!(rows, 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn promoted_columns_are_extracted_from_the_payloads_again() {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The log keeps columns that are no longer promoted.
    drop(open(dir.path()).await);
    let warehouse = Warehouse::open_local(dir.path().to_owned()).unwrap().promote(promoted(CENTS));
    let warehouse = warehouse.keep_log(DeltaSettings { retention: Duration::from_secs(3_600) }).await.unwrap();
    becomes_one_file_with_current_columns(&warehouse, dir.path(), scratch.path()).await;
    let server = S3Server::start();
    let warehouse = in_bucket(&server, CENTS).await;
    becomes_one_file_with_current_columns(&warehouse, &server.bucket(), scratch.path()).await;
}
