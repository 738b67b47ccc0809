//! What is deleted on the NATS server, or lost with its disk, while the process runs: it is named in `/ready`, made
//! anew, and every event lands and is reacted to exactly once.

use serde_json::{Value, json};

use crate::harness::{Receiver, Server, get, python, wait_until};
use crate::services::nats::{NatsServer, Version};

const EVENTS_EACH: usize = 15;
const LOST: [&str; 4] = ["gone from NATS", "is there anew", "unready", "cannot"];

struct Setup {
    nats: NatsServer,
    server: Server,
    receiver: Receiver,
    sent: usize,
    _dir: tempfile::TempDir,
}

impl Setup {
    fn start() -> Self {
        let (nats, receiver, dir) =
            (NatsServer::start(Version::Newest), Receiver::start(), tempfile::tempdir().unwrap());
        let settings = [("NATS_URL", &*nats.url()), ("BATCH_FLUSH_INTERVAL", "200ms"), ("NATS_TIMEOUT", "2s")];
        let server = Server::start(dir.path(), &settings);
        server.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
        server.admin_create("/rules", &json!({"name": "all", "actions": {"webhooks": ["ops"]}}));
        Self { nats, server, receiver, sent: 0, _dir: dir }
    }

    /// Sends until it is taken; each event has a key of its own.
    fn send(&mut self) {
        let from = self.sent;
        self.sent += EVENTS_EACH;
        let event = |n| json!({"appId": "a", "deviceId": "d", "idempotencyKey": format!("k{n}"), "userLogin": {}});
        let batch = json!({"events": (from..self.sent).map(event).collect::<Vec<_>>()});
        wait_until("the events are taken", || {
            let (status, reply) = self.server.send("/v1/events/batch", &batch).unwrap();
            status == 200 && reply["acceptedCount"] == EVENTS_EACH
        });
    }

    fn all_is_handled_once(&self, what: &str) {
        self.receiver.wait_for("/", self.sent);
        let warehouse = self.server.warehouse();
        let read = || -> Value {
            let read = python("read_parquet.py", &[warehouse.to_str().unwrap(), "ids"], "");
            serde_json::from_str(&read).unwrap()
        };
        wait_until(&format!("{what}: all rows are stored"), || read()["rows"].as_u64() >= Some(self.sent as u64));
        self.server.wait_drained();
        assert_eq!(read()["rows"], self.sent, "{what}");
        assert_eq!((self.receiver.count(), self.receiver.repeated()), (self.sent, 0), "{what}");
    }

    /// `/ready` says what is gone, or was for a moment, and is well again.
    fn is_named_and_heals(&self, named: &str) {
        wait_until(&format!("{named} is named"), || {
            let (_, report) = get(&format!("{}/ready", self.server.admin)).unwrap();
            report.contains(&format!("{named} is gone from NATS")) || report.contains(&format!("{named} was gone from"))
        });
        self.server.wait_ready();
    }
}

#[test]
fn deleted_consumers_and_queues_come_again_and_nothing_doubles() {
    let mut setup = Setup::start();
    setup.send();
    setup.all_is_handled_once("before");
    for (stream, consumer) in [
        ("CAUSALITY_EVENTS_RANGES", Some("warehouse-sink")),
        ("CAUSALITY_EVENTS", Some("analysis-engine")),
        ("CAUSALITY_EVENTS_RANGES", None),
        ("CAUSALITY_DLQ", None),
    ] {
        let what = consumer.unwrap_or(stream);
        setup.nats.delete(stream, consumer);
        setup.is_named_and_heals(what);
        setup.send();
        setup.all_is_handled_once(what);
    }
    setup.server.expect_quiet_log(&LOST);
}

/// Sequences begin anew, under which files and the store hold other events.
#[test]
fn a_stream_that_is_lost_begins_anew_and_its_sequences_are_other_events() {
    let mut setup = Setup::start();
    setup.send();
    setup.all_is_handled_once("before");
    setup.nats.delete("CAUSALITY_EVENTS", None);
    setup.send();
    setup.all_is_handled_once("the stream was deleted");
    setup.send();
    setup.all_is_handled_once("the stream counts on");
    setup.nats.kill9();
    setup.nats.lose_data();
    setup.nats.restart();
    setup.send();
    setup.all_is_handled_once("the server lost everything");
    setup.server.wait_ready();
    let (_, report) = get(&format!("{}/ready", setup.server.admin)).unwrap();
    assert!(report.contains("stream CAUSALITY_EVENTS was gone from NATS"), "{report}");
}
