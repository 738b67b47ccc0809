//! Retention under real readers, kills and a sink that goes on: old hours go as a whole, and no other row does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::compaction::{done, in_the_making, lake, let_leases_end};
use crate::delta::{files, holds_exactly, in_bucket, read, start_in, try_send};
use crate::harness::{PATIENCE, Server, free_port, get, wait_until};
use crate::services::s3::S3Server;

const OFTEN: (&str, &str) = ("BATCH_FLUSH_INTERVAL", "20ms");
const RETENTION: (&str, &str) = ("WAREHOUSE_RETENTION", "10d, 007: forever");
const APPS: [&str; 3] = ["shop", "007", "null"];

/// One time for all that these tests send: no hour ends in between.
fn now_ms() -> i64 {
    static NOW_MS: OnceLock<i64> = OnceLock::new();
    *NOW_MS.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

/// Events of an hour so many days ago, in a file of their own.
fn flush(server: &Server, app: &str, days_ago: i64, ids: std::ops::Range<usize>) -> BTreeSet<String> {
    let sent = send(server, app, days_ago, ids);
    server.wait_drained();
    sent
}

fn send(server: &Server, app: &str, days_ago: i64, ids: std::ops::Range<usize>) -> BTreeSet<String> {
    let at = now_ms() - days_ago * 24 * 3_600_000;
    let event = |n| {
        json!({"id": format!("{app}-{days_ago}-{n}"), "appId": app, "deviceId": "d", "timestampMs": at.to_string(),
            "userLogin": {}})
    };
    let events: Vec<Value> = ids.map(event).collect();
    try_send(server, &events).expect("an answer")
}

fn status(server: &Server) -> Value {
    serde_json::from_str(&done(lake(&server.dir, &["status", "--json"], &[RETENTION]).output().unwrap())).unwrap()
}

fn expire(server: &Server, arguments: &[&str]) -> String {
    let arguments: Vec<&str> = std::iter::once("expire").chain(arguments.iter().copied()).collect();
    done(lake(&server.dir, &arguments, &[RETENTION]).output().unwrap())
}

/// What each reader of the documentation counts by app.
fn counts(server: &Server) -> BTreeMap<String, Value> {
    let readers: BTreeMap<String, Value> = serde_json::from_value(read(&server.warehouse(), "readers")).unwrap();
    assert!(readers.len() > 5);
    readers.into_iter().map(|(reader, answer)| (reader, answer["counts"].clone())).collect()
}

#[test]
fn every_reader_sees_old_hours_go_as_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[OFTEN]);
    let mut stays = BTreeSet::new();
    for app in APPS {
        stays.extend(flush(&server, app, 0, 0..5));
        for (days_ago, ids) in [(20, 0..10), (20, 10..20), (21, 0..3)] {
            let old = flush(&server, app, days_ago, ids);
            stays.extend(old.into_iter().filter(|_| app == "007"));
        }
    }
    for (reader, counts) in counts(&server) {
        assert_eq!(counts, json!({"shop": 28, "007": 28, "null": 28}), "{reader}");
    }
    let found = status(&server);
    assert_eq!((&found["expired_partitions"], &found["expired_files"]), (&json!(4), &json!(6)), "{found}");
    let plan = expire(&server, &["--dry-run"]);
    assert!(plan.contains("shop: ") && plan.contains("null: ") && !plan.contains("007: "), "{plan}");
    assert!(plan.contains("with 6 files") && plan.contains("would be removed"), "{plan}");
    assert_eq!(status(&server), found);

    let one = expire(&server, &["--app", "shop"]);
    assert!(one.contains("with 3 files"), "{one}");
    for (reader, counts) in counts(&server) {
        assert_eq!(counts, json!({"shop": 5, "007": 28, "null": 28}), "{reader}");
    }
    assert!(expire(&server, &[]).contains("with 3 files"));
    assert!(expire(&server, &[]).starts_with("no partition is older"));
    for (reader, counts) in counts(&server) {
        assert_eq!(counts, json!({"shop": 5, "007": 28, "null": 5}), "{reader}");
    }
    holds_exactly(&server.warehouse(), &stays);
    assert_eq!(status(&server)["expired_partitions"], 0);
    // The server stores into these hours again; that goes as well.
    let late = flush(&server, "shop", 20, 20..25);
    holds_exactly(&server.warehouse(), &stays.union(&late).cloned().collect());
    assert!(expire(&server, &[]).contains("1 partitions with 1 files"));
    holds_exactly(&server.warehouse(), &stays);
    server.expect_quiet_log(&[]);
}

