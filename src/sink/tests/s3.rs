//! The sink with an S3 endpoint that fails in every possible way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Bench, events, settings, store_unacknowledged};
use crate::event::proto::EventEnvelope;
use crate::services::s3::{Fault, S3Server};
use crate::sink::Settings;
use crate::sink::pipeline::CHUNKS_MAX;
use crate::warehouse::{ObjectSettings, Partition, RowId, Warehouse, WarehouseErrorKind, hour_of, scan_ids};

const PATIENCE: Duration = Duration::from_secs(90);

pub(super) fn objects(server: &S3Server) -> ObjectSettings {
    ObjectSettings { prefix: Some("raw".to_owned()), ..ObjectSettings::of_test(server) }
}

fn stored(server: &S3Server) -> Vec<String> {
    let mut ids = Vec::new();
    scan_ids(&server.bucket(), |id| ids.push(id.to_owned())).unwrap();
    ids
}

/// The guarantee: work resumes within this time after a fault ends.
const RESUME_MAX: Duration = Duration::from_secs(10);
const MEMORY_BYTES_MAX: usize = 1_000_000;

pub(super) fn quick() -> Settings {
    Settings { flush_interval: Duration::from_millis(50), memory_bytes_max: MEMORY_BYTES_MAX, ..settings() }
}

