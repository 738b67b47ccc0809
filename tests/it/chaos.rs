//! What is promised under kill -9, SIGTERM and a full disk, with load running.

use std::time::Duration;

use serde_json::json;

use crate::harness::{Receiver, Server, get, post, wait_until};
use crate::load::{self, Load};

/// Crashes of the default run; `CAUSALITY_CHAOS_CYCLES` asks for more.
const KILL_CYCLES: u64 = 50;

#[test]
fn kill_9_under_load_loses_and_doubles_nothing() {
    let cycles = std::env::var("CAUSALITY_CHAOS_CYCLES").map_or(KILL_CYCLES, |cycles| cycles.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    // Files close all the time, so that many kills fall between a file and its acknowledgement.
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "10ms")]);
    let receiver = Receiver::start();
    server.admin_create("/webhooks", &json!({"name": "ops", "url": receiver.url}));
    server.admin_create("/rules", &load::rule("ops"));

    let load = Load::start_keyed(&[&server.http]);
    // A fixed sequence of odd waits: as good as random, and the same in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..cycles {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(20 + (state >> 33) % 500));
        server.kill_and_restart();
    }
    std::thread::sleep(Duration::from_millis(300));
    let acknowledged = load.stop();
    assert!(acknowledged.len() as u64 > cycles * 50, "hardly any load: {} acknowledged", acknowledged.len());

    server.wait_drained();
    wait_until("no delivery is owed any more", || {
        ["pending", "in_progress"].iter().all(|status| {
            server.admin_get(&format!("/deliveries?status={status}&limit=1"))["items"].as_array().unwrap().is_empty()
        })
    });
    assert!(server.terminate(Duration::from_secs(35)).success());
    load::check_warehouse(&server.warehouse(), &acknowledged);
    load::check_deliveries(&receiver, &acknowledged);
}

#[test]
fn sigterm_under_load_leaves_every_acknowledged_event_in_parquet() {
    let dir = tempfile::tempdir().unwrap();
    // Files would stay open for a minute: only the stop can close them.
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "60s"), ("SHUTDOWN_TIMEOUT", "30s")]);
    let load = Load::start(&server.http);
    wait_until("enough is acknowledged", || load.acknowledged() > 20_000);
    let status = server.terminate(Duration::from_secs(30));
    assert_eq!(status.code(), Some(0));
    let acknowledged = load.stop();
    load::check_warehouse(&server.warehouse(), &acknowledged);
    server.expect_quiet_log(&[]);
}

/// The small disk is a mount of its own, which only Linux gives a test.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_answers_503_and_resumes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_on_tmpfs(dir.path(), 96 << 20, &[("BATCH_FLUSH_INTERVAL", "500ms")]);
    let inside = server.tmpfs();

    let load = Load::start(&server.http);
    wait_until("some load is acknowledged", || load.acknowledged() > 5_000);
    // Leaves little room, which the load then eats up.
    let ballast = inside.join("ballast");
    write_until_full(&ballast);
    wait_until("ingest answers 503", || load.statuses().contains_key(&503));
    std::thread::sleep(Duration::from_secs(2));
    let body =
        json!({"event": {"id": "load-0", "appId": "app0", "deviceId": "d", "purchaseComplete": {"orderId": "o"}}})
            .to_string();
    wait_until("a single event is refused with 503 too", || {
        post(&format!("{}/v1/events/ingest", server.http), body.as_bytes(), "application/json")
            .is_some_and(|(status, reply)| status == 503 && reply.contains("\"status\":503"))
    });
    wait_until("the store's disk is said to be full, while the store writes nothing", || {
        get(&format!("{}/ready", server.admin)).is_some_and(|(status, report)| {
            status == 503
                && serde_json::from_str::<serde_json::Value>(&report).unwrap()["components"]["store"]
                    .as_str()
                    .is_some_and(|why| why.contains("full"))
        })
    });
    let before = load.acknowledged();
    std::fs::remove_file(&ballast).unwrap();
    wait_until("ingest resumes", || load.acknowledged() > before + 5_000);
    let acknowledged = load.stop();
    server.wait_drained();
    let warehouse = inside.join("data/warehouse");
    wait_until("the sink is done", || server.admin_get("/status")["sink"]["open_rows"] == 0);
    load::check_warehouse(&warehouse, &acknowledged);
}

#[cfg(target_os = "linux")]
fn write_until_full(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let mut size = 1 << 20;
    while size >= 4096 {
        match file.write_all(&vec![0; size]) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => size /= 2,
            Err(error) => panic!("{error}"),
        }
    }
}