/// The command writes audit records to an embedded store that no process has open, and says when it cannot.
#[test]
fn the_command_records_what_it_removes() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[OFTEN]);
    flush(&server, "shop", 20, 0..5);
    let said = expire(&server, &[]);
    assert!(
        said.contains("no audit record was written: ") && said.contains("another process uses the store"),
        "{said}"
    );
    flush(&server, "shop", 21, 0..5);
    flush(&server, "null", 21, 0..5);
    assert!(server.terminate(PATIENCE).success());
    let said = done(lake(dir.path(), &["expire"], &[RETENTION]).output().unwrap());
    assert!(said.starts_with("2 partitions with 2 files") && !said.contains("audit"), "{said}");
    let server = Server::start(dir.path(), &[OFTEN]);
    let list = server.admin_get("/audit?kind=retention");
    let records = list["items"].as_array().unwrap();
    let apps: BTreeSet<&str> = records.iter().filter_map(|record| record["object_id"].as_str()).collect();
    assert_eq!((records.len(), apps), (2, BTreeSet::from(["null", "shop"])), "{list}");
    assert!(records.iter().all(|record| record["actor"] == "causality lake expire" && record["after"]["files"] == 1));
}

#[test]
fn without_the_log_the_files_go_and_a_wrong_value_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[OFTEN, ("DELTA_ENABLED", "false")]);
    flush(&server, "shop", 20, 0..5);
    flush(&server, "shop", 0, 0..5);
    let plain = [RETENTION, ("DELTA_ENABLED", "false")];
    let said = done(lake(dir.path(), &["expire"], &plain).output().unwrap());
    assert!(said.starts_with("1 partitions with 1 files"), "{said}");
    let left = files(&server.warehouse(), &server.warehouse());
    assert_eq!(left.len(), 1, "{left:?}");
    let unset = done(lake(dir.path(), &["expire"], &[]).output().unwrap());
    assert!(unset.contains("warehouse_retention is not set"), "{unset}");
    let wrong = lake(dir.path(), &["expire"], &[("WAREHOUSE_RETENTION", "400")]).output().unwrap();
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(64));
    assert!(said.contains("warehouse_retention") && said.contains("400") && said.contains("from 1d"), "{said}");
    server.expect_quiet_log(&[]);
}

/// In the background, also where nothing is compacted.
#[test]
fn the_sink_removes_old_hours_by_itself_and_records_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[OFTEN, RETENTION, ("COMPACTION_SCHEDULE", "1s")]);
    let stays: BTreeSet<String> = APPS.iter().flat_map(|app| send(&server, app, 2, 0..10)).collect();
    for part in 0..3 {
        let ids = part * 10..(part + 1) * 10;
        ["shop", "null"].iter().for_each(|app| drop(send(&server, app, 30 + part as i64, ids.clone())));
    }
    server.wait_drained();
    // Not by a reader of the table, which may have begun with files that go.
    wait_until("only young hours are there", || status(&server)["expired_files"] == 0);
    wait_until("nobody is at work", || in_the_making(&server.warehouse()).is_empty());
    holds_exactly(&server.warehouse(), &stays);
    let mut records = Vec::new();
    wait_until("both apps have a record", || {
        let list = server.admin_get("/audit?kind=retention");
        records = list["items"].as_array().cloned().unwrap_or_default();
        let apps: BTreeSet<&str> = records.iter().filter_map(|record| record["object_id"].as_str()).collect();
        apps == BTreeSet::from(["null", "shop"])
    });
    let total = |name: &str| records.iter().map(|record| record["after"][name].as_u64().unwrap()).sum::<u64>();
    assert!(total("partitions") >= 6 && total("files") >= 6 && total("bytes") > 1_000, "{records:?}");
    for record in &records {
        assert_eq!((&record["actor"], &record["action"]), (&json!("warehouse_retention"), &json!("expire")));
        assert!(record["after"]["hours_from"].as_str().unwrap().ends_with('Z') && record["outcome"] == "done");
    }
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    let counted = format!("causality_retention_files_total {}", total("files"));
    assert!(metrics.contains(&counted), "{counted} in {metrics}");
    let (_, ready) = get(&format!("{}/ready", server.admin)).unwrap();
    assert!(!ready.contains("warehouse_retention"), "{ready}");
    server.expect_quiet_log(&[]);
}

/// The files stay where they are, since who asks the metastore for them would look for them in vain.
#[test]
fn what_cannot_be_removed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = format!("thrift://127.0.0.1:{}", free_port());
    let settings = [OFTEN, RETENTION, ("COMPACTION_SCHEDULE", "1s"), ("HIVE_METASTORE_URI", nobody.as_str())];
    let server = Server::start(dir.path(), &settings);
    let old = flush(&server, "shop", 20, 0..5);
    wait_until("the warning is there", || {
        let (status, ready) = get(&format!("{}/ready", server.admin)).unwrap();
        status == 200 && ready.contains("warehouse_retention: what is too old is not all removed: app_id=shop")
    });
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    assert!(metrics.contains("causality_retention_failures_total"), "{metrics}");
    holds_exactly(&server.warehouse(), &old);
    server.expect_quiet_log(&[
        "the Hive Metastore does not know the lake as it is",
        "partition could not be removed, trying again later",
    ]);
}

