//! The log over a real directory, verified by reading its files.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::action::{self, Action, Protocol};
use super::checkpoint;
use super::checkpoint_rows::{self, Columns};
use super::log::{self, LOG, Listing};
use super::state::DeltaSettings;
use super::table;
use super::tail::{Tail, adopted};
use crate::base::clock::unix_ms;
use crate::event::EventRef;
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{EventEnvelope, ScreenView};
use crate::warehouse::columns::promoted::PromotedColumns;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::storage::Objects;
use crate::warehouse::{
    Adopted, EncodeSettings, Encoder, FencedWrite, Origin, Partition, Reconciled, RowId, Warehouse,
};
use prost::Message as _;

const HOUR: i64 = 491_000;

pub(super) fn settings() -> DeltaSettings {
    DeltaSettings { retention: Duration::from_secs(24 * 3_600) }
}

pub(super) fn partition(app: &str) -> Partition {
    Partition { app_id: app.to_owned(), hour: HOUR }
}

/// A file with one event per sequence, which is also its id.
pub(super) fn file(sequences: std::ops::Range<u64>) -> Bytes {
    let settings = EncodeSettings {
        compression: crate::warehouse::Compression::Snappy,
        row_group_rows_max: 100,
        stream: "S".to_owned(),
    };
    let mut encoder = Encoder::new(settings).unwrap();
    let mut open = encoder.open("shop");
    for sequence in sequences.clone() {
        let event = EventEnvelope {
            id: format!("{sequence}"),
            app_id: "shop".to_owned(),
            timestamp_ms: HOUR * 3_600_000,
            payload: Some(Payload::ScreenView(ScreenView::default())),
            ..EventEnvelope::default()
        };
        let bytes = event.encode_to_vec();
        let event = EventRef::decode_admitted(&bytes).unwrap();
        encoder.push(&mut open, &event, Origin { sequence, received_at_ms: 0 }).unwrap();
    }
    encoder.finish(open, sequences).unwrap()
}

async fn open(dir: &TempDir) -> Warehouse {
    Warehouse::open_local(dir.path().to_owned()).unwrap().keep_log(settings()).await.unwrap()
}

pub(super) async fn store(warehouse: &Warehouse, app: &str, file: &Bytes) -> String {
    let name = Warehouse::new_file_name();
    assert!(warehouse.store(&partition(app), &name, file.clone(), || true).await.unwrap());
    name
}

pub(super) async fn commit(warehouse: &Warehouse, files: &[(&str, &str, &Bytes)]) {
    let file = |(app, name, bytes): &(&str, &str, &Bytes)| (partition(app), (*name).to_owned(), (*bytes).clone());
    let commit = warehouse.begin_commit(files.iter().map(file).collect()).await.unwrap().unwrap();
    commit.ensure_committed().await.unwrap();
}

