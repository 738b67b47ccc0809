//! After a crash, stored but unacknowledged messages are found, whatever the clocks say, and damage to one file
//! does not affect the others.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use super::s3::{objects, quick};
use super::{Bench, events, settings, store_unacknowledged};
use crate::services::s3::S3Server;
use crate::sink::Settings;
use crate::warehouse::{Warehouse, scan_ids};

const EVENTS: usize = 300;
const PATIENCE: Duration = Duration::from_secs(60);

fn files(root: &Path) -> Vec<std::path::PathBuf> {
    let mut directories = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "parquet") {
                files.push(path);
            }
        }
    }
    files
}

fn assert_each_once(root: &Path, rows: usize) {
    let mut ids = Vec::new();
    scan_ids(root, |id| ids.push(id.to_owned())).unwrap();
    let found = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((found, ids.len()), (rows, rows), "doubled or lost");
}

async fn wait_for_acks(bench: &Bench) {
    let started = Instant::now();
    while bench.backlog().await > 0 {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The clocks of the machine and the store are hours apart, in either direction.
async fn finds_its_files(warehouse: Warehouse, root: &Path, skew: impl Fn(SystemTime) -> SystemTime) {
    let mut bench = Bench::new();
    bench.publish(&events("shop", 0..EVENTS)).await;
    let (deliveries, subscription) = bench.fetch(EVENTS, PATIENCE).await;
    for deliveries in deliveries.chunks(100) {
        store_unacknowledged(&warehouse, deliveries).await;
    }
    drop(subscription);
    for file in files(root) {
        File::options().write(true).open(file).unwrap().set_modified(skew(SystemTime::now())).unwrap();
    }
    bench.reopen_bus().await;
    let running = bench.start_into(warehouse, quick());
    wait_for_acks(&bench).await;
    running.stop().await;
    assert_each_once(root, EVENTS);
}

const HOURS: Duration = Duration::from_secs(5 * 3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_whose_clock_is_hours_off_duplicates_nothing() {
    for skew in [|now| now - HOURS, |now| now + HOURS] {
        let dir = tempfile::tempdir().unwrap();
        finds_its_files(Warehouse::open_local(dir.path().to_owned()).unwrap(), dir.path(), skew).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_store_whose_clock_is_hours_off_duplicates_nothing() {
    for skew in [|now| now - HOURS, |now| now + HOURS] {
        let server = S3Server::start();
        let warehouse = Warehouse::open_objects(objects(&server)).await.unwrap();
        finds_its_files(warehouse, &server.bucket(), skew).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_does_not_affect_others() {
    let mut bench = Bench::new();
    let warehouse = Warehouse::open_local(bench.root()).unwrap();
    bench.publish(&events("shop", 0..EVENTS)).await;
    bench.publish(&events("game", 0..EVENTS)).await;
    let (deliveries, subscription) = bench.fetch(2 * EVENTS, PATIENCE).await;
    for deliveries in deliveries.chunks(100) {
        store_unacknowledged(&warehouse, deliveries).await;
    }
    drop(subscription);
    let damaged = files(&bench.root()).into_iter().find(|file| file.to_str().unwrap().contains("shop")).unwrap();
    let mut bytes = std::fs::read(&damaged).unwrap();
    let end = bytes.len() - 8;
    // In the middle of the footer.
    let place = end - u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize / 2;
    bytes[place] ^= 1;
    std::fs::write(&damaged, &bytes).unwrap();
    bench.reopen_bus().await;
    bench.publish(&events("new", 0..EVENTS)).await;
    let running =
        bench.start_into(warehouse.clone(), Settings { flush_interval: quick().flush_interval, ..settings() });
    wait_for_acks(&bench).await;
    running.stop().await;
    let damage = warehouse.damage().unwrap();
    assert!(damage.contains(damaged.file_name().unwrap().to_str().unwrap()), "{damage}");
    assert!(std::fs::read(&damaged).unwrap() == bytes, "it is left as it is");
    // The rows were written again, because they are unreadable in this file.
    std::fs::remove_file(&damaged).unwrap();
    assert_each_once(&bench.root(), 3 * EVENTS);
}
