//! The sink over a real embedded bus and a real directory.

mod bench;

mod cold;
mod isolated;
mod lost;
mod restart;
mod s3;
mod workers;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use arrow_array::cast::AsArray;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use prost::Message as _;

use crate::bus::{Batch, Delivery, LeaseGrant};
use crate::event::proto::EventEnvelope;
use crate::sink::Settings;
use crate::sink::open::{Limits, OpenBatches, Reason};
use crate::warehouse::{Compression, EncodeSettings, Encoder, Warehouse};
use bench::{Bench, NEVER, PATIENCE, Running, event, events, ids_of, now_ms, open_bus, settings};

const HOUR_MS: i64 = 3_600_000;

/// The ids in each directory below `root`.
fn directories(root: &Path) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
                continue;
            }
            let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&path).unwrap()).unwrap().build().unwrap();
            let name = path.parent().unwrap().strip_prefix(root).unwrap().display().to_string();
            for batch in reader {
                let batch = batch.unwrap();
                let ids = batch.column_by_name("id").unwrap().as_string::<i32>();
                found.entry(name.clone()).or_default().extend(ids.iter().flatten().map(str::to_owned));
            }
        }
    }
    found
}

#[tokio::test]
async fn rows_go_to_the_directory_of_their_app_and_hour() {
    let bench = Bench::new();
    let hour = 1_709_251_200_000; // 2024-03-01T00:00:00Z
    let y9999 = 253_370_764_800_000;
    let events = [
        event("shop", "a", hour),
        event("shop", "b", hour - 1),
        event("game", "c", hour + HOUR_MS - 1),
        event("shop", "d", hour + 1),
        event("shop", "first", 1),
        event("shop", "last", y9999),
    ];
    bench.publish(&events).await;
    let received = crate::warehouse::Partition { app_id: "shop".into(), hour: now_ms() / HOUR_MS }.to_string();
    let running = bench.start(settings());
    running.stop().await;
    let found = directories(&bench.root());
    assert_eq!(found["app_id=shop/year=2024/month=03/day=01/hour=00"], ["a", "d"]);
    assert_eq!(found["app_id=shop/year=2024/month=02/day=29/hour=23"], ["b"]);
    assert_eq!(found["app_id=game/year=2024/month=03/day=01/hour=00"], ["c"]);
    // The hour may turn while the test runs.
    let unbelievable: Vec<_> = found.iter().filter(|(dir, _)| !dir.contains("year=2024")).collect();
    assert_eq!(unbelievable, [(&received, &vec!["first".to_owned(), "last".to_owned()])]);
    assert_eq!(bench.backlog().await, 0);
}

#[tokio::test]
async fn each_limit_closes_files() {
    let bench = Bench::new();
    bench.publish(&events("a", 0..300)).await;
    bench.publish(&events("b", 0..20)).await;
    let (deliveries, _subscription) = bench.fetch(320, NEVER).await;
    let limits = Limits {
        rows_max: usize::MAX,
        file_bytes_max: usize::MAX,
        age_max: NEVER,
        open_bytes_max: usize::MAX,
        open_partitions_max: usize::MAX,
        ack_wait: NEVER,
    };
    let take = |limits: &Limits| {
        let encode =
            EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 1_000, stream: "EVENTS".into() };
        let mut batches = OpenBatches::new(limits.clone(), Encoder::new(encode).unwrap());
        let taken = batches.take(&deliveries, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap();
        assert!(taken.unreadable.is_empty() && taken.lapsed_rows == 0);
        let closed: Vec<_> =
            taken.closed.iter().map(|c| (c.partition.app_id.clone(), c.reason, c.receipts.len())).collect();
        assert_eq!(closed.iter().map(|(_, _, rows)| rows).sum::<usize>() + batches.rows(), 320);
        (closed, batches)
    };
    assert_eq!(take(&limits).0, []);
    let (by_rows, _) = take(&Limits { rows_max: 100, ..limits.clone() });
    assert_eq!(by_rows, vec![("a".to_owned(), Reason::Rows, 100); 3]);
    let (by_bytes, _) = take(&Limits { file_bytes_max: 20_000, ..limits.clone() });
    assert_eq!(by_bytes, [("a".to_owned(), Reason::Bytes, 300)]);
    let (_, open) = take(&limits);
    let (by_memory, left) = take(&Limits { open_bytes_max: open.memory_bytes() - 1, ..limits.clone() });
    assert_eq!(by_memory, [("a".to_owned(), Reason::Memory, 300)], "the largest goes first");
    assert!(left.memory_bytes() < open.memory_bytes());
    let (by_count, left) = take(&Limits { open_partitions_max: 1, ..limits.clone() });
    assert_eq!((by_count, left.len(), left.cold_partitions()), (vec![], 1, 1), "what comes for others is gathered");
    let (_, mut open) = take(&Limits { age_max: Duration::from_millis(50), ..limits });
    let now = Instant::now();
    assert!(open.close_old(now - Duration::from_secs(1), true).unwrap().closed.is_empty());
    let by_age = open.close_old(now + Duration::from_millis(50), true).unwrap().closed;
    assert!(by_age.len() == 2 && by_age.iter().all(|closed| closed.reason == Reason::Age));
    assert_eq!((open.len(), open.memory_bytes()), (0, 0));
}

