//! The latency from an event to a webhook request.

use std::time::{Duration, Instant};

use serde_json::json;

use super::World;
use super::purchase;
use super::receiver::Receiver;

/// Far above the latency on a quiet machine, and far below any poll interval.
const SLOWEST_OF_MOST: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_becomes_a_request_without_waiting_for_any_timer() {
    const EVENTS: usize = 300;
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "all", "actions": {"webhooks": ["ops"]}})).await;
    world.run().await;
    let mut published = std::collections::HashMap::new();
    let start = Instant::now();
    for n in 0..EVENTS {
        tokio::time::sleep_until((start + Duration::from_millis(5 * n as u64)).into()).await;
        let event = purchase("shop", n as i64);
        let id = event.id.clone();
        world.publish(vec![event]).await;
        published.insert(id, Instant::now());
    }
    let mut waits: Vec<Duration> = receiver
        .wait_for(EVENTS)
        .await
        .iter()
        .map(|request| request.at.saturating_duration_since(published[request.json()["event_id"].as_str().unwrap()]))
        .collect();
    waits.sort();
    assert!(waits[EVENTS * 9 / 10] < SLOWEST_OF_MOST, "p50 {:?}, p90 {:?}", waits[EVENTS / 2], waits[EVENTS * 9 / 10]);
}
