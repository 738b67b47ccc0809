//! Idempotency keys over more than one gateway.

use std::sync::Barrier;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::{Cluster, from_environment};
use crate::harness::{Server, post, python};

/// Keys of the default run; `CAUSALITY_KEYS` asks for more.
const KEYS: usize = 50;

#[test]
fn a_key_sent_to_two_gateways_at_once_is_stored_once() {
    let cluster = Cluster::start(&[]);
    let gateways = [cluster.role("gateway", 0), cluster.role("gateway", 1)];
    let mut sink = cluster.role("sink", 0);
    let keys = from_environment("CAUSALITY_KEYS", KEYS);
    for key in 0..keys {
        let body =
            json!({"event": {"appId": "a", "deviceId": "d", "idempotencyKey": format!("k{key}"), "userLogin": {}}});
        let (body, barrier) = (body.to_string(), Barrier::new(2));
        let duplicates: Vec<bool> = std::thread::scope(|scope| {
            let send = |gateway: &Server| {
                let url = format!("{}/v1/events/ingest", gateway.http);
                let (body, barrier) = (&body, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    let (status, reply) = post(&url, body.as_bytes(), "application/json").unwrap();
                    assert_eq!(status, 200, "{reply}");
                    serde_json::from_str::<Value>(&reply).unwrap()["duplicate"].as_bool().unwrap()
                })
            };
            let both = [send(&gateways[0]), send(&gateways[1])];
            both.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1, "key {key}");
    }
    assert!(sink.terminate(Duration::from_secs(35)).success());
    let read = python("read_parquet.py", &[cluster.bucket().to_str().unwrap(), "ids"], "");
    assert_eq!(serde_json::from_str::<Value>(&read).unwrap()["rows"], keys);
}
