//! Files that are removed, replaced or damaged under a running process or between two: what was accepted is kept, or
//! the process says that it cannot keep it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Server, get, post, wait_until};

/// How soon it is noticed while nothing is sent.
const NOTICED_MAX: Duration = Duration::from_secs(2);
/// What a busy machine may add.
const BUSY: Duration = Duration::from_secs(8);

fn event(n: usize) -> Value {
    json!({"event": {"id": format!("e-{n}"), "appId": "a", "deviceId": "d", "userLogin": {}}})
}

fn ready(base: &str) -> (u16, Value) {
    let (status, body) = get(&format!("{base}/ready")).unwrap();
    (status, serde_json::from_str(&body).unwrap())
}

fn component(base: &str, name: &str) -> String {
    ready(base).1["components"][name].as_str().unwrap_or_default().to_owned()
}

fn wait_said(base: &str, name: &str, words: &str) {
    let started = Instant::now();
    wait_until(&format!("{base} says {words:?} of {name}"), || component(base, name).contains(words));
    assert!(started.elapsed() < NOTICED_MAX + BUSY, "said after {:?}", started.elapsed());
    assert_eq!(ready(base).0, 503);
}

/// The files of a database.
fn files(data: &Path, name: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(name)).collect()
}

#[test]
fn a_removed_bus_file_is_noticed_without_traffic_and_nothing_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "60s")]);
    let data = dir.path().join("data");
    assert_eq!(server.send("/v1/events/ingest", &event(0)).unwrap().0, 200);

    // The whole directory away, and back.
    let away = dir.path().join("away");
    fs::rename(&data, &away).unwrap();
    assert_eq!(server.send("/v1/events/ingest", &event(1)).unwrap().0, 503, "right after it");
    for base in [&server.admin, &server.http] {
        wait_said(base, "bus_file", "was removed while in use");
    }
    fs::rename(&away, &data).unwrap();
    wait_until("it is ready again", || ready(&server.http).0 == 200 && ready(&server.admin).0 == 200);
    assert_eq!(server.send("/v1/events/ingest", &event(2)).unwrap().0, 200);
    server.kill_and_restart();
    let first = server.admin_get("/status")["bus"]["last_sequence"].as_u64().unwrap();
    assert!(first >= 2, "what was accepted is there: {first}");

    files(&data, "bus.db").iter().for_each(|file| fs::remove_file(file).unwrap());
    for base in [&server.admin, &server.http] {
        wait_said(base, "bus_file", "bus.db");
    }
    assert_eq!(server.send("/v1/events/ingest", &event(3)).unwrap().0, 503);
    server.kill_and_restart();
    assert_eq!(server.send("/v1/events/ingest", &event(4)).unwrap().0, 200);
}

#[test]
fn a_removed_store_refuses_writes_and_keeps_no_events_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let webhooks = format!("{}/api/admin/webhooks", server.admin);
    server.admin_create("/webhooks", &json!({"name": "first", "url": "http://127.0.0.1:9"}));
    let data = dir.path().join("data");
    let moved: Vec<_> = files(&data, "store.db").into_iter().chain([data.join("secrets.key")]).collect();
    for file in &moved {
        let away = dir.path().join(file.file_name().unwrap());
        fs::rename(file, &away).unwrap();
        // What was refused may be in the file all the same, once it is back: another name for each.
        let name = away.file_name().unwrap().to_str().unwrap();
        let document = json!({"name": name, "url": "http://127.0.0.1:9"}).to_string();
        let (status, body) = post(&webhooks, document.as_bytes(), "application/json").unwrap();
        assert_eq!(status, 503, "{}: {body}", file.display());
        wait_said(&server.admin, "store", "was removed while in use");
        assert_eq!(ready(&server.http).0, 200, "events are taken in");
        assert_eq!(server.send("/v1/events/ingest", &event(0)).unwrap().0, 200);
        fs::rename(&away, file).unwrap();
        wait_until("it is ready again", || ready(&server.admin).0 == 200);
    }
    server.admin_create("/webhooks", &json!({"name": "third", "url": "http://127.0.0.1:9"}));
}

