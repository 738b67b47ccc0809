//! Retention on a real directory with a real log: expired partitions are removed as a whole, and nothing else is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use uuid::Uuid;

use super::*;
use crate::event::EventRef;
use crate::event::proto::{EventEnvelope, UserLogin, event_envelope::Payload};
use crate::services::s3::S3Server;
use crate::warehouse::layout::HOUR_MS;
use crate::warehouse::maintenance::Lease;
use crate::warehouse::{
    CompactionOutcome, CompactionSettings, Compression, DeltaSettings, EncodeSettings, Encoder, ObjectSettings, Origin,
    RowId, WarehouseErrorKind,
};

const STREAM: &str = "EVENTS";

/// An hour that began this many days ago.
fn hour(days_ago: i64) -> i64 {
    unix_ms() / HOUR_MS - days_ago * 24
}

fn partition(app_id: &str, days_ago: i64) -> Partition {
    Partition { app_id: app_id.to_owned(), hour: hour(days_ago) }
}

/// Ten days; two for `short`; forever for `long`.
fn settings() -> RetentionSettings {
    let days = |days: u64| Some(Duration::from_secs(days * 24 * 3_600));
    let apps = BTreeMap::from([("short".to_owned(), days(2)), ("long".to_owned(), None)]);
    RetentionSettings { rules: RetentionRules { all: days(10), apps }, keep_removed: false }
}

async fn open(dir: &Path) -> Warehouse {
    let warehouse = Warehouse::open_local(dir.to_owned()).unwrap();
    warehouse.keep_log(DeltaSettings { retention: Duration::from_secs(3_600) }).await.unwrap()
}

fn file(partition: &Partition, sequence: u64) -> bytes::Bytes {
    let encode =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 700, stream: STREAM.to_owned() };
    let mut encoder = Encoder::new(encode).unwrap();
    let mut file = encoder.open(&partition.app_id);
    let event = EventEnvelope {
        id: format!("id-{sequence}"),
        app_id: partition.app_id.clone(),
        device_id: "d".to_owned(),
        timestamp_ms: partition.hour * HOUR_MS,
        payload: Some(Payload::UserLogin(UserLogin::default())),
        ..Default::default()
    }
    .encode_to_vec();
    encoder.push(&mut file, &EventRef::decode(&event).unwrap(), Origin { sequence, received_at_ms: 7 }).unwrap();
    encoder.finish(file, [sequence].into_iter()).unwrap()
}

/// Stores a file, as the sink does before committing it.
async fn store(warehouse: &Warehouse, partition: &Partition, sequence: u64) -> (String, bytes::Bytes) {
    let (name, bytes) = (Warehouse::new_file_name(), file(partition, sequence));
    assert!(warehouse.store(partition, &name, bytes.clone(), || true).await.unwrap());
    (name, bytes)
}

async fn commit(warehouse: &Warehouse, partition: &Partition, (name, bytes): (String, bytes::Bytes)) {
    let commit = warehouse.begin_commit(vec![(partition.clone(), name, bytes)]).await.unwrap();
    if let Some(commit) = commit {
        commit.ensure_committed().await.unwrap();
    }
}

async fn add(warehouse: &Warehouse, partition: &Partition, sequence: u64) -> String {
    let stored = store(warehouse, partition, sequence).await;
    commit(warehouse, partition, stored.clone()).await;
    stored.0
}

async fn look(warehouse: &Warehouse, settings: &RetentionSettings) -> OldPartitions {
    warehouse.old_partitions(settings, None, |_| true).await.unwrap()
}

async fn expire_all(warehouse: &Warehouse, settings: &RetentionSettings) -> Vec<Expired> {
    let mut done = Vec::new();
    for old in look(warehouse, settings).await.partitions {
        match warehouse.expire(&old, settings).await.unwrap() {
            ExpiryOutcome::Done(expired) => done.push(expired),
            other => panic!("{other:?}"),
        }
    }
    done
}

