//! Fenced writes in a directory and in an object store: no row is lost, and none stays in two files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use crate::event::proto::EventEnvelope;
use crate::event::proto::event_envelope::Payload;
use crate::event::{EventRef, proto::UserLogin};
use crate::services::s3::{Fault, S3Server};
use crate::warehouse::file::scan;
use crate::warehouse::layout::is_data_file;
use crate::warehouse::*;

/// A warehouse that several processes have open.
pub(super) enum Place {
    Local(tempfile::TempDir),
    S3(S3Server),
}

impl Place {
    pub(super) fn both() -> [Self; 2] {
        [Self::Local(tempfile::tempdir().unwrap()), Self::S3(S3Server::start())]
    }

    /// Opens it as another process would, with separate caches.
    pub(super) async fn open(&self) -> Warehouse {
        match self {
            Self::Local(dir) => Warehouse::open_local(dir.path().to_owned()).unwrap(),
            Self::S3(server) => Warehouse::open_objects(ObjectSettings::of_test(server)).await.unwrap(),
        }
    }

    fn root(&self) -> PathBuf {
        match self {
            Self::Local(dir) => dir.path().to_owned(),
            Self::S3(server) => server.bucket(),
        }
    }

    pub(super) fn directory(&self) -> PathBuf {
        self.root().join(partition().to_string())
    }

    fn names(&self) -> Vec<String> {
        names_in(&self.directory())
    }

    pub(super) fn marks_directory(&self) -> PathBuf {
        self.root().join(fenced::MARKS)
    }

    pub(super) fn marks(&self) -> Vec<String> {
        names_in(&self.marks_directory())
    }

    /// The number of files that hold each row.
    fn rows(&self) -> BTreeMap<u64, usize> {
        let mut rows = BTreeMap::new();
        for name in self.names().iter().filter(|name| is_data_file(name)) {
            let file = Bytes::from(std::fs::read(self.directory().join(name)).unwrap());
            for (sequence, id) in scan::rows(file).unwrap() {
                assert_eq!(id, id_of(sequence));
                *rows.entry(sequence).or_default() += 1;
            }
        }
        rows
    }

    fn assert_each_once(&self, sequences: impl Iterator<Item = u64>) {
        assert_eq!(self.rows(), sequences.map(|sequence| (sequence, 1)).collect());
        assert!(self.marks().is_empty(), "no mark stays: {:?}", self.marks());
    }
}

fn names_in(directory: &std::path::Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<String> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

pub(super) fn partition() -> Partition {
    Partition { app_id: "shop".to_owned(), hour: 490_000 }
}

pub(super) fn id_of(sequence: u64) -> String {
    format!("id-{sequence}")
}

pub(super) fn name(n: u32) -> String {
    format!("events_{n:04}.parquet")
}

pub(super) fn file(sequences: impl Iterator<Item = u64> + Clone) -> Bytes {
    let settings =
        EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 40, stream: "EVENTS".to_owned() };
    let mut encoder = Encoder::new(settings).unwrap();
    let mut open = encoder.open("shop");
    for sequence in sequences.clone() {
        let event = EventEnvelope {
            id: id_of(sequence),
            app_id: "shop".to_owned(),
            payload: Some(Payload::UserLogin(UserLogin::default())),
            ..Default::default()
        }
        .encode_to_vec();
        let origin = Origin { sequence, received_at_ms: 1 };
        encoder.push(&mut open, &EventRef::decode(&event).unwrap(), origin).unwrap();
    }
    encoder.finish(open, sequences).unwrap()
}

/// Stores a file, and returns it as the fenced write of a process whose lease ended meanwhile.
pub(super) async fn store(warehouse: &Warehouse, n: u32, sequences: impl Iterator<Item = u64> + Clone) -> FencedWrite {
    let write = FencedWrite { partition: partition(), name: name(n), bytes: file(sequences) };
    assert!(warehouse.store(&write.partition, &write.name, write.bytes.clone(), || true).await.unwrap());
    write
}

