//! Compaction on a real directory with a real log: every row is kept once, with competing workers and damaged files too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message;
use uuid::Uuid;

use super::*;
use crate::event::EventRef;
use crate::event::proto::{DeviceContext, EventEnvelope, UserLogin, event_envelope::Payload};
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::table::{self, NUMBERS, TEXTS, Values};
use crate::warehouse::delta::NewFile;
use crate::warehouse::layout::is_compacted;
use crate::warehouse::maintenance::{PartitionFilter, data_files, inputs};
use crate::warehouse::{Compression, DeltaSettings, EncodeSettings, Encoder, Origin, PromotedColumns, RowId};

const HOUR: i64 = 491_000;

pub(in crate::warehouse) fn partition() -> Partition {
    Partition { app_id: "shop".to_owned(), hour: HOUR }
}

pub(in crate::warehouse) fn settings() -> CompactionSettings {
    CompactionSettings {
        target_bytes: 128 << 20,
        files_min: 2,
        age_min: Duration::ZERO,
        keep_replaced: false,
        compression: Compression::Snappy,
        row_group_rows: 1_000,
        scratch: PathBuf::from("/nonexistent"),
    }
}

pub(in crate::warehouse) async fn open(dir: &Path) -> Warehouse {
    let warehouse = Warehouse::open_local(dir.to_owned()).unwrap();
    let delta = DeltaSettings { retention: Duration::from_secs(3_600) };
    warehouse.keep_log(delta).await.unwrap()
}

/// A row with this sequence. Times go back and forth, so that files overlap.
pub(in crate::warehouse) fn encoded(sequence: u64) -> Vec<u8> {
    let mixed = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44;
    let device = DeviceContext { os_version: format!("{}", sequence % 5), screen_width: 3, ..Default::default() };
    let event = EventEnvelope {
        id: format!("id-{sequence}"),
        app_id: "shop".to_owned(),
        device_id: format!("device-{}", mixed % 50),
        timestamp_ms: HOUR * 3_600_000 + (mixed % 1_000) as i64,
        device_context: (!sequence.is_multiple_of(3)).then_some(device),
        payload: Some(Payload::UserLogin(UserLogin::default())),
        ..Default::default()
    };
    event.encode_to_vec()
}

fn file(sequences: impl Iterator<Item = u64> + Clone) -> bytes::Bytes {
    file_of(sequences, encoded)
}

pub(in crate::warehouse) fn file_of(
    sequences: impl Iterator<Item = u64> + Clone,
    encoded: impl Fn(u64) -> Vec<u8>,
) -> bytes::Bytes {
    let encode = EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 700, stream: "EVENTS".into() };
    let mut encoder = Encoder::new(encode).unwrap();
    let mut file = encoder.open("shop");
    for sequence in sequences.clone() {
        let event = encoded(sequence);
        let origin = Origin { sequence, received_at_ms: 7 };
        encoder.push(&mut file, &EventRef::decode(&event).unwrap(), origin).unwrap();
    }
    encoder.finish(file, sequences).unwrap()
}

/// Stores and commits a file, as the sink does.
pub(in crate::warehouse) async fn store(warehouse: &Warehouse, sequences: impl Iterator<Item = u64> + Clone) -> String {
    store_file(warehouse, file(sequences)).await
}

pub(in crate::warehouse) async fn store_file(warehouse: &Warehouse, bytes: bytes::Bytes) -> String {
    let name = Warehouse::new_file_name();
    assert!(warehouse.store(&partition(), &name, bytes.clone(), || true).await.unwrap());
    let commit = warehouse.begin_commit(vec![(partition(), name.clone(), bytes)]).await.unwrap();
    commit.unwrap().ensure_committed().await.unwrap();
    name
}

pub(in crate::warehouse) async fn compact(warehouse: &Warehouse, settings: &CompactionSettings) -> CompactionOutcome {
    warehouse.compact(&partition(), settings, |_| true).await.unwrap()
}

pub(in crate::warehouse) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join(partition().to_string())).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sequence and id of every row of the table, in file order, read from the log alone.
pub(in crate::warehouse) fn table(dir: &Path) -> Vec<(i64, String)> {
    let mut files: BTreeMap<String, bool> = BTreeMap::new();
    let mut commits: Vec<PathBuf> =
        std::fs::read_dir(dir.join("_delta_log")).unwrap().map(|e| e.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|end| end == "json"));
    commits.sort();
    for commit in commits {
        for line in std::fs::read_to_string(commit).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            for (kind, is_there) in [("add", true), ("remove", false)] {
                if let Some(path) = action[kind]["path"].as_str() {
                    files.insert(path.to_owned(), is_there);
                }
            }
        }
    }
    let there = files.into_iter().filter(|(_, is_there)| *is_there).map(|(path, _)| path);
    there.flat_map(|path| rows(&dir.join(path))).collect()
}

