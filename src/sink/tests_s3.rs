//! The sink into an S3 endpoint that fails in every way that it can.

use std::collections::BTreeSet;

use super::*;
use crate::services::s3::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};
use crate::sink::tests::{Bench, events, settings};
use crate::warehouse::{ObjectSettings, WarehouseErrorKind, scan_ids};

const PATIENCE: Duration = Duration::from_secs(90);

fn objects(server: &S3Server) -> ObjectSettings {
    ObjectSettings {
        endpoint: Some(server.url()),
        region: Some("us-east-1".to_owned()),
        bucket: Some(BUCKET.to_owned()),
        access_key_id: Some(ACCESS_KEY.to_owned()),
        secret_access_key: Some(SECRET_KEY.to_owned()),
        path_style: true,
        prefix: Some("raw".to_owned()),
        ..ObjectSettings::default()
    }
}

fn stored(server: &S3Server) -> Vec<String> {
    let mut ids = Vec::new();
    scan_ids(&server.bucket(), |id| ids.push(id.to_owned())).unwrap();
    ids
}

/// Publishes events while writes fail, heals, and expects every one once.
async fn sits_out(fault: Fault) {
    const EVENTS: usize = 2_000;
    let server = S3Server::start();
    let bench = Bench::new();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let quick = Settings { flush_interval: Duration::from_millis(50), ..settings() };
    let running = bench.start_into(warehouse, quick);
    server.fail(fault, 2);
    let mut sent = BTreeSet::new();
    for part in 0..20 {
        let events = events("shop", part * EVENTS / 20..(part + 1) * EVENTS / 20);
        sent.extend(events.iter().map(|event| event.id.clone()));
        bench.publish(&events).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    let started = Instant::now();
    while server.faulty_writes() < 3 {
        assert!(started.elapsed() < PATIENCE, "the fault was not met");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.heal();
    while bench.backlog().await > 0 {
        assert!(started.elapsed() < PATIENCE, "{} of {EVENTS} stored", stored(&server).len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
    let ids = stored(&server);
    assert_eq!(ids.len(), EVENTS, "doubled or lost");
    assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), sent);
    let raw = server.bucket().join("raw/app_id=shop");
    assert!(raw.is_dir(), "the prefix comes first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_after_storing_doubles_nothing() {
    sits_out(Fault::FailAfterStoring).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_connection_loses_nothing() {
    sits_out(Fault::Close).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_to_slow_down_loses_nothing() {
    sits_out(Fault::SlowDown).await;
}

/// A file of several parts, and one whose last request was answered 500 although it was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_files_go_up_in_parts() {
    let server = S3Server::start();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let partition = crate::warehouse::Partition { app_id: "shop".to_owned(), hour: 490_000 };
    let file =
        bytes::Bytes::from((0..20u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect::<Vec<_>>());
    let name = Warehouse::new_file_name();
    assert!(!warehouse.store(&partition, &name, file.clone(), || false).await.unwrap());
    let path = server.bucket().join("raw").join(partition.path()).join(&name);
    assert!(!path.exists(), "nothing is visible without the commit");
    assert!(warehouse.store(&partition, &name, file.clone(), || true).await.unwrap());
    assert!(std::fs::read(&path).unwrap() == file, "the parts are put together in order");
}

/// What another sink stored of the same messages is found, by sequence and id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_file_whose_rows_others_hold_is_withdrawn() {
    let server = S3Server::start();
    let bench = Bench::new();
    let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
    let events = events("shop", 0..100);
    bench.publish(&events).await;
    let running =
        bench.start_into(warehouse.clone(), Settings { flush_interval: Duration::from_millis(20), ..settings() });
    let started = Instant::now();
    while bench.backlog().await > 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
    let hour = crate::warehouse::hour_of(events[0].timestamp_ms, events[0].timestamp_ms);
    let partition = crate::warehouse::Partition { app_id: "shop".to_owned(), hour };
    let files = std::fs::read_dir(server.bucket().join("raw").join(partition.path())).unwrap();
    let first = files.map(|file| file.unwrap().path()).find(|path| path.extension().is_some_and(|e| e == "parquet"));
    let first = first.unwrap();
    let bytes = bytes::Bytes::from(std::fs::read(&first).unwrap());
    let late = Warehouse::new_file_name();
    let alone =
        warehouse.withdraw_if_doubled(&partition, first.file_name().unwrap().to_str().unwrap(), bytes.clone(), 0);
    assert_eq!(alone.await.unwrap(), (0, false), "a file is not its own double");
    assert!(warehouse.store(&partition, &late, bytes.clone(), || true).await.unwrap());
    let rows = stored(&server).len() - 100;
    assert!(rows > 0, "doubled for now");
    assert_eq!(warehouse.withdraw_if_doubled(&partition, &late, bytes, 0).await.unwrap(), (rows, true));
    assert_eq!(stored(&server).len(), 100);
}

/// Each ends the start with a message that names the setting.
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
    let (kind, text) = refused(ObjectSettings { secret_access_key: Some("wrong".to_owned()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Refused && text.contains("s3_secret_access_key"), "{kind:?} {text}");
    let (kind, text) = refused(ObjectSettings { access_key_id: Some("nobody".to_owned()), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Refused && text.contains("s3_access_key_id"), "{kind:?} {text}");
    let closed = format!("http://127.0.0.1:{}", crate::services::free_port());
    let (kind, text) = refused(ObjectSettings { endpoint: Some(closed), ..right.clone() }).await;
    assert!(kind == WarehouseErrorKind::Unavailable && text.contains("s3_endpoint"), "{kind:?} {text}");
    let (_, text) = refused(ObjectSettings { url: Some("ftp://x/y".to_owned()), ..right }).await;
    assert!(text.contains("warehouse_url"), "{text}");
}
