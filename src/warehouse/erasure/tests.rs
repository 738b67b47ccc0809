//! Erasure on a real directory with a real log: the rows of one person are removed, all others stay unchanged.

use std::path::{Path, PathBuf};

use prost::Message;

use super::*;
use crate::event::proto::{EventEnvelope, UserLogin, event_envelope::Payload};
use crate::warehouse::compaction::tests::{
    compact, file_of, full_rows, names, open, partition, settings, sorted, store_file, table,
};
use crate::warehouse::layout::is_compacted;
use crate::warehouse::{CompactionOutcome, RowId};

/// Every seventh row has the device `lost`, every eleventh the user `gone`.
fn mixed(sequence: u64) -> Vec<u8> {
    let device_id = if sequence.is_multiple_of(7) { "lost".to_owned() } else { format!("device-{}", sequence % 50) };
    let user_id = if sequence.is_multiple_of(11) { "gone".to_owned() } else { String::new() };
    row(sequence, device_id, user_id)
}

fn row(sequence: u64, device_id: String, user_id: String) -> Vec<u8> {
    let event = EventEnvelope {
        id: format!("id-{sequence}"),
        app_id: "shop".to_owned(),
        device_id,
        user_id,
        timestamp_ms: partition().hour * 3_600_000 + sequence as i64,
        payload: Some(Payload::UserLogin(UserLogin::default())),
        ..Default::default()
    };
    event.encode_to_vec()
}

fn lost() -> PersonId {
    PersonId::Device("lost".to_owned())
}

async fn find_all(warehouse: &Warehouse, person: &PersonId) -> PersonSearch {
    find_in(warehouse, person, None).await
}

async fn find_in(warehouse: &Warehouse, person: &PersonId, app_id: Option<&str>) -> PersonSearch {
    let person = Person { id: person.clone(), app_id: app_id.map(str::to_owned) };
    warehouse.find_person(&person, |_| true).await.unwrap()
}

async fn erase_with(warehouse: &Warehouse, person: &PersonId, settings: &CompactionSettings) -> Erased {
    let outcome = warehouse.erase(&partition(), person, settings, |_| true).await.unwrap();
    let ErasureOutcome::Done(erased) = outcome else { panic!("{outcome:?}") };
    erased
}

fn paths(dir: &Path) -> Vec<PathBuf> {
    names(dir).into_iter().map(|name| dir.join(partition().to_string()).join(name)).collect()
}