pub(in crate::warehouse) fn rows(path: &Path) -> Vec<(i64, String)> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let sequences = batch.column_by_name("stream_sequence").unwrap().as_primitive::<Int64Type>().clone();
        let ids = batch.column_by_name("id").unwrap().as_string::<i32>().clone();
        rows.extend(sequences.iter().zip(ids.iter()).map(|(s, id)| (s.unwrap(), id.unwrap().to_owned())));
    }
    rows
}

fn expected(sequences: impl Iterator<Item = u64>) -> Vec<(i64, String)> {
    sequences.map(|sequence| (sequence as i64, format!("id-{sequence}"))).collect()
}

pub(in crate::warehouse) fn sorted<T: Ord>(mut rows: Vec<T>) -> Vec<T> {
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_become_one_sorted_file_with_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..5 {
        store(&warehouse, n * 2_000..(n + 1) * 2_000).await;
    }
    let foreign = dir.path().join(partition().to_string()).join("notes.txt");
    std::fs::write(&foreign, "not ours").unwrap();
    let before: Vec<_> = names(dir.path())
        .into_iter()
        .filter(|name| name.starts_with("events_"))
        .map(|n| full_rows(&dir.path().join(partition().to_string()).join(n)))
        .collect();
    let outcome = compact(&warehouse, &settings()).await;
    let CompactionOutcome::Done(compacted) = outcome else { panic!("{outcome:?}") };
    assert_eq!((compacted.files_read, compacted.files_written, compacted.rows, compacted.repeated), (5, 1, 10_000, 0));
    let there = names(dir.path());
    assert!(there.len() == 2 && is_compacted(&there[0]) && foreign.exists(), "{there:?}");
    assert_eq!(sorted(table(dir.path())), expected(0..10_000));
    let after = full_rows(&dir.path().join(partition().to_string()).join(&there[0]));
    let keys: Vec<_> = after.iter().map(|row| (row[2].parse::<i64>().unwrap(), row[1].clone())).collect();
    assert!(keys.is_sorted(), "by time and device");
    assert_eq!(sorted(after), sorted(before.concat()), "every column of every row");
    assert!(!dir.path().join("_compaction").join("x").exists());
    assert_eq!(std::fs::read_dir(dir.path().join("_compaction")).unwrap().count(), 0);
    assert_eq!(compact(&warehouse, &settings()).await, CompactionOutcome::Nothing);
    // A process that opens the lake now sees the same.
    assert_eq!(compact(&open(dir.path()).await, &settings()).await, CompactionOutcome::Nothing);
}

/// All columns of all rows as text.
pub(in crate::warehouse) fn full_rows(path: &Path) -> Vec<Vec<String>> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path).unwrap()).unwrap().build().unwrap();
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let cell = |column: &arrow_array::ArrayRef, row: usize| match column.is_null(row) {
            true => "NULL".to_owned(),
            false => format!("{:?}", column.slice(row, 1))
                .lines()
                .nth(2)
                .unwrap_or_default()
                .trim()
                .trim_matches(['"', ','])
                .to_owned(),
        };
        rows.extend((0..batch.num_rows()).map(|row| batch.columns().iter().map(|c| cell(c, row)).collect::<Vec<_>>()));
    }
    rows
}