/// What a reader of the log sees: the paths of the table's files, and how many files each commit removes.
fn table(dir: &Path) -> (Vec<String>, Vec<usize>) {
    let mut files = BTreeMap::new();
    let mut removals = Vec::new();
    let mut commits: Vec<PathBuf> =
        std::fs::read_dir(dir.join("_delta_log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    commits.retain(|path| path.extension().is_some_and(|end| end == "json"));
    commits.sort();
    for commit in commits {
        let mut removed = 0;
        for line in std::fs::read_to_string(commit).unwrap().lines() {
            let action: serde_json::Value = serde_json::from_str(line).unwrap();
            if let Some(path) = action["add"]["path"].as_str() {
                files.insert(path.to_owned(), true);
            }
            if let Some(path) = action["remove"]["path"].as_str() {
                assert!(action["remove"]["dataChange"] == true && action["remove"]["deletionTimestamp"].is_i64());
                files.insert(path.to_owned(), false);
                removed += 1;
            }
        }
        removals.extend((removed > 0).then_some(removed));
    }
    (files.into_iter().filter(|(_, there)| *there).map(|(path, _)| path).collect(), removals)
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_partitions_expire_by_the_rule_of_their_app() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let goes = [partition("shop", 11), partition("shop", 400), partition("short", 3)];
    let stays = [partition("shop", 9), partition("short", 1), partition("long", 4_000), partition("shop", -1)];
    for (n, partition) in goes.iter().chain(&stays).enumerate() {
        for part in 0..3 {
            add(&warehouse, partition, n as u64 * 3 + part).await;
        }
    }
    let found = look(&warehouse, &settings()).await;
    assert_eq!((found.partitions.len(), found.files(), found.more), (3, 9, false));
    assert_eq!((found.oldest(), found.newest()), (Some(&goes[1]), Some(&goes[2])));
    let of_app = warehouse.old_partitions(&settings(), Some("short"), |_| true).await.unwrap();
    assert_eq!(of_app.partitions.len(), 1);
    // Searching touches no file.
    assert_eq!(table(dir.path()).0.len(), 21);

    let done = expire_all(&warehouse, &settings()).await;
    assert!(done.iter().all(|done| done.files == 3 && done.left.is_empty()), "{done:?}");
    let (files, removals) = table(dir.path());
    // One commit per partition.
    assert_eq!((files.len(), removals), (12, vec![3, 3, 3]));
    assert!(files.iter().all(|path| stays.iter().any(|stays| path.starts_with(&stays.to_string()))));
    // Empty directories are removed too, and no others.
    for partition in &goes {
        assert!(!dir.path().join(partition.to_string()).exists(), "{partition}");
    }
    assert!(dir.path().join("app_id=shop").is_dir() && !dir.path().join("app_id=shop").join("year=1999").exists());
    assert!(dir.path().join(stays[1].to_string()).is_dir());
    assert!(look(&warehouse, &settings()).await.partitions.is_empty());

    // A late event is removed by the next pass, of this process or another.
    add(&warehouse, &goes[0], 100).await;
    let other = open(dir.path()).await;
    assert_eq!(expire_all(&other, &settings()).await.len(), 1);
    assert!(look(&warehouse, &settings()).await.partitions.is_empty());
    // And is not added to the table again.
    add(&warehouse, &goes[0], 101).await;
    assert_eq!(table(dir.path()).0.len(), 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_not_in_the_table_foreign_or_damaged_stay() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let old = partition("shop", 20);
    let directory = dir.path().join(old.to_string());
    let damaged = add(&warehouse, &old, 1).await;
    let gone = add(&warehouse, &old, 2).await;
    let (uncommitted, bytes) = store(&warehouse, &old, 3).await;
    std::fs::write(directory.join("notes.txt"), "not ours").unwrap();
    let whole = std::fs::read(directory.join(&damaged)).unwrap();
    std::fs::write(directory.join(&damaged), &whole[..whole.len() / 2]).unwrap();

    let found = look(&warehouse, &settings()).await;
    assert_eq!((found.unnamed_files, found.foreign_files), (1, 1));
    let done = expire_all(&warehouse, &settings()).await;
    assert_eq!((done.len(), done[0].files), (1, 1));
    let mut left = done[0].left.clone();
    left.sort();
    let mut expected = vec![damaged.clone(), uncommitted.clone(), "notes.txt".to_owned()];
    expected.sort();
    assert_eq!(left, expected);
    assert!(!directory.join(gone).exists());
    assert!(expected.iter().all(|name| directory.join(name).exists()));
    assert!(warehouse.damage().unwrap().contains(&damaged));
    assert!(look(&warehouse, &settings()).await.partitions.is_empty());
    // Once the sink that stored it commits it, it is removed as well.
    commit(&warehouse, &old, (uncommitted.clone(), bytes)).await;
    assert_eq!(expire_all(&warehouse, &settings()).await[0].files, 1);
    assert!(!directory.join(&uncommitted).exists() && directory.join("notes.txt").exists());
    assert_eq!(table(dir.path()).0, [format!("{old}/{damaged}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_files_leave_the_table_and_stay_until_a_vacuum() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let old = partition("shop", 20);
    let name = add(&warehouse, &old, 1).await;
    let keeping = RetentionSettings { keep_removed: true, ..settings() };
    assert_eq!(expire_all(&warehouse, &keeping).await[0].files, 1);
    let path = dir.path().join(old.to_string()).join(name);
    assert!(path.exists() && table(dir.path()).0.is_empty());
    assert!(look(&warehouse, &keeping).await.partitions.is_empty());
    let vacuum = compaction_settings(true);
    let waiting = warehouse.vacuum(&vacuum, Duration::from_secs(3_600), |_| true).await.unwrap();
    assert_eq!((waiting.files, waiting.waiting), (0, 1));
    let done = warehouse.vacuum(&vacuum, Duration::ZERO, |_| true).await.unwrap();
    assert!(done.files == 1 && !path.parent().unwrap().exists());
    // A process was killed after its commit and before removing the files: the next pass removes them.
    let name = add(&warehouse, &old, 2).await;
    expire_all(&warehouse, &keeping).await;
    assert_eq!(expire_all(&warehouse, &settings()).await[0].files, 1);
    assert!(!dir.path().join(old.to_string()).join(name).exists());
}

fn compaction_settings(keep_replaced: bool) -> CompactionSettings {
    CompactionSettings {
        target_bytes: 128 << 20,
        files_min: 2,
        age_min: Duration::ZERO,
        keep_replaced,
        compression: Compression::Snappy,
        row_group_rows: 1_000,
        scratch: PathBuf::from("/nonexistent"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_partitions_expire_and_a_leased_one_waits() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let old = partition("shop", 20);
    add(&warehouse, &old, 1).await;
    add(&warehouse, &old, 2).await;
    let outcome = warehouse.compact(&old, &compaction_settings(true), |_| true).await.unwrap();
    assert!(matches!(outcome, CompactionOutcome::Done(_)), "{outcome:?}");
    let found = look(&warehouse, &settings()).await;
    let shared = &warehouse.0;
    let lease = {
        let (shared, old) = (shared.clone(), old.clone());
        tokio::task::spawn_blocking(move || Lease::acquire(&shared.objects, &shared.leases, &old, Uuid::now_v7()))
    };
    let lease = lease.await.unwrap().unwrap().unwrap();
    assert_eq!(warehouse.expire(&found.partitions[0], &settings()).await.unwrap(), ExpiryOutcome::Busy);
    lease.release(&shared.objects).unwrap();
    // Along with the files that the compacted file replaced.
    let ExpiryOutcome::Done(done) = warehouse.expire(&found.partitions[0], &settings()).await.unwrap() else {
        panic!()
    };
    assert_eq!(done.files, 3);
    assert_eq!(warehouse.expire(&found.partitions[0], &settings()).await.unwrap(), ExpiryOutcome::Nothing);
    let outcome = warehouse.compact(&old, &compaction_settings(false), |_| true).await.unwrap();
    assert_eq!(outcome, CompactionOutcome::Nothing);
}

/// Footers were read while the files existed, and rows are looked up after the files are removed.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_during_removal_is_retried() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let old = partition("shop", 20);
    let stored = store(&warehouse, &old, 7).await;
    commit(&warehouse, &old, stored).await;
    let in_doubt = || vec![RowId { sequence: 7, id: "id-7".to_owned() }];
    let footers = warehouse.footers(&old).await.unwrap();
    assert!(footers.may_hold(7));
    expire_all(&warehouse, &settings()).await;
    // The rows may have moved to other files: the sink lists again.
    assert_eq!(warehouse.confirm(footers, in_doubt()).await.unwrap_err().kind, WarehouseErrorKind::Unavailable);
    let footers = warehouse.footers(&old).await.unwrap();
    assert!(!footers.may_hold(7));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_log_the_files_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::open_local(dir.path().to_owned()).unwrap();
    let (old, young) = (partition("shop", 20), partition("shop", 2));
    let (name, _) = store(&warehouse, &old, 1).await;
    store(&warehouse, &young, 2).await;
    std::fs::write(dir.path().join(old.to_string()).join("notes.txt"), "not ours").unwrap();
    let done = expire_all(&warehouse, &settings()).await;
    assert_eq!((done.len(), done[0].files, done[0].left.as_slice()), (1, 1, &["notes.txt".to_owned()][..]));
    assert!(!dir.path().join(old.to_string()).join(name).exists());
    assert!(dir.path().join(young.to_string()).is_dir());
    assert!(look(&warehouse, &settings()).await.partitions.is_empty());
}

/// On an object store, whose clock decides.
#[tokio::test(flavor = "multi_thread")]
async fn whole_partitions_of_a_bucket_expire() {
    let s3 = S3Server::start();
    let warehouse = Warehouse::open_objects(ObjectSettings::of_test(&s3)).await.unwrap();
    let warehouse = warehouse.keep_log(DeltaSettings { retention: Duration::from_secs(3_600) }).await.unwrap();
    let (old, young) = (partition("shop", 20), partition("shop", 2));
    for (n, partition) in [&old, &old, &young].into_iter().enumerate() {
        add(&warehouse, partition, n as u64).await;
    }
    assert_eq!(expire_all(&warehouse, &settings()).await[0].files, 2);
    let files = table(&s3.bucket()).0;
    assert!(files.len() == 1 && files[0].starts_with(&young.to_string()), "{files:?}");
    let names =
        |partition: &Partition| std::fs::read_dir(s3.bucket().join(partition.to_string())).map_or(0, Iterator::count);
    assert_eq!((names(&old), names(&young)), (0, 1));
    assert!(look(&warehouse, &settings()).await.partitions.is_empty());
}
