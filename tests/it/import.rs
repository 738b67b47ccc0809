//! `causality import`: what is in files is in the table once, whatever they hold and whoever is killed.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::delta::{files, holds_exactly};
use crate::harness::{Server, binary, python};

const HOUR_MS: u64 = 3_600_000;
const FROM_MS: u64 = 1_767_225_600_000; // 2026-01-01T00:00:00Z

fn command(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(dir).env("DATA_DIR", dir.join("data")).env("DELTA_ENABLED", "true").arg("import").args(args);
    command
}

fn import(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// What it says, with the exit status.
fn run(dir: &Path, args: &[&str], status: i32) -> String {
    let output = import(dir, args);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {}", told(&output));
    told(&output)
}

/// Events of two apps over three hours, out of order.
fn event(n: u64) -> Value {
    let app = if n.is_multiple_of(3) { "007" } else { "shop" };
    let at = FROM_MS + n * 7_919 % (3 * HOUR_MS);
    json!({"id": format!("event-{n}"), "appId": app, "deviceId": "d", "timestampMs": at, "screenView": {"screenName": "Home"}})
}

fn lines(events: impl Iterator<Item = Value>) -> String {
    events.fold(String::new(), |mut all, event| {
        let _ = writeln!(all, "{event}");
        all
    })
}

fn ids(range: std::ops::Range<u64>) -> BTreeSet<String> {
    range.map(|n| format!("event-{n}")).collect()
}

#[test]
fn every_form_lands_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    let told = |args: &[&str], status| run(path, args, status);

    // JSON lines, plain and compressed, from files and a pipe; what is there is not written again.
    write("a.jsonl", &lines((0..50).map(event)));
    assert_eq!(told(&["a.jsonl", "--dry-run"], 0), "a.jsonl: 50 rows are good\n");
    assert_eq!(told(&["a.jsonl"], 0), "a.jsonl: 50 rows imported\n");
    assert_eq!(told(&["a.jsonl"], 0), "a.jsonl: 0 rows imported, 50 were done before\n");
    write("b.ndjson", &lines((40..60).chain(59..61).map(event)));
    assert!(Command::new("gzip").arg(path.join("b.ndjson")).status().unwrap().success());
    assert_eq!(told(&["b.ndjson.gz"], 0), "b.ndjson.gz: 11 rows imported, 11 were there\n");
    let mut piped = command(path, &["-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(piped.stdin.as_mut().unwrap(), lines((50..70).map(event)).as_bytes()).unwrap();
    let piped = piped.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "-: 9 rows imported, 11 were there\n");
    let table = path.join("data/warehouse");
    holds_exactly(&table, &ids(0..70));

    // The files of the lake are a way to another lake.
    let stored: Vec<String> =
        files(&table, &table).into_iter().map(|name| table.join(name).display().to_string()).collect();
    let other = tempfile::tempdir().unwrap();
    run(other.path(), &stored.iter().map(String::as_str).collect::<Vec<_>>(), 0);
    holds_exactly(&other.path().join("data/warehouse"), &ids(0..70));

    // CSV, whose columns are named as fields or told to be.
    write(
        "c.csv",
        "id,app_id,deviceId,when,deviceContext.osVersion,name,amount,zip,note\r\n\
         csv-1,shop,d,2026-01-01T05:00:00Z,17.1,Signed Up,9.99,01234,\r\n\
         csv-2,shop,d,2026-01-01 05:00:01,,\"Paid, \"\"all\"\"\",7,99999,hidden\r\n",
    );
    let refused = told(&["c.csv"], 1);
    assert!(refused.contains("column when") && refused.contains("--column when="), "{refused}");
    let columns = [
        "c.csv",
        "--column=when=timestampMs",
        "--column=name=customEvent.eventName",
        "--column=amount=customEvent.properties.amount",
        "--column=zip=customEvent.properties.zip",
        "--column=note=",
    ];
    assert_eq!(told(&columns, 0), "c.csv: 2 rows imported\n");

    // Segment's exports: the message's id is the key, its time is the corrected one.
    let message = |id: &str| {
        json!({"type": "track", "event": "Order Completed", "messageId": id, "userId": "u", "anonymousId": "a",
            "originalTimestamp": "2026-01-01T05:00:00Z", "sentAt": "2026-01-01T05:00:00Z",
            "receivedAt": "2026-01-01T05:10:00Z", "timestamp": "2026-01-01T05:10:00Z",
            "properties": {"order_id": "o", "total": 27.5}})
    };
    write("s.json", &lines(["m1", "m2", "m1"].into_iter().map(message)));
    assert!(told(&["s.json", "--format", "segment"], 1).contains("give --app"));
    let told_of = told(&["s.json", "--format", "segment", "--app", "shop"], 0);
    assert_eq!(told_of, "s.json: 2 rows imported, 1 were there\n");

    let query = "SELECT event_type, timestamp_ms, os_version, idempotency_key, payload_json FROM events \
        WHERE hour = 5 ORDER BY event_type, idempotency_key";
    let rows: Value =
        serde_json::from_str(&python("read_columns.py", &[table.to_str().unwrap(), "deltalake"], query)).unwrap();
    let row = |n: usize| (rows[n][0].as_str().unwrap(), rows[n][1].as_u64().unwrap() - FROM_MS - 5 * HOUR_MS);
    assert_eq!([row(0), row(1)], [("paid, \"all\"", 1_000), ("purchase_complete", 600_000)]);
    assert_eq!([row(2), row(3)], [("purchase_complete", 600_000), ("signed up", 0)]);
    assert_eq!((&rows[1][3], &rows[2][3]), (&json!("m1"), &json!("m2")));
    assert_eq!((&rows[0][2], &rows[3][2]), (&Value::Null, &json!("17.1")));
    let payload: Value = serde_json::from_str(rows[3][4].as_str().unwrap()).unwrap();
    assert_eq!(payload["properties"], json!({"amount": 9.99, "zip": "01234"}));
}

#[test]
fn what_fails_is_kept_with_its_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let mut text = lines((0..3).map(event));
    text.push_str("{\"appId\": \"shop\", \"deviceId\": \"d\", \"userLogin\": {}}\nnonsense\n\n");
    text.push_str("{\"id\": \"none\", \"appId\": \"shop\", \"timestampMs\": 1767225600000}\n");
    text.push_str("{\"id\": \"cut");
    std::fs::write(path.join("a.jsonl"), text).unwrap();
    let report = run(path, &["a.jsonl"], 1);
    let expected = "a.jsonl: 3 rows imported, 4 rejected: a.jsonl.rejects.jsonl\ncausality: 4 rows were rejected\n";
    assert_eq!(report, expected);
    let rejects = || std::fs::read_to_string(path.join("a.jsonl.rejects.jsonl")).unwrap();
    let of = |reject: &str| -> Value { serde_json::from_str(reject).unwrap() };
    let rejected: Vec<Value> = rejects().lines().map(of).collect();
    let rows: Vec<u64> = rejected.iter().map(|reject| reject["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, [4, 5, 7, 8]);
    assert_eq!(rejected[0]["errors"][0]["pointer"], "/timestampMs");
    assert_eq!(rejected[1]["text"], "nonsense");
    assert_eq!(rejected[2]["errors"][0], json!({"pointer": "/deviceId", "detail": "is required"}));

    // Again: they are not lost from the file that keeps them.
    run(path, &["a.jsonl"], 1);
    assert_eq!(rejects().lines().count(), 4);
    // CSV that is no table, and files that are none.
    std::fs::write(
        path.join("b.csv"),
        b"id,appId,deviceId,timestampMs,userLogin\n\
        x,shop,d,1767225600000,{},more\n\xff,shop,d,1767225600000,{}\nfew\ngood,shop,d,1767225600000,{}\n",
    )
    .unwrap();
    assert!(run(path, &["b.csv"], 1).starts_with("b.csv: 1 rows imported, 3 rejected"));
    for (args, expected) in [
        (&["gone.jsonl"][..], "No such file"),
        (&["data"], "its name does not say"),
        (&["data", "--format", "csv"], "it is not a file"),
        (&["a.jsonl", "--format", "parquet"], "Parquet"),
    ] {
        let told = run(path, args, 1);
        assert!(told.contains(expected), "{args:?}: {told}");
    }
    // Of another app.
    let told = run(path, &["a.jsonl", "--app", "game", "--rejects", "r"], 1);
    assert!(told.contains("0 rows imported, 7 rejected: r"), "{told}");
    assert!(std::fs::read_to_string(path.join("r")).unwrap().contains("must be the app that --app"));
    let off = command(path, &["a.jsonl"]).env("DELTA_ENABLED", "false").output().unwrap();
    assert_eq!(off.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&off.stderr).contains("delta_enabled"));
}

/// Beside a server that takes in events, and killed again and again.
#[test]
fn a_killed_import_goes_on_where_it_was() {
    const ROWS: u64 = 30_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path();
    let server = Server::start(path, &[("DELTA_ENABLED", "true"), ("BATCH_FLUSH_INTERVAL", "50ms")]);
    let bad = |n: u64| n.is_multiple_of(1_000);
    let text = lines((0..ROWS).map(|n| if bad(n) { json!({"id": n}) } else { event(n) }));
    std::fs::write(path.join("a.jsonl"), text).unwrap();
    let args = ["a.jsonl", "--chunk-bytes", "200000"];
    let mut expected: BTreeSet<String> = ids(0..ROWS).into_iter().collect();
    (0..ROWS).filter(|n| bad(*n)).for_each(|n| _ = expected.remove(&format!("event-{n}")));
    let mut killed = 0;
    for round in 0..40u64 {
        let mut running = command(path, &args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let live = format!("live-{round}");
        let event = json!({"id": live, "appId": "shop", "deviceId": "d", "userLogin": {}});
        let (status, _) = server.send("/v1/events/ingest", &json!({"event": event})).unwrap();
        assert_eq!(status, 200);
        expected.insert(live);
        // Later each time, so that it comes to its end.
        std::thread::sleep(Duration::from_millis(10 + 20 * round));
        if running.try_wait().unwrap().is_some() {
            break;
        }
        running.kill().unwrap();
        running.wait().unwrap();
        killed += 1;
    }
    assert!(killed > 0, "it was over before it could be killed");
    // Whoever imports a file has it alone.
    let file = std::fs::File::open(path.join("a.jsonl")).unwrap();
    file.lock().unwrap();
    assert!(run(path, &args, 1).contains("another import of it is running"));
    file.unlock().unwrap();
    run(path, &args, 1);
    let rejects = std::fs::read_to_string(path.join("a.jsonl.rejects.jsonl")).unwrap();
    let rows: Vec<u64> =
        rejects.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["row"].as_u64().unwrap()).collect();
    assert_eq!(rows, (0..ROWS).filter(|n| bad(*n)).map(|n| n + 1).collect::<Vec<_>>());
    server.wait_drained();
    let table = server.warehouse();
    holds_exactly(&table, &expected);
}