fn all_rows(dir: &Path) -> Vec<Vec<String>> {
    sorted(paths(dir).iter().flat_map(|path| full_rows(path)).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rows_of_a_device_are_removed_and_all_others_stay_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..3 {
        store_file(&warehouse, file_of(n * 2_000..(n + 1) * 2_000, mixed)).await;
    }
    let without = store_file(&warehouse, file_of(6_000..6_100, |n| row(n, "other".into(), "u".into()))).await;
    let all = store_file(&warehouse, file_of(6_100..6_200, |n| row(n, "lost".into(), String::new()))).await;
    let mut expected = all_rows(dir.path());
    expected.retain(|row| row[1] != "lost");
    let found = find_all(&warehouse, &lost()).await;
    let rows = (0..6_000).filter(|n| n % 7 == 0).count() as u64 + 100;
    assert_eq!((found.partitions, found.files), (1, 5));
    assert_eq!(found.found.iter().map(|found| (found.files, found.rows)).collect::<Vec<_>>(), [(4, rows)]);

    let erased = erase_with(&warehouse, &lost(), &settings()).await;
    assert_eq!((erased.files_replaced, erased.files_written, erased.rows_erased), (4, 3, rows));
    assert_eq!((erased.files_waiting, erased.left), (0, Vec::new()));
    let there = names(dir.path());
    assert!(there.contains(&without) && !there.contains(&all) && there.len() == 4, "{there:?}");
    assert_eq!(all_rows(dir.path()), expected, "every column of every other row");
    assert_eq!(table(dir.path()).len(), expected.len());
    assert!(find_all(&warehouse, &lost()).await.found.is_empty());
    assert_eq!(erase_with(&warehouse, &lost(), &settings()).await, Erased::default());
    // Checked by the stored files alone, and by a new process.
    assert!(find_all(&open(dir.path()).await, &lost()).await.found.is_empty());
    for path in paths(dir.path()) {
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(4).any(|window| window == b"lost"), "not in bounds either: {}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_device_with_the_same_id_are_different_persons() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store_file(&warehouse, file_of(0..2_000, mixed)).await;
    let device = PersonId::Device("gone".to_owned());
    assert!(find_all(&warehouse, &device).await.found.is_empty());
    let user = PersonId::User("gone".to_owned());
    let erased = erase_with(&warehouse, &user, &settings()).await;
    assert_eq!(erased.rows_erased, (0..2_000).filter(|n| n % 11 == 0).count() as u64);
    let found = find_in(&warehouse, &lost(), Some("other")).await;
    assert_eq!((found.files, found.found.len()), (0, 0), "another app's files are not looked into");
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivered_messages_are_found_unless_they_were_erased() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    store_file(&warehouse, file_of(1..100, mixed)).await;
    erase_with(&warehouse, &lost(), &settings()).await;
    for warehouse in [warehouse, open(dir.path()).await] {
        let footers = warehouse.footers(&partition()).await.unwrap();
        let in_doubt = (1..100).map(|sequence| RowId { sequence, id: format!("id-{sequence}") }).collect();
        let stored = warehouse.confirm(footers, in_doubt).await.unwrap();
        let expected: Vec<bool> = (1..100).map(|sequence| sequence % 7 != 0).collect();
        assert_eq!(stored, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compacted_and_replaced_files_are_searched_too() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..3 {
        store_file(&warehouse, file_of(n * 500..(n + 1) * 500, mixed)).await;
    }
    let keeping = CompactionSettings { keep_replaced: true, ..settings() };
    assert!(matches!(compact(&warehouse, &keeping).await, CompactionOutcome::Done(_)));
    let erased = erase_with(&warehouse, &lost(), &keeping).await;
    // The three that compaction kept, and the one that erasure kept.
    assert_eq!((erased.files_replaced, erased.files_waiting), (1, 4));
    assert_eq!(table(dir.path()).len(), (0..1_500).filter(|n| n % 7 != 0).count());
    let vacuumed = warehouse.vacuum(&keeping, std::time::Duration::ZERO, |_| true).await.unwrap();
    assert_eq!((vacuumed.files, vacuumed.waiting), (4, 0));
    assert!(find_all(&warehouse, &lost()).await.found.is_empty());
    assert!(names(dir.path()).iter().all(|name| is_compacted(name)));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_erased_are_reported_and_the_others_are_erased() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let damaged = store_file(&warehouse, file_of(0..500, mixed)).await;
    store_file(&warehouse, file_of(500..1_000, mixed)).await;
    let unnamed = Warehouse::new_file_name();
    let bytes = file_of(1_000..1_100, mixed);
    assert!(warehouse.store(&partition(), &unnamed, bytes, || true).await.unwrap());
    let path = dir.path().join(partition().to_string()).join(&damaged);
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len() - 40;
    bytes[end] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let found = find_all(&warehouse, &lost()).await;
    assert!(found.unreadable.len() == 1 && found.unreadable[0].contains(&damaged), "{found:?}");
    let erased = erase_with(&warehouse, &lost(), &settings()).await;
    assert_eq!(erased.files_replaced, 1);
    let names_it = |name: &str, why: &str| erased.left.iter().any(|left| left.contains(name) && left.contains(why));
    assert!(names_it(&damaged, "cannot be read") && names_it(&unnamed, "lake init"), "{erased:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged file stays");
    warehouse.adopt_files(true, || true, |_| {}).await.unwrap();
    assert_eq!(erase_with(&warehouse, &lost(), &settings()).await.files_replaced, 1);
}

/// The footer and the id column are intact, another column is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_page_does_not_stop_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    let damaged = store_file(&warehouse, file_of(0..500, mixed)).await;
    store_file(&warehouse, file_of(500..1_000, mixed)).await;
    let path = dir.path().join(partition().to_string()).join(&damaged);
    let mut bytes = std::fs::read(&path).unwrap();
    // The values of the first page, which belong to `id`.
    bytes[60..400].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    let found = find_all(&warehouse, &lost()).await;
    assert_eq!((found.found.len(), found.found[0].files, found.unreadable.len()), (1, 2, 0), "{found:?}");
    let erased = erase_with(&warehouse, &lost(), &settings()).await;
    assert_eq!((erased.files_replaced, erased.left.len()), (1, 1), "{erased:?}");
    assert!(erased.left[0].contains(&damaged), "{erased:?}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged file stays");
}

/// Another worker holds the lease from the start, or changes the partition meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_one_partition_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = open(dir.path()).await;
    for n in 0..3 {
        store_file(&warehouse, file_of(n * 500..(n + 1) * 500, mixed)).await;
    }
    let (other, handle) = (warehouse.clone(), tokio::runtime::Handle::current());
    let tried = std::sync::atomic::AtomicBool::new(false);
    let throttle = move |_: CompactionProgress| {
        if !tried.swap(true, std::sync::atomic::Ordering::SeqCst) {
            let outcome = handle.block_on(compact(&other, &settings()));
            assert_eq!(outcome, CompactionOutcome::Busy);
        }
        true
    };
    let outcome = warehouse.erase(&partition(), &lost(), &settings(), throttle).await.unwrap();
    assert!(matches!(&outcome, ErasureOutcome::Done(erased) if erased.files_replaced == 3), "{outcome:?}");
    let stopped =
        warehouse.erase(&partition(), &PersonId::User("gone".to_owned()), &settings(), |_| false).await.unwrap();
    assert_eq!(stopped, ErasureOutcome::Stopped);
    assert_eq!(table(dir.path()).len(), (0..1_500).filter(|n| n % 7 != 0).count());
}