async fn wait_for(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Publishes events while writes fail, in the end all of them, then heals the store and expects every event once.
async fn sits_out(fault: Fault) {
    const EVENTS: usize = 2_000;
    let server = S3Server::start();
    let bench = Bench::new();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let running = bench.start_into(warehouse, quick());
    server.fail(fault, 2);
    let mut sent = BTreeSet::new();
    for part in 0..20 {
        let events = events("shop", part * EVENTS / 20..(part + 1) * EVENTS / 20);
        sent.extend(events.iter().map(|event| event.id.clone()));
        bench.publish(&events).await;
        if part == 10 {
            server.fail(fault, 1);
        }
        // One job's rows may come on top.
        assert!(running.held_bytes() < MEMORY_BYTES_MAX as u64 + 150_000, "{}", running.held_bytes());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let before = server.faulty_writes();
    wait_for("more writes met the fault", async || server.faulty_writes() >= before.max(1) + 2).await;
    server.heal();
    let healed = Instant::now();
    wait_for("everything is acknowledged", async || bench.backlog().await == 0).await;
    assert!(healed.elapsed() < RESUME_MAX, "{fault:?}: resumed after {:?}", healed.elapsed());
    assert_eq!(running.trouble(), None);
    running.stop().await;
    let ids = stored(&server);
    assert_eq!(ids.len(), EVENTS, "doubled or lost");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), sent);
    let raw = server.bucket().join("raw/app_id=shop");
    assert!(raw.is_dir(), "the prefix comes first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_after_storing_duplicates_nothing() {
    sits_out(Fault::FailAfterStoring).await;
}

/// Files are stored but the response never arrives: the client times out and stores them again under the same names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_never_responds_after_storing_duplicates_nothing() {
    sits_out(Fault::HangAfterStoring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_loses_nothing() {
    sits_out(Fault::Close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_closed_in_the_middle_of_an_upload_loses_nothing() {
    sits_out(Fault::CloseInRequest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_down_response_loses_nothing() {
    sits_out(Fault::SlowDown).await;
}

/// Messages left unacknowledged by a crash are looked up while reads and lists fail: nothing is written before they
/// succeed, and no file is reported as damaged because the store failed.
async fn looks_up(fault: Fault) {
    let server = S3Server::start();
    let mut bench = Bench::new();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    bench.publish(&events("shop", 0..300)).await;
    let (deliveries, subscription) = bench.fetch(300, PATIENCE).await;
    for deliveries in deliveries.chunks(100) {
        store_unacknowledged(&warehouse, deliveries).await;
    }
    drop(subscription);
    bench.publish(&events("shop", 300..400)).await;
    bench.reopen_bus().await;
    server.fail_reads(fault, 1);
    let running = bench.start_into(warehouse, quick());
    wait_for("a read met the fault", async || server.faulty_reads() >= 2).await;
    // List, footers and ids each meet it.
    server.fail_reads(fault, 2);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let trouble = running.trouble().unwrap_or_default();
    assert!(!trouble.contains("corrupt"), "{trouble}");
    server.heal();
    let healed = Instant::now();
    wait_for("everything is acknowledged", async || bench.backlog().await == 0).await;
    assert!(healed.elapsed() < RESUME_MAX, "{fault:?}: resumed after {:?}", healed.elapsed());
    running.stop().await;
    let ids = stored(&server);
    assert_eq!((ids.len(), ids.into_iter().collect::<BTreeSet<_>>().len()), (400, 400), "{fault:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_reads_duplicate_nothing() {
    looks_up(Fault::FailAfterStoring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_reads_duplicate_nothing() {
    looks_up(Fault::HangAfterStoring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_cut_in_the_middle_of_the_response_duplicate_nothing() {
    looks_up(Fault::CloseInAnswer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_reads_duplicate_nothing() {
    looks_up(Fault::Slow).await;
}

/// Messages dropped during the look-up would stay leased, and be redelivered only after their leases end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_look_ups() {
    let server = S3Server::start();
    let mut bench = Bench::new();
    let patient = ObjectSettings { silence_max: Duration::from_secs(5), ..objects(&server) };
    let warehouse = Warehouse::open_objects(patient).await.unwrap();
    bench.publish(&events("shop", 0..300)).await;
    bench.reopen_bus().await;
    server.fail_reads(Fault::Slow, 1);
    let running = bench.start_into(warehouse, quick());
    wait_for("the look has begun", async || server.faulty_reads() > 0).await;
    running.stop().await;
    assert_eq!((bench.backlog().await, stored(&server).len()), (0, 300));
}

/// While the first look-up hangs, others start, as many as may wait for the encoder. Whichever completes first, rows
/// are stored in the order of the fetches.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_run_concurrently_and_complete_in_order() {
    let silence_max = Duration::from_secs(4);
    let server = S3Server::start();
    let mut bench = Bench::new();
    let warehouse = Warehouse::open_objects(ObjectSettings { silence_max, ..objects(&server) }).await.unwrap();
    let events = events("shop", 0..1_000);
    bench.publish(&events).await;
    bench.reopen_bus().await;
    let before = server.faulty_reads();
    server.fail_reads(Fault::HangAfterStoring, 1);
    let started = Instant::now();
    // All of them into one file.
    let stop_budget = PATIENCE.into();
    let running = bench.start_into(warehouse, Settings { fetch_messages_max: 100, stop_budget, ..settings() });
    let all = before + CHUNKS_MAX as u64;
    wait_for("looks have begun", async || server.faulty_reads() >= all).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(started.elapsed() < silence_max, "they began one after the other");
    assert_eq!(server.faulty_reads(), all);
    server.fail_reads(Fault::Slow, 2);
    running.stop().await;
    let sent: Vec<String> = events.into_iter().map(|event| event.id).collect();
    let rows = stored(&server);
    assert_eq!(rows.iter().collect::<BTreeSet<_>>(), sent.iter().collect());
    assert!(rows == sent, "doubled or in another order");
    assert_eq!(bench.backlog().await, 0);
}

/// A failed read is distinguished from damage wherever in the file it fails, although the Parquet reader in between keeps
/// only the error's text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_read_is_not_damage_to_the_file() {
    const EVENTS: usize = 20_000;
    let server = S3Server::start();
    let bench = Bench::new();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let mut all = events("shop", 0..EVENTS);
    for event in &mut all {
        // So that the file takes more than one request.
        event.device_id = uuid::Uuid::now_v7().to_string();
        event.correlation_id = uuid::Uuid::now_v7().to_string();
    }
    bench.publish(&all).await;
    let (deliveries, _subscription) = bench.fetch(EVENTS, PATIENCE).await;
    store_unacknowledged(&warehouse, &deliveries).await;
    let partition = partition_of(&all[0]);
    let rows = vec![RowId { sequence: 1, id: all[0].id.clone() }];
    for fault in [Fault::CloseInAnswer, Fault::FailAfterStoring] {
        // A process that knows nothing of the file yet: list, footer and ids each fail once.
        let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
        let mut failures = 0;
        loop {
            server.fail_reads_after(failures, fault);
            let looked = async {
                let footers = warehouse.footers(&partition).await?;
                warehouse.confirm(footers, rows.clone()).await
            };
            match looked.await {
                Err(error) => assert_eq!(error.kind, WarehouseErrorKind::Unavailable, "{fault:?}: {error}"),
                Ok(confirmed) => break assert_eq!(confirmed, [true]),
            }
            failures += 1;
            assert!(failures < 20, "{fault:?}");
        }
        server.heal();
        assert!(failures > 2, "{fault:?}: {failures} reads");
    }
}

fn partition_of(event: &EventEnvelope) -> Partition {
    Partition { app_id: event.app_id.clone(), hour: hour_of(event.timestamp_ms, event.timestamp_ms) }
}

/// Each of the five requests of a multipart upload meets each fault.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_are_uploaded_in_parts_whatever_fails() {
    let server = S3Server::start();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let partition = Partition { app_id: "shop".to_owned(), hour: 490_000 };
    let bytes: Vec<u8> = (0..40u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let file = bytes::Bytes::from(bytes);
    let path = |name: &str| server.bucket().join("raw").join(partition.to_string()).join(name);
    let name = Warehouse::new_file_name();
    assert!(!warehouse.store(&partition, &name, file.clone(), || false).await.unwrap());
    assert!(!path(&name).exists(), "nothing is visible without the commit");
    for fault in [Fault::CloseInRequest, Fault::HangAfterStoring, Fault::FailAfterStoring, Fault::CloseInAnswer] {
        let name = Warehouse::new_file_name();
        let before = server.faulty_writes();
        // Every sixth and five requests an upload: another one each time.
        server.fail(fault, 6);
        let mut attempts = 0;
        while server.faulty_writes() < before + 5 {
            attempts += 1;
            assert!(attempts < 40, "{fault:?}");
            if warehouse.store(&partition, &name, file.clone(), || true).await.is_ok() {
                assert!(std::fs::read(path(&name)).unwrap() == file, "{fault:?}: the parts are put together in order");
            }
        }
        server.heal();
        assert!(warehouse.store(&partition, &name, file.clone(), || true).await.unwrap());
        assert!(std::fs::read(path(&name)).unwrap() == file, "{fault:?}");
        let files = std::fs::read_dir(path("")).unwrap().flatten();
        let same = files.filter(|entry| entry.file_name().to_string_lossy() == name).count();
        assert_eq!(same, 1, "{fault:?}");
    }
}

/// Each fails the start with a message that names the setting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_setting_is_named() {
    let server = S3Server::start();
    let right = objects(&server);
    let refused = async |settings: ObjectSettings| {
        let error = Warehouse::open_objects(settings).await.err().expect("refused");
        (error.kind, error.to_string())
    };
    let (kind, text) = refused(ObjectSettings { bucket: Some("nowhere".to_owned()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Refused && text.contains("s3_bucket"), "{kind:?} {text}");
    let (kind, text) = refused(ObjectSettings { secret_access_key: Some("wrong".into()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Refused && text.contains("s3_secret_access_key"), "{kind:?} {text}");
    let (kind, text) = refused(ObjectSettings { access_key_id: Some("nobody".to_owned()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Refused && text.contains("s3_access_key_id"), "{kind:?} {text}");
    let closed = format!("http://127.0.0.1:{}", crate::services::free_port());
    let (kind, text) = refused(ObjectSettings { endpoint: Some(closed.into()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Unavailable && text.contains("s3_endpoint"), "{kind:?} {text}");
    let (_, text) = refused(ObjectSettings { url: Some("ftp://x/y".into()), ..right }).await;
    assert!(text.contains("warehouse_url"), "{text}");
}
