//! A stream that lost its tail reuses the sequences for new messages: these are evaluated too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::receiver::{PATIENCE, Receiver};
use super::{EngineSettings, World, custom, dispatcher_settings, open_bus};
use crate::bus::Bus;
use crate::bus::conformance::nats_settings;
use crate::services::nats::{NatsServer, Version};
use crate::services::postgres::PostgresServer;

/// Reconnecting to a restarted server may take seconds.
const SOON: Duration = Duration::from_secs(60);

/// Settings that request the ack floor often.
fn engine_settings() -> EngineSettings {
    EngineSettings { floor_interval: Duration::from_millis(50), ..EngineSettings::default() }
}

/// Publishes `count` events one after another. Returns the ids of the accepted ones.
async fn publish(world: &World, bus: &Bus, count: usize) -> Vec<String> {
    let mut accepted = Vec::new();
    let started = Instant::now();
    while accepted.len() < count {
        let event = custom("shop", "tick");
        let published = world.publish_on(bus, std::slice::from_ref(&event)).await.remove(0);
        assert!(started.elapsed() < SOON, "not accepted: {published:?}");
        match published {
            Ok(_) => accepted.push(event.id),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    accepted
}

/// Waits until each of these events has called the webhook, and checks that none called it twice.
async fn each_called_once(receiver: &Receiver, ids: &[String]) {
    let started = Instant::now();
    loop {
        let mut calls: BTreeMap<String, usize> = BTreeMap::new();
        for request in receiver.all() {
            *calls.entry(request.json()["event_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        let missing = ids.iter().filter(|id| !calls.contains_key(*id)).count();
        assert!(calls.values().all(|count| *count == 1), "{calls:?}");
        if missing == 0 {
            return;
        }
        assert!(started.elapsed() < SOON, "{missing} of {} never reached the rule", ids.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn acknowledged(bus: &Bus) {
    let deadline = Instant::now() + PATIENCE;
    while bus.status().await.unwrap().consumers.iter().any(|consumer| consumer.backlog > 0) {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn ready_to_call(world: &World) -> Receiver {
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "tick", "event_type": "tick", "actions": {"webhooks": ["ops"]}})).await;
    world.run_dispatcher(dispatcher_settings());
    receiver
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_bus_file_loses_no_event_accepted_on_it() {
    let mut world = World::open();
    let receiver = ready_to_call(&world).await;
    let (dir, copy) = (world.dir.path().to_owned(), tempfile::tempdir().unwrap());
    let mut ids = Vec::new();
    for life in 0..4 {
        let kill = CancellationToken::new();
        let engine = world.run_engine_with(engine_settings(), kill.clone());
        let id = world.bus.stream_id();
        // Each recreated stream reuses the sequences of lost events.
        for _ in 0..3 {
            ids.extend(publish(&world, &world.bus, 10).await);
            each_called_once(&receiver, &ids).await;
            acknowledged(&world.bus).await;
        }
        kill.cancel();
        engine.await.unwrap();
        world.bus.close().await;
        match life {
            0 => fs::copy(dir.join("bus.db"), copy.path().join("bus.db")).map(drop).unwrap(),
            _ => put_back(copy.path(), &dir),
        }
        world.bus = open_bus(&dir);
        assert_eq!(world.bus.stream_id(), id, "it is the same stream by its name");
    }
}

fn put_back(copy: &Path, dir: &Path) {
    for ending in ["-wal", "-shm"] {
        let _ = fs::remove_file(dir.join(format!("bus.db{ending}")));
    }
    fs::copy(copy.join("bus.db"), dir.join("bus.db")).unwrap();
}

/// Two reaction processes see the server return with fewer messages than it had acknowledged.
async fn a_power_cut_of_the_server(version: Version) {
    let mut server = NatsServer::start(version);
    let settings = crate::bus::NatsSettings { timeout: Duration::from_secs(2), ..nats_settings(&server) };
    let postgres = PostgresServer::start();
    let mut world = World::over_postgres(&postgres).await;
    world.bus = Bus::connect_nats(settings.clone()).await.unwrap();
    let receiver = ready_to_call(&world).await;
    world.run_engine_with(engine_settings(), CancellationToken::new());
    let other = Bus::connect_nats(settings).await.unwrap();
    world.run_engine_on(other.clone(), engine_settings(), CancellationToken::new());
    let mut ids = publish(&world, &world.bus, 20).await;
    each_called_once(&receiver, &ids).await;
    acknowledged(&world.bus).await;
    let copy = tempfile::tempdir().unwrap();
    server.kill9();
    server.copy_stored("TESTS/msgs", copy.path());
    server.restart();
    for _ in 0..3 {
        ids.extend(publish(&world, &world.bus, 20).await);
        each_called_once(&receiver, &ids).await;
    }
    acknowledged(&world.bus).await;
    let (id, last) = (world.bus.stream_id(), world.bus.status().await.unwrap().last_sequence);
    server.kill9();
    server.put_back("TESTS/msgs", copy.path());
    server.restart();
    ids.extend(publish(&world, &other, 30).await);
    let now = other.status().await.unwrap().last_sequence;
    assert!(world.bus.stream_id() == id && now < last, "{now} of {last}: the tail is not lost");
    ids.extend(publish(&world, &world.bus, 60).await);
    each_called_once(&receiver, &ids).await;
    acknowledged(&world.bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_the_newest_server_hides_no_accepted_event_from_the_rules() {
    a_power_cut_of_the_server(Version::Newest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_of_the_oldest_server_hides_no_accepted_event_from_the_rules() {
    a_power_cut_of_the_server(Version::Oldest).await;
}