#[tokio::test]
async fn a_file_that_is_old_enough_appears_without_a_stop() {
    let bench = Bench::new();
    let running = bench.start(Settings { flush_interval: Duration::from_millis(200), ..settings() });
    let all = events("shop", 0..50);
    bench.publish(&all).await;
    bench.wait_for_rows(50).await;
    assert_eq!(bench.ids(), ids_of(&all));
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn a_stop_stores_what_is_left_on_the_bus() {
    let bench = Bench::new();
    let all = events("shop", 0..5_000);
    for some in all.chunks(500) {
        bench.publish(some).await;
    }
    let running = bench.start(Settings { fetch_messages_max: 300, ..settings() });
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn a_crash_between_store_and_ack_duplicates_nothing() {
    let mut bench = Bench::new();
    let (stored, open) = (events("shop", 0..200), events("shop", 200..300));
    bench.publish(&stored).await;
    let (deliveries, _subscription) = bench.fetch(200, NEVER).await;
    store_unacknowledged(&bench.warehouse(), &deliveries).await;
    assert_eq!(bench.ids().len(), 200);
    bench.publish(&open).await;
    bench.reopen_bus().await;

    let running = bench.start(settings());
    running.stop().await;
    let all: Vec<EventEnvelope> = stored.into_iter().chain(open).collect();
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

/// Does what a sink does up to the point at which the file is durable.
pub(super) async fn store_unacknowledged(warehouse: &Warehouse, deliveries: &[Delivery]) {
    let limits = Limits {
        rows_max: usize::MAX,
        file_bytes_max: usize::MAX,
        age_max: NEVER,
        open_bytes_max: usize::MAX,
        open_partitions_max: 10,
        ack_wait: NEVER,
    };
    let encode = EncodeSettings { compression: Compression::Snappy, row_group_rows_max: 70, stream: "EVENTS".into() };
    let mut batches = OpenBatches::new(limits, Encoder::new(encode).unwrap());
    assert!(batches.take(deliveries, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap().closed.is_empty());
    for closed in batches.close_all().unwrap().closed {
        let name = Warehouse::new_file_name();
        assert!(warehouse.store(&closed.partition, &name, closed.file, || true).await.unwrap());
    }
}

#[tokio::test]
async fn a_recreated_stream_that_reuses_sequences_loses_nothing() {
    let mut bench = Bench::new();
    let old = events("shop", 0..100);
    bench.publish(&old).await;
    bench.start(settings()).stop().await;
    bench.bus.close().await;
    bench.bus = open_bus(&bench.dir.path().join("another bus"));
    let new = events("shop", 100..250);
    bench.publish(&new).await;
    bench.start(settings()).stop().await;
    let all: Vec<EventEnvelope> = old.into_iter().chain(new).collect();
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn a_batch_whose_leases_lapsed_is_dropped_and_its_messages_are_redelivered() {
    let bench = Bench::new();
    let all = events("shop", 0..100);
    bench.publish(&all).await;
    // Somebody else holds the messages and never answers.
    let (_, silent) = bench.fetch(100, Duration::from_millis(300)).await;
    let running = bench.start(Settings {
        ack_wait: Duration::from_millis(300),
        flush_interval: Duration::from_secs(1),
        ..settings()
    });
    bench.wait_for_rows(100).await;
    running.stop().await;
    drop(silent);
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn lapsed_batches_are_not_written() {
    let bench = Bench::new();
    bench.publish(&events("shop", 0..10)).await;
    let ack_wait = Duration::from_millis(200);
    let (deliveries, mut subscription) = bench.fetch(10, ack_wait).await;
    let limits = Limits {
        rows_max: usize::MAX,
        file_bytes_max: usize::MAX,
        age_max: NEVER,
        open_bytes_max: usize::MAX,
        open_partitions_max: 10,
        ack_wait,
    };
    let encode = EncodeSettings { compression: Compression::None, row_group_rows_max: 70, stream: "EVENTS".into() };
    let mut batches = OpenBatches::new(limits.clone(), Encoder::new(encode.clone()).unwrap());
    batches.take(&deliveries, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap();
    // Their redelivery proves that the first batch has lost them.
    let again = subscription.fetch(10, usize::MAX).await.unwrap();
    let mut patient = OpenBatches::new(Limits { ack_wait: NEVER, ..limits }, Encoder::new(encode).unwrap());
    patient.take(&deliveries, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap();
    let taken = patient.take(&again, &LeaseGrant::since(Instant::now()), &HashSet::new()).unwrap();
    assert_eq!((taken.lapsed_rows, patient.rows()), (10, 10));
    let closed = batches.close_all().unwrap();
    assert_eq!((closed.closed.len(), closed.lapsed_rows), (0, 10));
}

#[tokio::test]
async fn a_failing_warehouse_is_retried_until_it_recovers() {
    let bench = Bench::new();
    let all = events("shop", 0..40);
    let root = bench.root();
    let running = bench.start(Settings {
        flush_interval: Duration::from_millis(50),
        ack_wait: Duration::from_millis(600),
        ..settings()
    });
    // A file where the app's directory has to be.
    std::fs::write(root.join("app_id=shop"), b"in the way").unwrap();
    bench.publish(&all).await;
    bench.wait(|_| running.status.trouble().is_some()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.status.snapshot()["stored_rows"], 0);
    std::fs::remove_file(root.join("app_id=shop")).unwrap();
    bench.wait_for_rows(40).await;
    bench.wait(|_| running.status.trouble().is_none()).await;
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn memory_stays_under_its_limit_while_the_warehouse_fails() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.root()).unwrap();
    std::fs::write(bench.root().join("app_id=shop"), b"in the way").unwrap();
    let all = events("shop", 0..20_000);
    for some in all.chunks(1_000) {
        bench.publish(some).await;
    }
    let memory_bytes_max = 400_000;
    let running =
        bench.start(Settings { memory_bytes_max, batch_events_max: 500, fetch_messages_max: 200, ..settings() });
    bench.wait(|_| running.status.trouble().is_some()).await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    let held = running.held_bytes();
    // One job's rows may come on top.
    assert!(held < memory_bytes_max as u64 + 160_000, "{held}");
    assert!(bench.backlog().await >= 20_000, "nothing was stored, so nothing may be acknowledged");
    std::fs::remove_file(bench.root().join("app_id=shop")).unwrap();
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn unreadable_messages_are_dead_lettered_with_the_reason() {
    let bench = Bench::new();
    let mut batch = Batch::new();
    batch.push("events.shop.screen.view", None, |out| out.extend_from_slice(b"\xff\xff\xff"));
    batch.push("events.shop.screen.view", None, |out| event("../etc", "x", now_ms()).encode_raw(out));
    batch.push("events.shop.screen.view", None, |out| event("shop", "good", now_ms()).encode_raw(out));
    assert!(bench.bus.publish(batch).await.iter().all(Result::is_ok));
    bench.start(settings()).stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (vec!["good".to_owned()], 0));
    let dead = bench.bus.dead_letters(None, 10).await.unwrap();
    let mut reasons: Vec<&str> = dead.iter().map(|dead| dead.reason.as_str()).collect();
    reasons.sort_unstable();
    assert!(reasons.len() == 2 && reasons[0].starts_with("decode event: "), "{reasons:?}");
    assert_eq!(reasons[1], "the event's app_id cannot name a directory");
}

#[tokio::test]
async fn more_partitions_than_may_be_open_are_all_stored() {
    let bench = Bench::new();
    let all: Vec<EventEnvelope> =
        (0..400).map(|n| event(&format!("app{}", n % 40), format!("{n:03}"), now_ms())).collect();
    bench.publish(&all).await;
    let running = bench.start(Settings { open_partitions_max: 4, ..settings() });
    running.stop().await;
    assert_eq!((bench.ids(), bench.backlog().await), (ids_of(&all), 0));
}

#[tokio::test]
async fn half_written_files_of_an_earlier_run_are_removed() {
    let bench = Bench::new();
    let dir = bench.root().join("app_id=shop/year=2026/month=01/day=01/hour=00");
    std::fs::create_dir_all(&dir).unwrap();
    let (ours, theirs) = (dir.join(".events_x.parquet.tmp"), dir.join("notes.tmp"));
    std::fs::write(&ours, b"half").unwrap();
    std::fs::write(&theirs, b"kept").unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let running = bench.start(settings());
    bench.wait(|_| !ours.exists()).await;
    running.stop().await;
    assert!(theirs.exists());
}
