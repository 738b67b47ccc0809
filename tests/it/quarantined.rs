//! Refused input through the binary: kept by a process that is killed, taken in once by one that reads it by other rules
//! and is killed meanwhile.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, binary, get, post, wait_until};
use crate::killed::stored;
use crate::services::nats::{NatsServer, Version};

const EVENTS: usize = 60;
const KILLS: usize = 3;

fn event(n: usize) -> Value {
    let text = "x".repeat(1_500);
    let mut event = json!({"appId": "shop", "deviceId": format!("d{n}"),
        "customEvent": {"eventName": "large", "properties": {"text": text}}});
    // Of the others the first id that they are given must stay theirs.
    if n.is_multiple_of(2) {
        event["id"] = json!(format!("e{n}"));
    }
    event
}

fn letters(server: &Server) -> Vec<Value> {
    server.admin_get("/dead-letters?kind=input&limit=1000")["items"].as_array().cloned().unwrap()
}

fn mended_input_is_taken_in_once(environment: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let strict: Vec<_> =
        environment.iter().copied().chain([("QUARANTINE", "true"), ("MAX_EVENT_BYTES", "1KB")]).collect();
    let mut server = Server::start(dir.path(), &strict);
    for chunk in (0..EVENTS).collect::<Vec<_>>().chunks(20) {
        let events: Vec<Value> = chunk.iter().map(|n| event(*n)).collect();
        let (status, reply) = server.send("/v1/events/batch", &json!({"events": events})).unwrap();
        assert_eq!((status, &reply["rejectedCount"]), (200, &json!(20)), "{reply}");
    }
    let nameless = json!({"event": {"appId": "shop", "appStart": {}}});
    assert_eq!(server.send("/v1/events/ingest", &nameless).unwrap().0, 400);
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    for line in [
        r#"causality_gateway_rejected_total{reason="limit"} 60"#,
        r#"causality_gateway_rejected_total{reason="required"} 1"#,
        r#"causality_gateway_quarantined_total{outcome="kept"} 61"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    let told = log.lines().filter(|line| line.contains("refused an event for what it is")).count();
    assert!((2..=20).contains(&told), "{told} lines for 61 refusals");
    server.kill();
    drop(server);

    // By other rules, and killed while it reads again.
    let mut server = Server::start(dir.path(), environment);
    let counts = server.admin_get("/dead-letters/counts");
    let count = |reason: &str, count: usize| json!({"app_id": "shop", "reason_code": reason, "count": count});
    assert_eq!(counts, json!({"items": [count("limit", EVENTS), count("required", 1)], "more": false}));
    let kept = letters(&server);
    let first = server.admin_get(&format!("/dead-letters/{}", kept.last().unwrap()["id"]));
    assert_eq!(first["input"]["text"], event(0).to_string());
    assert_eq!(
        (&first["kind"], &first["app_id"], &first["reason_code"]),
        (&json!("input"), &json!("shop"), &json!("limit"))
    );

    let (admin, done) = (server.admin.clone(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                for id in kept.iter().map(|letter| &letter["id"]) {
                    let _ = post(&format!("{admin}/api/admin/dead-letters/{id}/replay"), b"", "application/json");
                }
            }
        });
        for _ in 0..KILLS {
            std::thread::sleep(Duration::from_millis(100));
            server.kill_and_restart();
        }
        done.store(true, Ordering::Relaxed);
    });
    let replay = Command::new(binary())
        .args(["dead-letters", "replay", "--all"])
        .env("CAUSALITY_ADMIN_URL", &server.admin)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&replay.stderr);
    assert!(replay.status.code() == Some(1) && told.contains("1 dead letters are still refused"), "{told}");
    let left = letters(&server);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(
        (&left[0]["reason_code"], &left[0]["reason"]),
        (&json!("required"), &json!("/event/deviceId: is required"))
    );

    server.wait_drained();
    wait_until("all of it is stored", || stored(&server.warehouse()).len() >= EVENTS);
    let ids = stored(&server.warehouse());
    assert_eq!(ids.len(), EVENTS, "each once: {ids:?}");
    assert!((0..EVENTS).step_by(2).all(|n| ids.contains(&format!("e{n}"))), "{ids:?}");
}

#[test]
fn mended_input_is_taken_in_once_from_a_file() {
    mended_input_is_taken_in_once(&[]);
}

#[test]
fn mended_input_is_taken_in_once_from_nats() {
    let nats = NatsServer::start(Version::Newest);
    let url = nats.url();
    mended_input_is_taken_in_once(&[("NATS_URL", &url), ("NATS_ACK_WAIT", "1s")]);
}
