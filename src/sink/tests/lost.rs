//! Messages in flight when the bus loses them.

use std::time::{Duration, Instant};

use prost::Message as _;

use super::{Bench, NEVER, PATIENCE, events, ids_of, settings};
use crate::bus::conformance::nats_settings;
use crate::bus::{Batch, Bus, NatsSettings};
use crate::event::proto::EventEnvelope;
use crate::event::subject::write_event_subject;
use crate::services::nats::{NatsServer, Version};
use crate::sink::Settings;

/// Detecting that a stream is gone, recreating it and publishing again take some seconds.
const SOON: Duration = Duration::from_secs(40);
const ACK_WAIT: Duration = Duration::from_secs(2);

/// Publishes with retries. An event is stored once, however many attempts it takes.
async fn publish(bus: &Bus, events: &[EventEnvelope]) {
    let started = Instant::now();
    for event in events {
        loop {
            let (mut batch, mut subject) = (Batch::new(), String::new());
            write_event_subject(&mut subject, &event.app_id, "screen", "view");
            batch.push(&subject, Some(&event.id), |out| event.encode_raw(out));
            match bus.publish(batch).await.remove(0) {
                Ok(_) => break,
                Err(error) => assert!(started.elapsed() < SOON, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn has_in_hand(running: &super::Running, rows: u64) {
    let started = Instant::now();
    while running.status.snapshot()["open_rows"] != rows {
        assert!(started.elapsed() < PATIENCE, "{}", running.status.snapshot());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// With rows both in open files and gathered.
async fn holds_rows(server: &NatsServer, settings: Settings) -> (Bench, super::Running, Vec<EventEnvelope>) {
    let mut bench = Bench::new();
    let nats = NatsSettings { timeout: Duration::from_secs(2), ..nats_settings(server) };
    bench.bus = Bus::connect_nats(nats).await.unwrap();
    let running = bench.start(settings);
    let held: Vec<EventEnvelope> = ["a", "b", "c"].iter().flat_map(|app| events(app, 0..20)).collect();
    publish(&bench.bus, &held).await;
    has_in_hand(&running, 60).await;
    (bench, running, held)
}

fn patient() -> Settings {
    Settings { ack_wait: ACK_WAIT, flush_interval: NEVER, open_partitions_max: 2, ..settings() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_lost_stream_are_written_once() {
    let mut server = NatsServer::start(Version::Newest);
    let (bench, running, mut all) = holds_rows(&server, patient()).await;
    server.kill9();
    server.lose_data();
    // Longer than any lease: what becomes of the rows is still not known.
    tokio::time::sleep(ACK_WAIT + Duration::from_millis(500)).await;
    assert_eq!(running.status.snapshot()["open_rows"], 60);
    server.restart();
    let new = events("a", 100..130);
    publish(&bench.bus, &new).await;
    all.extend(new);
    let started = Instant::now();
    while bench.ids().len() < 60 {
        assert!(started.elapsed() < SOON, "{} rows are written", bench.ids().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    has_in_hand(&running, 30).await;
    running.stop().await;
    assert_eq!(bench.ids(), ids_of(&all));
    assert_eq!(bench.backlog().await, 0, "the new stream is read to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_deleted_stream_are_written_once() {
    let server = NatsServer::start(Version::Oldest);
    let (bench, running, all) = holds_rows(&server, patient()).await;
    tokio::task::block_in_place(|| {
        std::thread::scope(|scope| scope.spawn(|| server.delete("TESTS", None)).join().unwrap());
    });
    let started = Instant::now();
    while bench.ids().len() < 60 {
        assert!(started.elapsed() < SOON, "{} rows are written", bench.ids().len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.stop().await;
    assert_eq!(bench.ids(), ids_of(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_a_surviving_stream_are_redelivered_and_written_once() {
    let mut server = NatsServer::start(Version::Newest);
    let (bench, running, mut all) = holds_rows(&server, patient()).await;
    server.kill9();
    server.restart();
    let new = events("b", 100..110);
    publish(&bench.bus, &new).await;
    all.extend(new);
    // Stopped before or after it has seen the stream again; the rest is for the next one.
    running.stop().await;
    let next = bench.start(Settings { flush_interval: Duration::from_millis(100), ..patient() });
    let started = Instant::now();
    while bench.backlog().await > 0 {
        assert!(started.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    next.stop().await;
    assert_eq!(bench.ids(), ids_of(&all));
}