/// The runs on disk take more than one merge.
#[test]
fn rows_that_do_not_fit_in_memory_are_sorted() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().to_owned(), Uuid::now_v7()).unwrap();
    let mut sorter = Sorter::new(&scratch, 2 << 20);
    let mut expected = Vec::new();
    let payload = "x".repeat(3_000);
    for n in 0..400_000u64 {
        let mixed = n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        let (id, device) = (format!("{n}"), format!("device-{}", mixed % 7));
        let mut values = Values { texts: [""; TEXTS], numbers: [0; NUMBERS] };
        (values.texts[table::ID], values.texts[table::DEVICE_ID]) = (&id, &device);
        values.numbers[table::TIMESTAMP_MS] = (mixed / 7 % 5_000) as i64;
        values.numbers[table::STREAM_SEQUENCE] = n as i64;
        let payload_json = if n.is_multiple_of(50) { &payload } else { "{}" };
        let row = StoredRow { values, event_category: "a", event_type: "b", payload_json, device: None };
        sorter.push(&row).unwrap();
        expected.push((row.timestamp_ms(), device.clone(), row.stream_sequence()));
    }
    let mut found = Vec::new();
    let each = |record: &[u8]| -> Result<(), WarehouseError> {
        let row = record::row(record)?;
        found.push((row.timestamp_ms(), row.device_id().to_owned(), row.stream_sequence()));
        Ok(())
    };
    sorter.finish(each).unwrap();
    expected.sort();
    assert!(found == expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_partitions_become_several_files_near_the_target() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..4 {
        store(&warehouse, n * 20_000..(n + 1) * 20_000).await;
    }
    let target = 400_000;
    let outcome = compact(&warehouse, &CompactionSettings { target_bytes: target, files_min: 2, ..settings() }).await;
    // Files of at least half of the target are large enough.
    assert_eq!(outcome, CompactionOutcome::Nothing);
    let everything = CompactionSettings { target_bytes: 1 << 30, ..settings() };
    let CompactionOutcome::Done(one) = compact(&warehouse, &everything).await else { panic!() };
    assert_eq!(one.files_written, 1);
    store(&warehouse, 80_000..80_001).await;
    let scratch = tempfile::tempdir_in(dir.path()).unwrap();
    let scratch = Scratch::new(scratch.path().to_owned(), Uuid::now_v7()).unwrap();
    let output = OutputSettings {
        promoted: PromotedColumns::default(),
        compression: Compression::Snappy,
        row_group_rows: 5_000,
        target_bytes: target,
        stream: "EVENTS".to_owned(),
        app_id: "shop".to_owned(),
    };
    let mut sorter = Sorter::new(&scratch, sort::ROWS_BYTES_MAX);
    let mut outputs = Outputs::new(output, &scratch).unwrap();
    let listed = data_files(warehouse.0.objects.list(&partition().to_string()).unwrap());
    let inputs = inputs(&warehouse.0.objects, &partition().to_string(), &listed, &mut || Ok(())).unwrap();
    for input in &inputs {
        let read =
            each_row(&warehouse.0.objects, &partition().to_string(), input, |row| sorter.push(row), &mut || Ok(()));
        read.unwrap();
    }
    sorter.finish(|record| outputs.push_unique(&record::row(record)?)).unwrap();
    let done = outputs.finish(&["events_1.parquet"]).unwrap();
    assert!(done.len() > 2, "{}", done.len());
    for output in &done[..done.len() - 1] {
        // In files this small the unencoded open pages are a large part of the size.
        assert!((target / 8..target * 2).contains(&output.bytes), "{}", output.bytes);
    }
    let last = done.last().unwrap();
    let replaces = crate::warehouse::file::footer::Replaces::read(&last.metadata).unwrap().unwrap();
    assert!(replaces.has_file("events_1.parquet") && !replaces.has_file("events_2.parquet"));
    assert!(replaces.is_complete(done.iter().map(|output| output.name.as_str())));
    assert!(!replaces.is_complete(done[1..].iter().map(|output| output.name.as_str())));
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivered_messages_are_found_in_compacted_files() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..3 {
        store(&warehouse, n * 100..(n + 1) * 100).await;
    }
    assert!(matches!(compact(&warehouse, &settings()).await, CompactionOutcome::Done(_)));
    for warehouse in [warehouse, open(dir.path()).await] {
        let footers = warehouse.footers(&partition()).await.unwrap();
        assert!(footers.may_hold(5) && footers.may_hold(299) && !footers.may_hold(300));
        let in_doubt = [(5, "id-5"), (299, "id-299"), (7, "somebody else's")];
        let in_doubt = in_doubt.map(|(sequence, id)| RowId { sequence, id: id.to_owned() }).into();
        assert_eq!(warehouse.confirm(footers, in_doubt).await.unwrap(), [true, true, false]);
        assert_eq!(sorted(table(dir.path())), expected(0..300));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_rows_that_repeat_sequence_and_id_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store(&warehouse, 0..100).await;
    store(&warehouse, 50..150).await;
    let CompactionOutcome::Done(compacted) = compact(&warehouse, &settings()).await else { panic!() };
    assert_eq!((compacted.rows, compacted.repeated), (150, 50));
    assert_eq!(sorted(table(dir.path())), expected(0..150));
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_stay_for_readers_of_older_versions_until_the_vacuum() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store(&warehouse, 0..100).await;
    store(&warehouse, 100..200).await;
    let keeping = CompactionSettings { keep_replaced: true, ..settings() };
    assert!(matches!(compact(&warehouse, &keeping).await, CompactionOutcome::Done(_)));
    assert_eq!(names(dir.path()).len(), 3);
    assert_eq!(compact(&warehouse, &keeping).await, CompactionOutcome::Nothing);
    let status = warehouse.survey(&keeping, &PartitionFilter::default(), |_| true).await.unwrap();
    assert_eq!((status.files, status.replaced_files, status.candidates.len()), (1, 2, 0));
    // A redelivered message may be found in either; the replaced files are not added again.
    let footers = warehouse.footers(&partition()).await.unwrap();
    let in_doubt = vec![RowId { sequence: 3, id: "id-3".to_owned() }];
    assert_eq!(warehouse.confirm(footers, in_doubt).await.unwrap(), [true]);
    let adopted = warehouse.adopt_files(true, || true, |_| {}).await.unwrap().unwrap();
    assert_eq!((adopted.added, adopted.known), (0, 3));
    let week = Duration::from_secs(604_800);
    let vacuumed = warehouse.vacuum(&keeping, week, |_| true).await.unwrap();
    assert_eq!(vacuumed, Vacuumed { waiting: 2, ..Vacuumed::default() });
    let vacuumed = warehouse.vacuum(&keeping, Duration::ZERO, |_| true).await.unwrap();
    assert_eq!((vacuumed.files, vacuumed.waiting), (2, 0));
    assert_eq!(names(dir.path()).len(), 1);
    assert_eq!(sorted(table(dir.path())), expected(0..200));
}

/// The log was lost, or no longer lists removed files: the files replaced by the compacted one are not added again.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_log_over_compacted_files_has_every_row_once() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store(&warehouse, 0..100).await;
    store(&warehouse, 100..200).await;
    let keeping = CompactionSettings { keep_replaced: true, ..settings() };
    assert!(matches!(compact(&warehouse, &keeping).await, CompactionOutcome::Done(_)));
    store(&warehouse, 200..250).await;
    std::fs::remove_dir_all(dir.path().join("_delta_log")).unwrap();
    let warehouse = open(dir.path()).await;
    let refused = warehouse.compact(&partition(), &keeping, |_| true).await.unwrap_err();
    assert_eq!(refused.kind, WarehouseErrorKind::Refused);
    assert_eq!(warehouse.adopt_files(false, || true, |_| {}).await.unwrap().unwrap().added, 2);
    assert_eq!(sorted(table(dir.path())), expected(0..250));
    // Nor when one of their messages is redelivered.
    let footers = warehouse.footers(&partition()).await.unwrap();
    let in_doubt = (0..200).map(|sequence| RowId { sequence, id: format!("id-{sequence}") }).collect();
    assert_eq!(warehouse.confirm(footers, in_doubt).await.unwrap(), [true; 200]);
    assert_eq!(sorted(table(dir.path())), expected(0..250));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recently_written_partition_or_one_with_few_files_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store(&warehouse, 0..100).await;
    assert_eq!(compact(&warehouse, &settings()).await, CompactionOutcome::Nothing);
    store(&warehouse, 100..200).await;
    let later = CompactionSettings { age_min: Duration::from_secs(600), ..settings() };
    assert_eq!(compact(&warehouse, &later).await, CompactionOutcome::Warm);
    let status = warehouse.survey(&later, &PartitionFilter::default(), |_| true).await.unwrap();
    assert_eq!((status.small_files, status.candidates.len()), (2, 0));
    let many = CompactionSettings { files_min: 3, ..settings() };
    assert_eq!(compact(&warehouse, &many).await, CompactionOutcome::Nothing);
    // A stored file that is not in the table must not be replaced.
    let stray = Warehouse::new_file_name();
    warehouse.store(&partition(), &stray, file(200..300), || true).await.unwrap();
    assert_eq!(compact(&warehouse, &many).await, CompactionOutcome::Nothing);
    assert!(matches!(compact(&warehouse, &settings()).await, CompactionOutcome::Done(_)));
    assert!(names(dir.path()).contains(&stray));
    let other = PartitionFilter { app_id: Some("other".to_owned()), ..PartitionFilter::default() };
    assert_eq!(warehouse.survey(&settings(), &other, |_| true).await.unwrap().partitions, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_blocks_its_partition_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..3 {
        store(&warehouse, n * 1_000..(n + 1) * 1_000).await;
    }
    let victim = dir.path().join(partition().to_string()).join(&names(dir.path())[1]);
    let whole = std::fs::read(&victim).unwrap();
    let mut flipped = whole.clone();
    flipped[5_000] ^= 1;
    for damaged in [&flipped[..], &whole[..whole.len() - 9], b""] {
        std::fs::write(&victim, damaged).unwrap();
        let outcome = compact(&warehouse, &settings()).await;
        let CompactionOutcome::Damaged { file } = outcome else { panic!("{outcome:?}") };
        assert!(victim.ends_with(&file), "{file}");
        assert!(warehouse.damage().is_some_and(|warning| warning.contains(&file)));
        assert_eq!(names(dir.path()).len(), 3, "nothing is removed, nothing added");
        assert_eq!(std::fs::read_dir(dir.path().join("_compaction")).unwrap().count(), 0);
    }
    std::fs::write(&victim, whole).unwrap();
    assert!(matches!(compact(&warehouse, &settings()).await, CompactionOutcome::Done(_)));
    assert_eq!(sorted(table(dir.path())), expected(0..3_000));
}

/// A worker stalls while another one does its work: its commit is refused, and it leaves nothing behind.
#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_workers_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (slow, fast) = (open(dir.path()).await, open(dir.path()).await);
    for n in 0..4 {
        store(&slow, n * 1_000..(n + 1) * 1_000).await;
    }
    let (stopped, go_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let hold = {
        let (stopped, go_on) = (stopped.clone(), go_on.clone());
        move |progress: CompactionProgress| {
            while progress.rows_written > 0 && !go_on.load(Ordering::Acquire) {
                stopped.store(true, Ordering::Release);
                std::thread::sleep(Duration::from_millis(5));
            }
            true
        }
    };
    let held = settings();
    let at_work = async { slow.compact(&partition(), &held, hold).await.unwrap() };
    let meanwhile = async {
        while !stopped.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(compact(&fast, &settings()).await, CompactionOutcome::Busy);
        // Its lease expires.
        let lease = std::fs::read_dir(dir.path().join("_compaction")).unwrap().map(|entry| entry.unwrap().path());
        let lease: Vec<PathBuf> = lease.filter(|path| path.extension().is_some_and(|end| end == "lease")).collect();
        std::fs::remove_file(&lease[0]).unwrap();
        let done = compact(&fast, &settings()).await;
        assert!(matches!(done, CompactionOutcome::Done(_)), "{done:?}");
        go_on.store(true, Ordering::Release);
    };
    let (outcome, ()) = tokio::join!(at_work, meanwhile);
    assert_eq!(outcome, CompactionOutcome::Overtaken);
    assert_eq!(names(dir.path()).len(), 1);
    assert_eq!(std::fs::read_dir(dir.path().join("_compaction")).unwrap().count(), 0);
    assert_eq!(sorted(table(dir.path())), expected(0..4_000));
}

/// The outputs of a worker that is killed before its commit are abandoned in the log, so that a worker that only stalled
/// can no longer commit them.
#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_a_killed_worker_are_removed_and_never_committed() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let old = [store(&warehouse, 0..100).await, store(&warehouse, 100..200).await];
    let name = crate::warehouse::layout::new_compacted_name();
    let bytes = file(0..200);
    warehouse.store(&partition(), &name, bytes.clone(), || true).await.unwrap();
    let part = dir.path().join("_compaction").join(format!("{}.0.part", Uuid::now_v7()));
    std::fs::create_dir_all(part.parent().unwrap()).unwrap();
    std::fs::write(&part, "half").unwrap();
    // Redelivered messages are found, and the orphan stays out of the table.
    let footers = warehouse.footers(&partition()).await.unwrap();
    let in_doubt = vec![RowId { sequence: 3, id: "id-3".to_owned() }];
    assert_eq!(warehouse.confirm(footers, in_doubt).await.unwrap(), [true]);
    assert_eq!(warehouse.adopt_files(true, || true, |_| {}).await.unwrap().unwrap().added, 0);
    assert_eq!(sorted(table(dir.path())), expected(0..200));
    let status = warehouse.survey(&settings(), &PartitionFilter::default(), |_| true).await.unwrap();
    assert_eq!((status.orphans, status.files), (1, 2));
    let vacuumed = warehouse.vacuum(&settings(), Duration::ZERO, |_| true).await.unwrap();
    assert_eq!(vacuumed, Vacuumed { orphans: 2, ..Vacuumed::default() });
    assert!(!part.exists() && names(dir.path()) == sorted(old.to_vec()));
    let metadata = crate::warehouse::file::footer::read(&bytes).unwrap();
    let new = [NewFile { name: &name, metadata: &metadata, bytes: bytes.len() as u64 }];
    let old = old.each_ref().map(String::as_str);
    let delta = warehouse.0.delta.get().unwrap();
    assert!(!delta.replace(&warehouse.0.objects, &partition(), &old, &new, Change::Layout).unwrap());
    assert_eq!(sorted(table(dir.path())), expected(0..200));
}