/// A sink by itself, whose lake is in a bucket, has the audit record of the others.
#[test]
fn a_sink_apart_removes_from_its_bucket_and_records_it() {
    let cluster = Cluster::start(&[RETENTION, ("COMPACTION_SCHEDULE", "1s")]);
    let others = cluster.role("gateway,reaction", 0);
    let sink = cluster.role("sink", 1);
    let stays = send(&others, "shop", 1, 0..10);
    send(&others, "shop", 20, 0..10);
    let mut records = json!([]);
    wait_until("there is a record", || {
        records = others.admin_get("/audit?kind=retention")["items"].clone();
        records.as_array().is_some_and(|records| !records.is_empty())
    });
    assert_eq!(records[0]["object_id"], "shop", "{records}");
    cluster.wait_settled(&others);
    // A batch may come to a sink in two parts, and those of the hour that stays are two files then.
    let hour = |file: &String| file.rsplit_once('/').map(|(hour, _)| hour.to_owned());
    let hours = || files(&cluster.bucket(), &cluster.bucket()).iter().filter_map(hour).collect::<BTreeSet<_>>();
    wait_until("the old hour is gone", || hours().len() == 1);
    wait_until("nobody is at work", || in_the_making(&cluster.bucket()).is_empty());
    holds_exactly(&cluster.bucket(), &stays);
    sink.expect_quiet_log(&[]);
}

/// By the commands, beside a sink that stores.
#[test]
fn a_bucket_is_expired_and_compacted_by_hand() {
    let s3 = S3Server::start();
    let dir = tempfile::tempdir().unwrap();
    let server = start_in(&s3, dir.path());
    let mut stays = BTreeSet::new();
    for part in 0..3 {
        stays.extend(flush(&server, "shop", 2, part * 10..(part + 1) * 10));
        flush(&server, "shop", 20, part * 10..(part + 1) * 10);
    }
    let environment = in_bucket(&s3);
    let mut environment: Vec<(&str, &str)> =
        environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    environment.push(RETENTION);
    // The store tells its time down to the second, and its files' more exactly.
    std::thread::sleep(Duration::from_millis(1_100));
    let compacted = done(lake(dir.path(), &["compact"], &environment).output().unwrap());
    assert!(compacted.contains("60 rows"), "{compacted}");
    let expired = done(lake(dir.path(), &["expire"], &environment).output().unwrap());
    assert!(expired.starts_with("1 partitions with 1 files"), "{expired}");
    holds_exactly(&s3.bucket(), &stays);
    assert_eq!(in_the_making(&s3.bucket()), Vec::<PathBuf>::new());
    server.expect_quiet_log(&[]);
}

/// Killed where it matters, and the next one does the rest.
#[test]
fn an_expiry_that_is_killed_is_finished_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[OFTEN]);
    let stays = flush(&server, "shop", 1, 0..10);
    for (round, place) in ["retention unregistered", "retention committed"].iter().enumerate() {
        let old = flush(&server, "shop", 20, round * 10..(round + 1) * 10);
        let output = lake(dir.path(), &["expire"], &[RETENTION, ("CAUSALITY_FAULT_AT", place)]).output().unwrap();
        assert!(!output.status.success(), "{place}");
        // All of it or nothing.
        let found: BTreeSet<String> = serde_json::from_value(read(&server.warehouse(), "ids")["ids"].clone()).unwrap();
        let both = stays.union(&old).cloned().collect();
        assert_eq!(found, if round == 0 { both } else { stays.clone() }, "{place}");
        let_leases_end(&server.warehouse());
        assert!(expire(&server, &[]).contains("1 partitions with 1 files"), "{place}");
        holds_exactly(&server.warehouse(), &stays);
        assert_eq!(in_the_making(&server.warehouse()), Vec::<PathBuf>::new(), "{place}");
    }
    server.expect_quiet_log(&[]);
}

/// Expiries, compactions and the sink are killed at any moment, in turn, while events of all ages come.
#[test]
fn kills_at_any_moment_take_no_young_row_and_leave_no_old_one() {
    let rounds: usize = std::env::var("CAUSALITY_RETENTION_KILLS").map_or(6, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[OFTEN]);
    let mut stays = BTreeSet::new();
    for round in 0..rounds {
        for part in 0..3 {
            let ids = (round * 3 + part) * 5..(round * 3 + part + 1) * 5;
            stays.extend(APPS.iter().flat_map(|app| send(&server, app, 3, ids.clone())).collect::<Vec<_>>());
            ["shop", "null"].iter().for_each(|app| drop(send(&server, app, 20 + part as i64, ids.clone())));
            std::thread::sleep(Duration::from_millis(30));
        }
        let what = if round % 4 == 3 { "compact" } else { "expire" };
        let mut worker = lake(dir.path(), &[what], &[RETENTION]);
        let mut worker = worker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis((round * 37 % 200) as u64));
        if round % 3 == 2 {
            server.kill_and_restart();
        }
        // It may have come to its end.
        let _ = worker.kill();
        worker.wait().unwrap();
        let_leases_end(&server.warehouse());
        if round % 5 == 0 {
            read(&server.warehouse(), "ids");
        }
    }
    server.wait_drained();
    expire(&server, &[]);
    done(lake(dir.path(), &["vacuum"], &[]).output().unwrap());
    holds_exactly(&server.warehouse(), &stays);
    server.kill_and_restart();
    wait_until("what was half written is removed", || in_the_making(&server.warehouse()).is_empty());
    server.terminate(PATIENCE);
}