/// The files of the table with their sizes and rows, read from the newest checkpoint or the beginning of the log, and the
/// version.
fn table(dir: &TempDir) -> (BTreeMap<String, (i64, u64)>, i64) {
    let objects = Objects::local(dir.path().to_owned()).unwrap();
    let listing = Listing::read(&objects).unwrap();
    let latest = listing.latest.unwrap();
    let mut actions = Vec::new();
    let (version, files) = listing.checkpoint(latest).unwrap_or((-1, &[]));
    for file in files {
        let each = &mut |some: Vec<Action>| {
            actions.extend(some);
            Ok(())
        };
        checkpoint_rows::read(&objects, file, Columns::All, each).unwrap();
    }
    for version in version + 1..=latest {
        actions.extend(log::read_existing(&objects, version).unwrap());
    }
    let mut table = BTreeMap::new();
    for action in actions {
        if let Some(add) = action.add {
            let stats: serde_json::Value = serde_json::from_str(&add.stats.unwrap()).unwrap();
            table.insert(add.path, (add.size, stats["numRecords"].as_u64().unwrap()));
        } else if let Some(remove) = action.remove {
            table.remove(&remove.path);
        }
    }
    (table, latest)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_commit_adds_its_files_once() {
    let dir = TempDir::new().unwrap();
    let (one, other) = (open(&dir).await, open(&dir).await);
    let bytes = file(0..3);
    let (a, b) = (store(&one, "shop", &bytes).await, store(&one, "007", &bytes).await);
    commit(&one, &[("shop", &a, &bytes), ("007", &b, &bytes)]).await;
    commit(&one, &[("shop", &a, &bytes)]).await;
    commit(&other, &[("shop", &a, &bytes), ("007", &b, &bytes)]).await;
    let (files, version) = table(&dir);
    assert_eq!((files.len(), version), (2, 1));
    assert_eq!(files.values().map(|(_, rows)| rows).sum::<u64>(), 6);
    // After reopening, too.
    commit(&open(&dir).await, &[("shop", &a, &bytes)]).await;
    assert_eq!(table(&dir).1, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cached_file_does_not_wait_for_a_commit() {
    let dir = TempDir::new().unwrap();
    let (warehouse, bytes) = (open(&dir).await, file(0..3));
    let name = store(&warehouse, "shop", &bytes).await;
    commit(&warehouse, &[("shop", &name, &bytes)]).await;
    let asking = warehouse.clone();
    let committing = warehouse.0.delta.get().unwrap().tail();
    let (done, answer) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let shared = &asking.0;
        let log = shared.delta.get().unwrap();
        done.send(log.ensure(&shared.objects, &shared.footers.damaged, &partition("shop"), &[&name])).unwrap();
    });
    answer.recv_timeout(Duration::from_secs(60)).expect("an answer while a commit is under way").unwrap();
    drop(committing);
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_concurrent_committers_lose_no_file_and_write_checkpoints() {
    let dir = TempDir::new().unwrap();
    let bytes = file(0..2);
    let one = async || {
        let warehouse = open(&dir).await;
        let mut names = Vec::new();
        for _ in 0..30 {
            let name = store(&warehouse, "shop", &bytes).await;
            commit(&warehouse, &[("shop", &name, &bytes)]).await;
            names.push(name);
        }
        names
    };
    let names = futures_util::future::join_all((0..8).map(|_| one())).await.concat();
    let (files, version) = table(&dir);
    let stored: BTreeSet<_> = files.keys().map(|path| path.rsplit('/').next().unwrap().to_owned()).collect();
    assert_eq!(stored, names.into_iter().collect());
    assert_eq!(version, 240, "one commit each");
    let objects = Objects::local(dir.path().to_owned()).unwrap();
    let started = std::time::Instant::now();
    while Listing::read(&objects).unwrap().checkpoints.len() < 2 {
        assert!(started.elapsed() < Duration::from_secs(60), "no two checkpoints");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(table(&dir).0, files);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_left_uncommitted_by_a_crash_are_committed_when_their_rows_are_found() {
    let dir = TempDir::new().unwrap();
    let bytes = file(10..20);
    let plain = Warehouse::open_local(dir.path().to_owned()).unwrap();
    let name = store(&open(&dir).await, "shop", &bytes).await;
    for _ in 0..2 {
        let warehouse = open(&dir).await;
        assert!(table(&dir).0.len() <= 1);
        let footers = warehouse.footers(&partition("shop")).await.unwrap();
        let in_doubt = [(12, "12"), (12, "x"), (30, "30")].map(|(sequence, id)| RowId { sequence, id: id.to_owned() });
        assert_eq!(warehouse.confirm(footers, in_doubt.into()).await.unwrap(), [true, false, false]);
        let (files, version) = table(&dir);
        assert_eq!((files.len(), version), (1, 1));
        assert!(files.keys().all(|path| path.ends_with(&name)));
    }
    assert!(!plain.has_log());
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_that_differ_in_case_are_different_partitions_where_the_file_system_folds_case() {
    let dir = TempDir::new().unwrap();
    let folding = || Warehouse::of(Objects::local_that_folds_case(dir.path().to_owned()).unwrap());
    let warehouse = folding().keep_log(settings()).await.unwrap();
    let (one, other) = (file(0..5), file(5..12));
    let (a, b) = (store(&warehouse, "shop", &one).await, store(&warehouse, "Shop", &other).await);
    commit(&warehouse, &[("shop", &a, &one)]).await;
    for (app, sequence) in [("shop", 3), ("Shop", 7)] {
        let footers = warehouse.footers(&partition(app)).await.unwrap();
        let in_doubt = [3, 7].map(|sequence: u64| RowId { sequence, id: sequence.to_string() });
        let expected = [3, 7].map(|there| there == sequence);
        assert_eq!(warehouse.confirm(footers, in_doubt.into()).await.unwrap(), expected, "{app}");
    }
    let mut directories: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    directories.sort();
    assert_eq!(directories, ["_delta_log", "app_id=%53hop", "app_id=shop"]);
    let (files, _) = table(&dir);
    let rows = |path: &str| files.iter().find(|(file, _)| file.starts_with(path)).map(|(_, (_, rows))| *rows);
    // The log contains URIs.
    assert_eq!((rows("app_id=shop/"), rows("app_id=%2553hop/")), (Some(5), Some(7)));
    assert!(files.keys().any(|path| path.ends_with(&b)));
    let adopted = folding().keep_log(settings()).await.unwrap().adopt_files(true, || true, |_| {}).await.unwrap();
    assert_eq!(adopted, Some(Adopted { added: 0, known: 2, unreadable: 0, elsewhere: 0 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_log_adopts_existing_files() {
    let dir = TempDir::new().unwrap();
    let plain = Warehouse::open_local(dir.path().to_owned()).unwrap();
    let bytes = file(0..5);
    for app in ["a", "b", "b"] {
        store(&plain, app, &bytes).await;
    }
    std::fs::write(dir.path().join(partition("b").to_string()).join("events_broken.parquet"), b"no").unwrap();
    std::fs::create_dir(dir.path().join("other")).unwrap();
    std::fs::write(dir.path().join("other/events_1.parquet"), &bytes).unwrap();
    let warehouse = open(&dir).await;
    assert_eq!(table(&dir).0.len(), 0);
    let adopted = warehouse.adopt_files(false, || true, |_| {}).await.unwrap().unwrap();
    assert_eq!(adopted, Adopted { added: 3, known: 0, unreadable: 1, elsewhere: 1 });
    assert_eq!(table(&dir).0.values().map(|(_, rows)| rows).sum::<u64>(), 15);
    assert_eq!(warehouse.adopt_files(false, || true, |_| {}).await.unwrap(), None);
    assert_eq!(open(&dir).await.adopt_files(false, || true, |_| {}).await.unwrap(), None);
    store(&plain, "c", &bytes).await;
    let again = open(&dir).await.adopt_files(true, || true, |_| {}).await.unwrap().unwrap();
    assert_eq!(again, Adopted { added: 1, known: 3, unreadable: 1, elsewhere: 1 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_stored_by_an_older_process_meanwhile_is_adopted_too() {
    let dir = TempDir::new().unwrap();
    let (plain, bytes) = (Warehouse::open_local(dir.path().to_owned()).unwrap(), file(0..5));
    store(&plain, "b", &bytes).await;
    let warehouse = open(&dir).await;
    let (older, root) = (partition("a").to_string(), dir.path().to_owned());
    let (bytes, name) = (bytes.clone(), Warehouse::new_file_name());
    // The first walk has already passed it.
    let report = move |adopted: Adopted| {
        if adopted.added == 1 && !root.join(&older).exists() {
            std::fs::create_dir_all(root.join(&older)).unwrap();
            std::fs::write(root.join(&older).join(&name), &bytes).unwrap();
        }
    };
    let adopted = warehouse.adopt_files(false, || true, report).await.unwrap().unwrap();
    assert_eq!(adopted, Adopted { added: 2, ..Adopted::default() });
    assert_eq!(table(&dir).0.len(), 2);
    assert_eq!(warehouse.adopt_files(false, || true, |_| {}).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_reflects_replaced_and_removed_files() {
    let dir = TempDir::new().unwrap();
    let warehouse = open(&dir).await;
    let log = warehouse.0.delta.get().unwrap();
    let objects = Objects::local(dir.path().to_owned()).unwrap();
    let add = |path: &str, size: i64| action::Add {
        path: path.to_owned(),
        partition_values: action::StringMap::new(),
        size,
        modification_time: 1,
        data_change: true,
        stats: Some(r#"{"numRecords":1}"#.to_owned()),
    };
    let remove = |path: &str, at: i64| action::Remove {
        path: path.to_owned(),
        deletion_timestamp: Some(at),
        data_change: true,
        extended_file_metadata: None,
        partition_values: None,
        size: None,
    };
    let put = |actions: &[Action]| {
        let mut tail = log.tail();
        assert!(tail.append(&objects, "WRITE", actions).unwrap());
        tail.version
    };
    put(&["a", "b", "c", "d"].map(|path| add(path, 1).into()));
    let first = put(&[add("b", 2).into(), remove("c", unix_ms()).into()]);
    checkpoint::write(&objects, first).unwrap();
    let before = table(&dir);
    put(&[add("a", 3).into(), remove("d", 5).into(), add("e", 4).into()]);
    let second = put(&[add("e", 5).into()]);
    checkpoint::write(&objects, second).unwrap();
    assert_eq!(before.0, [("a", 1), ("b", 2), ("d", 1)].map(|(path, size)| (path.to_owned(), (size, 1))).into());
    let expected = [("a", 3), ("b", 2), ("e", 5)].map(|(path, size)| (path.to_owned(), (size, 1)));
    assert_eq!(table(&dir), (expected.into(), second));
    // Each file once; of the removed files only the one that readers may still look for.
    let (mut actions, checkpoint) = (Vec::new(), Listing::read(&objects).unwrap().checkpoints[&second].clone());
    let mut all = |some: Vec<Action>| {
        actions.extend(some);
        Ok(())
    };
    checkpoint.iter().for_each(|file| checkpoint_rows::read(&objects, file, Columns::All, &mut all).unwrap());
    let mut named: Vec<_> = actions.iter().filter_map(Action::file).collect();
    named.sort_unstable();
    assert_eq!(named, [("a", true), ("b", true), ("c", false), ("e", true)]);
    assert!(actions.iter().filter_map(|action| action.add.as_ref()).all(|add| !add.data_change));
    assert_eq!((actions.iter().filter(|action| action.protocol.is_some()).count(), actions.len()), (1, 7));
    let reopened = Tail::open(&objects).unwrap().unwrap();
    assert!(reopened.adopted && reopened.version == second);
}

#[tokio::test(flavor = "multi_thread")]
async fn reconciling_a_fenced_write_updates_the_log() {
    let dir = TempDir::new().unwrap();
    let warehouse = open(&dir).await;
    let fenced = |name: &str, bytes: &Bytes| FencedWrite {
        partition: partition("shop"),
        name: name.to_owned(),
        bytes: bytes.clone(),
    };
    // Other files have its first half: the rest stays under its name, with its new size.
    let (first, whole) = (file(0..5), file(0..10));
    let (a, b) = (store(&warehouse, "shop", &first).await, store(&warehouse, "shop", &whole).await);
    commit(&warehouse, &[("shop", &a, &first), ("shop", &b, &whole)]).await;
    let reconciled = warehouse.reconcile_fenced_write(&fenced(&b, &whole), true).await.unwrap();
    assert_eq!(reconciled, Reconciled::Replaced { removed: 5, kept: 5, duplicated: 0 });
    let agrees = || {
        for (path, (size, _)) in table(&dir).0 {
            assert_eq!(std::fs::metadata(dir.path().join(path)).unwrap().len(), size as u64);
        }
    };
    agrees();
    assert_eq!(table(&dir).0.values().map(|(_, rows)| rows).sum::<u64>(), 10);
    // Other files have all of its rows: it is removed.
    let again = store(&warehouse, "shop", &first).await;
    commit(&warehouse, &[("shop", &again, &first)]).await;
    let reconciled = warehouse.reconcile_fenced_write(&fenced(&again, &first), true).await.unwrap();
    assert_eq!(reconciled, Reconciled::Removed { rows: 5 });
    agrees();
    assert_eq!(table(&dir).0.len(), 2);
    // A file that stays but was never committed.
    let alone = file(50..60);
    let name = store(&warehouse, "shop", &alone).await;
    assert_eq!(warehouse.reconcile_fenced_write(&fenced(&name, &alone), true).await.unwrap(), Reconciled::Unchanged);
    assert_eq!(table(&dir).0.len(), 3);
    agrees();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_newer_protocol_is_refused() {
    let dir = TempDir::new().unwrap();
    drop(open(&dir).await);
    let newer = Action::from(Protocol { min_reader_version: 3, min_writer_version: 7 });
    std::fs::write(dir.path().join(LOG).join(log::commit_name(1)), action::encode(&[newer]).unwrap()).unwrap();
    let refused = Warehouse::open_local(dir.path().to_owned()).unwrap().keep_log(settings()).await.err().unwrap();
    assert_eq!(refused.kind, WarehouseErrorKind::Refused);
    assert!(refused.to_string().contains("DELTA_ENABLED=false"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_gap_is_refused() {
    let dir = TempDir::new().unwrap();
    let (warehouse, bytes) = (open(&dir).await, file(0..1));
    for _ in 0..3 {
        let name = store(&warehouse, "shop", &bytes).await;
        commit(&warehouse, &[("shop", &name, &bytes)]).await;
    }
    std::fs::remove_file(dir.path().join(LOG).join(log::commit_name(2))).unwrap();
    let corrupt = Warehouse::open_local(dir.path().to_owned()).unwrap().keep_log(settings()).await.err().unwrap();
    assert_eq!(corrupt.kind, WarehouseErrorKind::Corrupt);
    assert!(corrupt.to_string().contains("00000000000000000002"), "{corrupt}");
}

#[test]
fn checkpoint_rows_survive_the_round_trip() {
    let texts = |pairs: &[(&str, Option<&str>)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(str::to_owned))).collect()
    };
    let add = action::Add {
        path: "p".to_owned(),
        partition_values: texts(&[("app_id", Some("null")), ("hour", None)]),
        size: 1,
        modification_time: 2,
        data_change: true,
        stats: Some("{}".to_owned()),
    };
    let remove = action::Remove {
        path: "q".to_owned(),
        deletion_timestamp: Some(3),
        data_change: false,
        extended_file_metadata: Some(true),
        partition_values: Some(texts(&[("app_id", Some("x"))])),
        size: Some(4),
    };
    let actions: Vec<Action> = vec![
        Protocol::OURS.into(),
        table::metadata(&PromotedColumns::default(), 5).into(),
        adopted(6).into(),
        add.clone().into(),
        action::Add { stats: None, partition_values: texts(&[]), ..add }.into(),
        remove.clone().into(),
        action::Remove { deletion_timestamp: None, partition_values: None, size: None, ..remove }.into(),
    ];
    let dir = TempDir::new().unwrap();
    let objects = Objects::local(dir.path().to_owned()).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(Vec::new(), checkpoint_rows::schema(), None).unwrap();
    writer.write(&checkpoint_rows::encode(&actions).unwrap()).unwrap();
    let bytes = Bytes::from(writer.into_inner().unwrap());
    objects.store(LOG, &log::checkpoint_name(7, 1, 1), &bytes, || true).unwrap();
    let file = objects.list(LOG).unwrap().remove(0);
    let mut read = Vec::new();
    checkpoint_rows::read(&objects, &file, Columns::All, &mut |some| {
        read.extend(some);
        Ok(())
    })
    .unwrap();
    assert_eq!(read, actions);
    assert_eq!(action::decode(&action::encode(&actions).unwrap()).unwrap(), actions);
}