pub(super) async fn holds(warehouse: &Warehouse, sequence: u64) -> bool {
    let footers = warehouse.footers(&partition()).await.unwrap();
    let row = RowId { sequence, id: id_of(sequence) };
    footers.may_hold(sequence) && warehouse.confirm(footers, vec![row]).await.unwrap()[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_keeps_the_rows_that_no_other_file_holds() {
    for place in Place::both() {
        let (ours, theirs) = (place.open().await, place.open().await);
        let write = store(&ours, 5, 1..=100).await;
        assert_eq!(
            ours.reconcile_fenced_write(&write, true).await.unwrap(),
            Reconciled::Unchanged,
            "not its own double"
        );
        assert_eq!(std::fs::read(place.directory().join(name(5))).unwrap(), write.bytes);
        store(&theirs, 1, 1..=30).await;
        store(&theirs, 9, 71..=80).await;
        // Both have cached the original file.
        assert!(holds(&ours, 75).await && holds(&theirs, 75).await);
        let outcome = ours.reconcile_fenced_write(&write, true).await.unwrap();
        assert_eq!(outcome, Reconciled::Replaced { removed: 40, kept: 60, duplicated: 0 });
        place.assert_each_once(1..=100);
        assert_eq!(
            ours.reconcile_fenced_write(&write, true).await.unwrap(),
            Reconciled::Unchanged,
            "once more changes nothing"
        );
        place.assert_each_once(1..=100);
        // Neither still finds the dropped rows.
        std::fs::remove_file(place.directory().join(name(9))).unwrap();
        for warehouse in [&ours, &theirs] {
            assert!(!holds(warehouse, 75).await && holds(warehouse, 81).await && holds(warehouse, 30).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_whose_rows_others_hold_is_removed() {
    for place in Place::both() {
        let warehouse = place.open().await;
        store(&warehouse, 1, 1..=60).await;
        store(&warehouse, 9, 61..=90).await;
        let write = store(&warehouse, 5, 41..=90).await;
        assert_eq!(warehouse.reconcile_fenced_write(&write, true).await.unwrap(), Reconciled::Removed { rows: 50 });
        place.assert_each_once(1..=90);
        // As after a lost response.
        assert_eq!(warehouse.reconcile_fenced_write(&write, true).await.unwrap(), Reconciled::Unchanged);
        assert_eq!(place.names(), [name(1), name(9)], "what is not there is not stored");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_waits_for_those_that_are_reconciled_first() {
    for place in Place::both() {
        let warehouse = place.open().await;
        let (first, second) = (store(&warehouse, 1, 1..=60).await, store(&warehouse, 2, 41..=100).await);
        let mark = |write: &FencedWrite| place.marks_directory().join(fenced::mark_name(&write.name));
        warehouse.mark_fenced_write(&first).await.unwrap();
        assert_eq!(warehouse.reconcile_fenced_write(&second, true).await.unwrap(), Reconciled::Blocked { rows: 20 });
        assert!(mark(&second).exists(), "it is settled still");
        assert_eq!(
            warehouse.reconcile_fenced_write(&first, true).await.unwrap(),
            Reconciled::Unchanged,
            "the other one waits"
        );
        let outcome = warehouse.reconcile_fenced_write(&second, true).await.unwrap();
        assert_eq!(outcome, Reconciled::Replaced { removed: 20, kept: 40, duplicated: 0 });
        place.assert_each_once(1..=100);

        let third = store(&warehouse, 3, 91..=120).await;
        warehouse.mark_fenced_write(&second).await.unwrap();
        let outcome = warehouse.reconcile_fenced_write(&third, false).await.unwrap();
        assert_eq!(outcome, Reconciled::Replaced { removed: 0, kept: 30, duplicated: 10 }, "doubled rather than lost");
        assert_eq!(place.rows().len(), 120);
    }
}

/// A process marks its fenced write and dies. Another one finds the mark and reconciles the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_write_of_a_dead_process_is_reconciled_by_another() {
    for place in Place::both() {
        let (dead, other) = (place.open().await, place.open().await);
        let write = store(&dead, 5, 1..=100).await;
        store(&other, 9, 71..=100).await;
        dead.mark_fenced_write(&write).await.unwrap();
        let never_stored = FencedWrite { name: name(7), ..write };
        dead.mark_fenced_write(&never_stored).await.unwrap();
        assert!(
            other.abandoned_fenced_writes(Duration::from_secs(3_600)).await.unwrap().is_empty(),
            "it may still live"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
        let abandoned = other.abandoned_fenced_writes(Duration::from_millis(40)).await.unwrap();
        assert_eq!(abandoned.iter().map(|write| write.name.clone()).collect::<Vec<_>>(), [name(5)]);
        let outcome = other.reconcile_fenced_write(&abandoned[0], true).await.unwrap();
        assert_eq!(outcome, Reconciled::Replaced { removed: 30, kept: 70, duplicated: 0 });
        place.assert_each_once(1..=100);
    }
}

fn must_wait(outcome: Reconciled) -> bool {
    matches!(outcome, Reconciled::Blocked { .. })
}

/// Three processes resume at the same time, each with a fenced write, and some rows are in ordinary files.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fenced_writes_that_are_reconciled_concurrently_lose_no_row() {
    for place in Place::both() {
        let processes = [place.open().await, place.open().await, place.open().await];
        let rounds = if matches!(place, Place::Local(_)) { 40 } else { 6 };
        for round in 0..rounds {
            let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(round + 1);
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let mut all = std::collections::BTreeSet::new();
            let mut files = Vec::new();
            for n in 0..4 {
                let first = random(60) + 1;
                let sequences = first..=first + random(60);
                all.extend(sequences.clone());
                files.push(store(&processes[0], n, sequences).await);
            }
            // One of the four files is an ordinary one.
            files.remove(random(4) as usize);
            let reconcile = async |process: &Warehouse, write: &FencedWrite, delay: u64| {
                tokio::time::sleep(Duration::from_micros(delay)).await;
                // A file that is removed after it was listed causes an error; retry.
                while !matches!(process.reconcile_fenced_write(write, true).await, Ok(outcome) if !must_wait(outcome)) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            };
            let delays = [random(2_000), random(2_000), random(2_000)];
            tokio::join!(
                reconcile(&processes[0], &files[0], delays[0]),
                reconcile(&processes[1], &files[1], delays[1]),
                reconcile(&processes[2], &files[2], delays[2]),
            );
            place.assert_each_once(all.into_iter());
            for name in place.names() {
                std::fs::remove_file(place.directory().join(name)).unwrap();
            }
        }
    }
}

/// Reconciling that fails midway is retried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fails_during_reconciling_loses_no_row() {
    let place = Place::S3(S3Server::start());
    let Place::S3(server) = &place else { unreachable!() };
    let warehouse = place.open().await;
    for fault in [Fault::FailAfterStoring, Fault::CloseInRequest, Fault::CloseInAnswer, Fault::HangAfterStoring] {
        let write = store(&warehouse, 5, 1..=100).await;
        store(&warehouse, 9, 51..=60).await;
        // An attempt makes two requests of each kind, so every third one is a different request each time.
        server.fail(fault, 3);
        server.fail_reads(fault, 3);
        let mut attempts = 0;
        while let Err(error) = warehouse.reconcile_fenced_write(&write, true).await {
            attempts += 1;
            assert!(attempts < 20, "{fault:?}: {error}");
        }
        server.heal();
        assert_eq!(warehouse.reconcile_fenced_write(&write, true).await.unwrap(), Reconciled::Unchanged);
        place.assert_each_once(1..=100);
    }
}
