//! Idempotency keys over more than one gateway.

use std::sync::Barrier;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, from_environment};
use crate::harness::{Server, post, python};

/// Requests of the default run, each to both gateways; `CAUSALITY_KEYS` asks for more.
const REQUESTS: usize = 50;
/// Enough for an atomic batch.
const BATCH_EVENTS: usize = 20;

#[test]
fn a_key_sent_to_two_gateways_at_once_is_stored_once() {
    check_twins(&Cluster::start(&[]), 1);
}

/// Of two batches with the same keys the server takes each key from one.
#[test]
fn keys_sent_to_two_gateways_at_once_in_atomic_batches_are_stored_once() {
    let cluster = Cluster::start_syncing(&[("NATS_PUBLISH_MODE", "atomic")]);
    check_twins(&cluster, BATCH_EVENTS);
    assert!(cluster.in_batches().0 > 0, "no batch was atomic");
}

/// Each request goes to both gateways at once, to one of them in the reverse order.
fn check_twins(cluster: &Cluster, events: usize) {
    let gateways = [cluster.role("gateway", 0), cluster.role("gateway", 1)];
    let mut sink = cluster.role("sink", 0);
    let requests = from_environment("CAUSALITY_KEYS", REQUESTS);
    for request in 0..requests {
        let keys: Vec<String> = (0..events).map(|event| format!("k{request}.{event}")).collect();
        let reversed: Vec<String> = keys.iter().rev().cloned().collect();
        let barrier = &Barrier::new(2);
        let [ahead, mut back] = std::thread::scope(|scope| {
            let send = |gateway, keys| scope.spawn(move || duplicates(gateway, keys, barrier));
            [send(&gateways[0], &keys), send(&gateways[1], &reversed)].map(|thread| thread.join().unwrap())
        });
        back.reverse();
        for (key, both) in keys.iter().zip(ahead.iter().zip(&back)) {
            assert!(both.0 != both.1, "{key}: duplicate {both:?}");
        }
    }
    assert!(sink.terminate(Duration::from_secs(35)).success());
    let read = python("read_parquet.py", &[cluster.bucket().to_str().unwrap(), "ids"], "");
    assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["rows"], requests * events);
}

/// Sends an event for each key when the other is ready to do so, too; which of them were duplicates.
fn duplicates(gateway: &Server, keys: &[String], barrier: &Barrier) -> Vec<bool> {
    let event = |key| json!({"appId": "a", "deviceId": "d", "idempotencyKey": key, "userLogin": {}});
    let events: Vec<Value> = keys.iter().map(event).collect();
    let (path, body) = match &events[..] {
        [event] => ("ingest", json!({"event": event})),
        events => ("batch", json!({"events": events})),
    };
    let (url, body) = (format!("{}/v1/events/{path}", gateway.http), body.to_string());
    barrier.wait();
    let (status, reply) = post(&url, body.as_bytes(), "application/json").unwrap();
    assert_eq!(status, 200, "{reply}");
    let reply: Value = serde_json::from_str(&reply).unwrap();
    let results = reply["results"].as_array().cloned().unwrap_or_else(|| vec![reply]);
    assert!(results.iter().all(|result| result["status"] == "accepted"), "{results:?}");
    results.iter().map(|result| result["duplicate"] == true).collect()
}
