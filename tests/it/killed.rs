//! What becomes of events when the process is killed again and again, and of one that ends the process itself.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, get, python, wait_until};
use crate::services::nats::{NatsServer, Version};

/// As many as once were enough for the bus to give messages up.
const KILLS: usize = 66;
/// Each waits for a lease there.
const KILLS_ON_NATS: usize = 12;
/// What the faulty event holds.
const FATAL: &str = "this-event-ends-the-process";

fn send(server: &Server, ids: std::ops::Range<usize>) -> BTreeSet<String> {
    let event = |n: usize| json!({"id": format!("e{n}"), "appId": "shop", "deviceId": "d", "userLogin": {}});
    let events: Vec<Value> = ids.clone().map(event).collect();
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": events})).unwrap();
    assert_eq!(status, 200, "{reply}");
    ids.map(|n| format!("e{n}")).collect()
}

pub(crate) fn stored(warehouse: &Path) -> BTreeSet<String> {
    let read: Value =
        serde_json::from_str(&python("read_parquet.py", &[warehouse.to_str().unwrap(), "ids"], "")).unwrap();
    let ids: Vec<String> = serde_json::from_value(read["ids"].clone()).unwrap();
    let unique: BTreeSet<String> = ids.iter().cloned().collect();
    assert_eq!(unique.len(), ids.len(), "no event is there twice");
    unique
}

fn is_drained(server: &Server) -> bool {
    let Some((200, body)) = get(&format!("{}/api/admin/status", server.admin)) else { return false };
    let status: Value = serde_json::from_str(&body).unwrap();
    let consumers = status["consumers"].as_array().cloned().unwrap_or_default();
    !consumers.is_empty() && consumers.iter().all(|consumer| consumer["backlog"] == 0)
}

fn kills_bury_nothing(environment: &[(&str, &str)], kills: usize, limit: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), environment);
    let ids = send(&server, 0..10);
    for _ in 0..kills {
        server.kill_and_restart();
    }
    let began = std::time::Instant::now();
    wait_until("nothing is owed", || is_drained(&server));
    assert!(began.elapsed() < limit, "{:?}", began.elapsed());
    assert_eq!(stored(&server.warehouse()), ids);
    assert_eq!(server.admin_get("/dead-letters")["items"], json!([]));
    let (_, ready) = get(&format!("{}/ready", server.admin)).unwrap();
    assert!(!ready.contains("dead letters"), "{ready}");
}

#[test]
fn sixty_six_kills_bury_nothing() {
    kills_bury_nothing(&[], KILLS, Duration::from_secs(10));
}

#[test]
fn kills_bury_nothing_on_nats() {
    let nats = NatsServer::start(Version::Newest);
    let url = nats.url();
    kills_bury_nothing(&[("NATS_URL", &url), ("NATS_ACK_WAIT", "1s")], KILLS_ON_NATS, Duration::from_secs(30));
}

/// One event of many ends the process whenever `fault` meets it; it alone is given up by `consumer`.
fn only_the_fatal_one_is_buried(fault: &str, consumer: &str, more: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let environment: Vec<_> = more.iter().copied().chain([(fault, FATAL)]).collect();
    let mut server = Server::start(dir.path(), &environment);
    // Something to judge by, or the reaction passes over all.
    server.admin_create(
        "/rules",
        &json!({"name": "logins", "event_category": "user", "actions": {"publish_subjects": ["alerts.{app_id}.login"]}}),
    );
    let mut ids = send(&server, 0..40);
    let fatal = json!({"event": {"id": "fatal", "appId": "shop", "deviceId": FATAL, "userLogin": {}}});
    // The process may end before it answers.
    let _ = server.send("/v1/events/ingest", &fatal);
    server.keep_alive_until("the fatal event is given up", |server| {
        get(&format!("{}/api/admin/dead-letters", server.admin)).is_some_and(|(_, body)| body.contains("\"consumer\""))
    });
    server.wait_ready();
    ids.extend(send(&server, 40..60));
    server.keep_alive_until("nothing is owed", is_drained);

    let letters = server.admin_get("/dead-letters")["items"].clone();
    assert_eq!(letters.as_array().unwrap().len(), 1, "{letters}");
    assert_eq!(letters[0]["consumer"], consumer);
    assert!(letters[0]["reason"].as_str().unwrap().contains("alone"), "{letters}");
    if consumer != "warehouse-sink" {
        ids.insert("fatal".to_owned());
    }
    assert_eq!(stored(&server.warehouse()), ids);
    wait_until("readiness warns", || {
        get(&format!("{}/ready", server.admin))
            .is_some_and(|(_, ready)| ready.contains("1 dead letters: `causality dead-letters list`"))
    });
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    let counted = format!("causality_bus_dead_lettered_total{{consumer=\"{consumer}\",reason=\"fatal\"}} 1");
    assert!(metrics.contains(&counted), "{metrics}");
}

#[test]
fn an_event_that_ends_the_process_is_given_up_alone() {
    only_the_fatal_one_is_buried("CAUSALITY_FAULT_SINK", "warehouse-sink", &[]);
}

#[test]
fn an_event_that_ends_the_reaction_is_given_up_by_it_alone() {
    only_the_fatal_one_is_buried("CAUSALITY_FAULT_REACTION", "analysis-engine", &[]);
}

#[test]
fn an_event_that_ends_the_process_is_given_up_alone_on_nats() {
    let nats = NatsServer::start(Version::Newest);
    let url = nats.url();
    let settings = [("NATS_URL", url.as_str()), ("NATS_ACK_WAIT", "1s")];
    only_the_fatal_one_is_buried("CAUSALITY_FAULT_SINK", "warehouse-sink", &settings);
}

#[test]
fn an_event_that_ends_the_reaction_is_given_up_by_it_alone_on_nats() {
    let nats = NatsServer::start(Version::Newest);
    let url = nats.url();
    let settings = [("NATS_URL", url.as_str()), ("NATS_ACK_WAIT", "1s")];
    only_the_fatal_one_is_buried("CAUSALITY_FAULT_REACTION", "analysis-engine", &settings);
}
