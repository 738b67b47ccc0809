//! A stream that is full of what somebody has not read: clients are refused, and nothing of it is dropped.

use std::time::Duration;

use serde_json::json;

use crate::cluster::{Cluster, from_environment, readiness};
use crate::harness::{Receiver, Server, signal, wait_until};
use crate::load::{self, Load};

/// Times that the stream fills in the default run; `CAUSALITY_FULL_ROUNDS` asks for more.
const ROUNDS: usize = 2;

#[test]
fn a_full_stream_answers_503_and_drops_nothing_that_anybody_has_not_read() {
    let cluster = Cluster::start(&[("NATS_STREAM_MAX_BYTES", "4MiB")]);
    let receiver = Receiver::start();
    let reaction = cluster.role("reaction", 0);
    reaction.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    reaction.admin_create("/rules", &load::rule("ops"));
    let (sink, gateway) = (cluster.role("sink", 0), cluster.role("gateway", 0));
    let load = Load::start_keyed(&[&gateway.http]);
    let refusals = || load.statuses().get(&503).copied().unwrap_or_default();
    // Who still reads acknowledges everything meanwhile: only what the others have not read keeps it.
    let in_turn: [&[&Server]; 3] = [&[&reaction], &[&sink], &[&reaction, &sink]];
    for round in 0..from_environment("CAUSALITY_FULL_ROUNDS", ROUNDS) {
        let before = load.acknowledged();
        wait_until("load goes on", || load.acknowledged() > before + 500);
        let (held, refused) = (in_turn[round % in_turn.len()], refusals());
        held.iter().for_each(|server| signal(server.pid(), "STOP"));
        wait_until("the stream is full", || refusals() > refused);
        wait_until("readiness says so", || {
            let (status, report) = readiness(&gateway);
            status == 503 && report["components"]["bus"].as_str().is_some_and(|why| why.contains("full"))
        });
        let before = load.acknowledged();
        held.iter().for_each(|server| signal(server.pid(), "CONT"));
        wait_until("it drains and ingest resumes", || load.acknowledged() > before + 2_000);
        gateway.wait_ready();
    }
    let acknowledged = load.stop();
    cluster.wait_settled(&reaction);
    for mut server in [gateway, sink, reaction] {
        assert!(server.terminate(Duration::from_secs(35)).success(), "log in {}", server.dir.display());
    }
    cluster.check(&receiver, &acknowledged);
}
