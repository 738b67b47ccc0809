//! The Delta table over the files, by readers that share no code with the product: the same rows and types, whoever was
//! killed where, however many sinks commit at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::from_environment;
use crate::harness::{PATIENCE, Server, binary, python, python_in, wait_until};
use crate::killed::stored;
use crate::services::s3::{ACCESS_KEY, BUCKET, Fault, S3Server, SECRET_KEY};

const OFTEN: (&str, &str) = ("BATCH_FLUSH_INTERVAL", "50ms");
/// Names that readers take for something else when they guess.
pub(crate) const APPS: [&str; 8] = ["007", "07", "7", "NaN", "null", "1e5", "true", "2026-01-01"];

pub(crate) fn event(app: &str, n: usize) -> Value {
    let mut event = json!({"id": format!("{app}-{n}"), "appId": app, "deviceId": "d", "userLogin": {}});
    if n.is_multiple_of(2) {
        event["deviceContext"] = json!({"screenWidth": n, "platform": "PLATFORM_IOS"});
    }
    event
}

/// The ids of the events that were accepted; none when there was no answer.
pub(crate) fn try_send(server: &Server, events: &[Value]) -> Option<BTreeSet<String>> {
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": events}))?;
    assert_eq!(status, 200, "{reply}");
    Some(ids_of(events))
}

pub(crate) fn ids_of(events: &[Value]) -> BTreeSet<String> {
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn send(server: &Server, app: &str, ids: std::ops::Range<usize>) -> BTreeSet<String> {
    let events: Vec<Value> = ids.map(|n| event(app, n)).collect();
    try_send(server, &events).expect("an answer")
}

pub(crate) fn read(table: &Path, what: &str) -> Value {
    serde_json::from_str(&python("read_delta.py", &[table.to_str().unwrap(), what], "")).unwrap()
}

/// The table holds these events, each once, and every file that is stored: no orphan.
pub(crate) fn holds_exactly(table: &Path, ids: &BTreeSet<String>) {
    let read = read(table, "ids");
    let found: Vec<String> = serde_json::from_value(read["ids"].clone()).unwrap();
    let unique: BTreeSet<String> = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "no event is there twice");
    assert_eq!(&unique, ids);
    let committed: BTreeSet<String> = serde_json::from_value(read["files"].clone()).unwrap();
    assert_eq!(committed, files(table, table));
    assert_eq!(&stored(table), ids, "by the files alone");
}

pub(crate) fn files(root: &Path, directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(root, &path));
        } else if path.file_name().unwrap().to_str().unwrap().starts_with("events_") {
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
        }
    }
    found
}

#[test]
fn readers_agree_whatever_apps_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let server = oddly_named(dir.path());
    let readers = agree(&server.warehouse(), &read(&server.warehouse(), "readers"));
    let documented =
        ["DuckDB, Delta", "DuckDB, files", "Polars, Delta", "Polars, files", "deltalake, Delta", "pyarrow, files"];
    assert_eq!(readers, documented);
    let ids = APPS.iter().enumerate().flat_map(|(n, app)| (0..=n).map(move |n| format!("{app}-{n}"))).collect();
    holds_exactly(&server.warehouse(), &ids);
    server.expect_quiet_log(&[]);
}

/// Spark takes more than a minute to install.
#[test]
#[ignore = "needs Spark: just spark"]
fn spark_agrees_with_the_other_readers() {
    let dir = tempfile::tempdir().unwrap();
    let server = oddly_named(dir.path());
    let table = server.warehouse();
    let spark =
        python_in("target/spark", ".ci/setup --spark", "read_delta.py", &[table.to_str().unwrap(), "spark", ""], "");
    eprintln!("{spark}");
    let mut all = read(&table, "readers");
    all.as_object_mut().unwrap().extend(serde_json::from_str::<serde_json::Map<_, _>>(&spark).unwrap());
    let readers = agree(&table, &all);
    assert!(readers.len() == 8 && readers.iter().filter(|reader| reader.starts_with("PySpark")).count() == 2);
}

/// One event of the first app, two of the second, and so on.
fn oddly_named(dir: &Path) -> Server {
    let server = Server::start(dir, &[("BATCH_FLUSH_INTERVAL", "200ms")]);
    for (n, app) in APPS.iter().enumerate() {
        send(&server, app, 0..n + 1);
    }
    server.wait_drained();
    server
}

/// Which readers there are. They read the same rows, of the right types, whole and by filters.
fn agree(table: &Path, readers: &Value) -> Vec<String> {
    let expected: BTreeMap<&str, usize> = APPS.iter().enumerate().map(|(n, app)| (*app, n + 1)).collect();
    let number = "integer";
    let types = json!({"app_id": "text", "year": number, "month": number, "day": number, "hour": number});
    let first = &readers["deltalake, Delta"];
    for (reader, answer) in readers.as_object().unwrap() {
        assert_eq!(answer["counts"], json!(expected), "{reader} in {}", table.display());
        assert_eq!(answer["filtered"], json!(expected), "{reader}");
        assert_eq!(answer["types"], types, "{reader}");
        assert_eq!((&answer["rows"], &answer["kinds"]), (&first["rows"], &first["kinds"]), "{reader}");
    }
    readers.as_object().unwrap().keys().cloned().collect()
}

/// Kills of each of the two tests; `CAUSALITY_DELTA_KILLS` asks for more, and has the log read after each.
const KILLS: usize = 11;
const KILLS_VARIABLE: &str = "CAUSALITY_DELTA_KILLS";

