//! A person is erased from the bus of a process whose lake is away: the others' events arrive once, and no file of the
//! process has a byte of the person's, neither after a kill nor after a stop.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, post, python, wait_until};
use crate::services::s3::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};

/// Of nothing else.
const ERASED: &str = "device-of-the-erased-5d41402abc4b";
const SECRET: &str = "what-the-erased-wrote-9d5ed678fe57";
const KEPT: &str = "device-of-another-7d793037a076";
/// More than a sink holds in memory that cannot write.
const FILLERS: usize = 24;
const FILLER_EVENTS: usize = 500;

fn holds(dir: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holds(&path, text));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(text.len()).any(|part| part == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

/// Text that no codec makes small.
fn noise(seed: u64, bytes: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push_str(&format!("{state:016x}"));
    }
    text
}

fn event(device: &str, n: usize, text: &str) -> Value {
    json!({"appId": "shop", "deviceId": device, "id": format!("{device}-{n}"), "idempotencyKey": format!("{device}/{n}"),
        "customEvent": {"eventName": "note", "stringParams": {"text": text}}})
}

fn send(server: &Server, events: &[Value]) {
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": events})).unwrap();
    assert_eq!((status, &reply["acceptedCount"]), (200, &json!(events.len())), "{reply}");
}

fn erase(server: &Server, request: &Value) -> Value {
    let (status, body) = try_to_erase(&server.admin, request).unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// None when the process was killed meanwhile.
fn try_to_erase(admin: &str, request: &Value) -> Option<(u16, String)> {
    post(&format!("{admin}/api/admin/erasures"), request.to_string().as_bytes(), "application/json")
}

/// Rows and ids of each device.
fn rows(files: &Path) -> Value {
    let query = format!(
        "SELECT device_id, count(*), count(DISTINCT id) FROM read_parquet('{}/**/events_*.parquet') GROUP BY 1 ORDER BY 1",
        files.display()
    );
    serde_json::from_str(&python("read_parquet.py", &["", "query"], &query)).unwrap()
}

#[test]
fn an_erased_device_is_in_no_file_and_the_others_arrive_once() {
    let (dir, mut s3) = (tempfile::tempdir().unwrap(), S3Server::start());
    let url = s3.url();
    let settings = [
        ("S3_ENDPOINT", url.as_str()),
        ("S3_BUCKET", BUCKET),
        ("S3_ACCESS_KEY_ID", ACCESS_KEY),
        ("S3_SECRET_ACCESS_KEY", SECRET_KEY),
        ("BATCH_FLUSH_INTERVAL", "300ms"),
        ("BATCH_MEMORY_MAX", "16MiB"),
    ];
    let mut server = Server::start(dir.path(), &settings);
    s3.stop();
    for filler in 0..FILLERS {
        let events: Vec<Value> = (0..FILLER_EVENTS)
            .map(|n| filler * FILLER_EVENTS + n)
            .map(|n| event("filler", n, &noise(n as u64, 4_000)))
            .collect();
        send(&server, &events);
    }
    // In one batch, and small enough to be stored as it is.
    send(&server, &[event(ERASED, 1, SECRET), event(KEPT, 1, "kept"), event(ERASED, 2, SECRET)]);
    let data = dir.path().join("data");
    for text in [ERASED, SECRET, KEPT] {
        assert!(!holds(&data, text).is_empty(), "{text} is stored");
    }

    let first = erase(&server, &json!({"device_id": ERASED}));
    assert_eq!((&first["events"], &first["is_scanned"]), (&json!(2), &json!(true)), "{first}");
    assert_eq!(first["is_settled"], false, "the sink has not come so far: {first}");
    server.kill();
    for text in [ERASED, SECRET] {
        assert_eq!(holds(dir.path(), text), Vec::<String>::new(), "after a kill");
    }
    assert!(!holds(&data, KEPT).is_empty());

    server.relaunch();
    s3.restart();
    server.wait_ready();
    let through = &first["through_sequence"];
    wait_until("it is settled", || {
        let step =
            erase(&server, &json!({"device_id": ERASED, "after_sequence": through, "through_sequence": through}));
        assert_eq!((&step["events"], &step["is_scanned"]), (&json!(0), &json!(true)), "{step}");
        std::thread::sleep(Duration::from_millis(200));
        step["is_settled"] == true
    });
    let fillers = FILLERS * FILLER_EVENTS;
    assert_eq!(rows(&s3.bucket()), json!([[KEPT, 1, 1], ["filler", fillers, fillers]]));
    let audit = server.admin_get("/audit?kind=erasure");
    assert!(audit["items"].as_array().is_some_and(|records| !records.is_empty()), "{audit}");
    assert!(server.terminate(Duration::from_secs(30)).success());
    for text in [ERASED, SECRET] {
        assert_eq!(holds(dir.path(), text), Vec::<String>::new(), "after a stop");
    }
}

/// Each kill falls somewhere in the rewriting of groups; what was in flight to the lake may be there.
#[test]
fn an_erasure_that_is_killed_is_finished_by_the_next_and_touches_nobody_else() {
    const ROUNDS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "200ms")]);
    let mut sent = 0;
    for round in 0..ROUNDS {
        for _ in 0..10 {
            let events: Vec<Value> = (sent..sent + 400)
                .map(|n| event(if n % 2 == 0 { ERASED } else { KEPT }, n, &noise(n as u64, 200)))
                .collect();
            send(&server, &events);
            sent += events.len();
        }
        let admin = server.admin.clone();
        let erasing = std::thread::spawn(move || try_to_erase(&admin, &json!({"device_id": ERASED})));
        std::thread::sleep(Duration::from_millis(20 * round as u64));
        server.kill();
        // It was answered, or it was not.
        drop(erasing.join().unwrap());
        server.restart();
    }
    let mut request = json!({"device_id": ERASED});
    wait_until("it is settled", || {
        let step = erase(&server, &request);
        request["after_sequence"] = step["scanned_through"].clone();
        request["through_sequence"] = step["through_sequence"].clone();
        std::thread::sleep(Duration::from_millis(200));
        step["is_scanned"] == true && step["is_settled"] == true
    });
    let again = erase(&server, &json!({"device_id": ERASED}));
    assert_eq!((&again["events"], &again["through_sequence"]), (&json!(0), &json!(sent)), "{again}");
    let kept = json!([KEPT, sent / 2, sent / 2]);
    wait_until("the others have arrived", || rows(&server.warehouse()).as_array().unwrap().contains(&kept));
    assert!(server.terminate(Duration::from_secs(30)).success());
    assert!(rows(&server.warehouse()).as_array().unwrap().contains(&kept), "each once");
}