#[test]
fn a_warehouse_that_fails_keeps_no_events_away() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "100ms")]);
    assert_eq!(server.send("/v1/events/ingest", &event(0)).unwrap().0, 200);
    server.wait_drained();
    // A file where its directory was.
    let away = dir.path().join("away");
    fs::rename(server.warehouse(), &away).unwrap();
    fs::write(server.warehouse(), b"").unwrap();
    assert_eq!(server.send("/v1/events/ingest", &event(1)).unwrap().0, 200);
    wait_until("the admin port is unready", || ready(&server.admin).0 == 503);
    let (status, report) = ready(&server.http);
    assert_eq!((status, &report["status"]), (200, &json!("ready")), "{report}");
    assert_ne!(report["components"]["warehouse"], "ok", "it is told there too");
    fs::remove_file(server.warehouse()).unwrap();
    fs::rename(&away, server.warehouse()).unwrap();
    wait_until("it is ready again", || ready(&server.admin).0 == 200);
    server.wait_drained();
}

#[test]
fn a_damaged_log_stops_the_start_with_its_name() {
    for name in ["bus", "store"] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "60s")]);
        for n in 0..40 {
            assert_eq!(server.send("/v1/events/ingest", &event(n)).unwrap().0, 200);
            server.admin_create("/webhooks", &json!({"name": format!("w{n}"), "url": "http://127.0.0.1:9"}));
        }
        server.kill();
        let log = dir.path().join(format!("data/{name}.db-wal"));
        let whole = fs::read(&log).unwrap();
        let middle = whole.len() / 2;
        let mut damaged = whole.clone();
        damaged[middle] ^= 4;
        fs::write(&log, damaged).unwrap();
        let mut refused = Server::launch(dir.path(), &[]);
        assert!(!refused.wait_for_exit(Duration::from_secs(30)).success());
        let said = fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
        assert!(said.contains(&format!("{name}.db-wal is damaged at byte")), "{said}");

        fs::write(&log, &whole).unwrap();
        server.restart();
        assert_eq!(server.admin_get("/status")["bus"]["last_sequence"], 40);
        assert_eq!(server.admin_get("/status")["store"]["webhooks"], 40);
    }
}

/// A limit of the file's size fails writes with an error that is not that of a full disk.
#[test]
fn a_failing_write_is_not_called_a_full_bus() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with_file_limit(dir.path(), 1 << 20, &[("BATCH_FLUSH_INTERVAL", "60s")]);
    let mut noise = 1_u64;
    let mut sent = 0;
    let refused = loop {
        let text: String = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            format!("{noise:016x}")
        })
        .take(2_000)
        .collect();
        let event = json!({"event": {"appId": "a", "deviceId": "d", "customEvent": {"eventName": "n", "stringParams": {"t": text}}}});
        let (status, body) = server.send("/v1/events/ingest", &event).unwrap();
        if status != 200 {
            break (status, body);
        }
        sent += 1;
        assert!(sent < 1_000, "the limit is never met");
    };
    assert_eq!(refused.0, 503, "{}", refused.1);
    assert!(sent > 3 && !refused.1.to_string().contains("full"), "after {sent}: {}", refused.1);
    let said = component(&server.http, "bus");
    assert!(said.contains("File too large") && !said.contains("full"), "{said}");
    assert!(server.admin_get("/status")["bus"]["full"].is_null());
}

/// What the log's index counts and the log does not hold was accepted once.
#[test]
fn lost_commits_are_told_until_somebody_has_seen_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "60s")]);
    for n in 0..40 {
        assert_eq!(server.send("/v1/events/ingest", &event(n)).unwrap().0, 200);
    }
    server.kill();
    let log = dir.path().join("data/bus.db-wal");
    let file = fs::File::options().write(true).open(&log).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    server.restart();
    let warns = |server: &Server| {
        let warnings = ready(&server.admin).1["warnings"].to_string();
        warnings.contains("bus_file_lost") || warnings.contains("bus.db-lost once that is seen")
    };
    wait_until("readiness warns", || warns(&server));
    assert_eq!(ready(&server.http).0, 200, "it takes events in all the same");
    assert_eq!(server.send("/v1/events/ingest", &event(40)).unwrap().0, 200);
    server.kill_and_restart();
    wait_until("readiness warns still", || warns(&server));
    fs::remove_file(dir.path().join("data/bus.db-lost")).unwrap();
    wait_until("it is seen", || !warns(&server));
}