/// Killed between storing and committing, and between committing and acknowledging, in turn.
#[test]
fn kills_around_the_commit_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ids, mut unanswered) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..from_environment(KILLS_VARIABLE, KILLS) {
        let place = ["stored", "committed"][round % 2];
        let settings = [("BATCH_FLUSH_INTERVAL", "500ms"), ("CAUSALITY_FAULT_AT", place)];
        let mut server = Server::start(dir.path(), &settings);
        let events: Vec<Value> =
            (round * 10..(round + 1) * 10).flat_map(|n| ["shop", "007"].map(|app| event(app, n))).collect();
        match try_send(&server, &events) {
            Some(accepted) => ids.extend(accepted),
            // Killed before it answered, on a machine this busy.
            None => unanswered.extend(ids_of(&events)),
        }
        let status = server.wait_for_exit(PATIENCE);
        assert!(!status.success(), "{status}");
        read(&dir.path().join("data/warehouse"), "ids");
    }
    let server = Server::start(dir.path(), &[OFTEN]);
    server.wait_drained();
    let found = stored(&server.warehouse());
    ids.extend(unanswered.intersection(&found).cloned());
    holds_exactly(&server.warehouse(), &ids);
}

/// Killed at any moment while events come, and the table read meanwhile.
#[test]
fn kills_at_any_moment_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "1ms")]);
    let mut ids = BTreeSet::new();
    for kill in 0..from_environment(KILLS_VARIABLE, KILLS) {
        for part in 0..5 {
            let from = (kill * 5 + part) * 20;
            ids.extend(send(&server, ["shop", "7", "null"][part % 3], from..from + 20));
        }
        std::thread::sleep(Duration::from_millis(7 * (kill % 40) as u64));
        server.kill();
        if kill % 3 == 0 || std::env::var_os(KILLS_VARIABLE).is_some() {
            read(&server.warehouse(), "ids");
        }
        server.restart();
    }
    server.wait_drained();
    holds_exactly(&server.warehouse(), &ids);
}

pub(crate) fn in_bucket(s3: &S3Server) -> Vec<(String, String)> {
    let settings = [
        ("S3_ENDPOINT", s3.url()),
        ("S3_BUCKET", BUCKET.to_owned()),
        ("S3_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
        ("S3_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
        ("BATCH_FLUSH_INTERVAL", "100ms".to_owned()),
        ("WAREHOUSE_TIMEOUT", "1s".to_owned()),
    ];
    settings.map(|(name, value)| (name.to_owned(), value)).into()
}

pub(crate) fn start_in(s3: &S3Server, dir: &Path) -> Server {
    let environment = in_bucket(s3);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Server::start(dir, &environment)
}

/// The last four are of puts that must be absent: of commits.
const FAULTS: [Fault; 9] = [
    Fault::FailAfterStoring,
    Fault::HangAfterStoring,
    Fault::Close,
    Fault::SlowDown,
    Fault::StoreLate,
    Fault::Conflict { done: false },
    Fault::Conflict { done: true },
    Fault::Precondition { done: false },
    Fault::Precondition { done: true },
];

/// Each with its own bus: their sequences are the same, and the names of their files are not.
#[test]
fn two_sinks_at_once_share_a_bucket_that_fails() {
    let s3 = S3Server::start();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let servers = [0, 1].map(|n| start_in(&s3, dirs[n].path()));
    let mut ids = BTreeSet::new();
    for (part, fault) in FAULTS.into_iter().map(Some).chain([None]).enumerate() {
        s3.heal();
        if let Some(fault) = fault {
            s3.fail(fault, 3);
        }
        for n in 0..4 {
            let from = (part * 4 + n) * 10;
            ids.extend(send(&servers[0], "one", from..from + 10));
            ids.extend(send(&servers[1], "other", from..from + 10));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    s3.heal();
    servers.iter().for_each(Server::wait_drained);
    holds_exactly(&s3.bucket(), &ids);
}

#[test]
fn a_store_without_conditional_puts_is_refused() {
    let s3 = S3Server::start();
    s3.ignore_conditions();
    let dir = tempfile::tempdir().unwrap();
    let environment = in_bucket(&s3);
    let environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut server = Server::launch(dir.path(), &environment);
    assert_eq!(server.wait_for_exit(PATIENCE).code(), Some(78));
    // The reason is the last line, and no line of the log.
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert!(log.contains("conditional puts") && log.contains("DELTA_ENABLED=false"), "{log}");
    assert!(!s3.bucket().join("_delta_log").exists());
}

/// A lake from before the log: by the process that first keeps one, and by the command.
#[test]
fn files_from_before_the_log_are_in_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let plain = |ids: std::ops::Range<usize>| {
        let mut server = Server::start(dir.path(), &[("DELTA_ENABLED", "false"), OFTEN]);
        let sent = send(&server, "shop", ids);
        server.wait_drained();
        server.terminate(PATIENCE);
        sent
    };
    let mut ids = plain(0..10);
    let table = dir.path().join("data/warehouse");
    {
        let server = Server::start(dir.path(), &[OFTEN]);
        ids.extend(send(&server, "shop", 10..20));
        server.wait_drained();
        wait_until("the older files are in the table", || read(&table, "ids")["rows"] == json!(20));
    }
    holds_exactly(&table, &ids);
    ids.extend(plain(20..30));
    let init = || {
        let output =
            Command::new(binary()).args(["lake", "init"]).env_clear().env("DATA_DIR", dir.path().join("data")).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(init().starts_with("1 files added") || init().starts_with("0 files added"));
    holds_exactly(&table, &ids);
    assert!(init().starts_with("0 files added"));
}
