//! The lake in a real Hive Metastore, of the oldest and of the newest version that are supported, as a client that
//! shares no code with the product finds it there.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use serde_json::{Value, json};

use crate::compaction::{done, lake};
use crate::delta::files;
use crate::harness::{Server, free_port, get, python, signal, wait_until};
use crate::services::metastore::{MetastoreServer, VERSIONS};

const APPS: [&str; 8] = ["007", "07", "7", "NaN", "null", "1e5", "true", "2026-01-01"];
/// 2026-03-04T05:00:00Z.
const HOUR: i64 = 1_772_600_400_000;
const HOUR_MS: i64 = 3_600_000;

pub(crate) fn ask(metastore: &MetastoreServer, arguments: &[&str]) -> Value {
    let port = metastore.port().to_string();
    let arguments: Vec<&str> = std::iter::once(port.as_str()).chain(arguments.iter().copied()).collect();
    serde_json::from_str(&python("read_metastore.py", &arguments, "")).unwrap()
}

pub(crate) fn partitions(metastore: &MetastoreServer) -> BTreeMap<String, Vec<String>> {
    serde_json::from_value(ask(metastore, &["partitions", "causality", "events"])).unwrap()
}

pub(crate) fn columns_of_files(metastore: &MetastoreServer) -> Value {
    ask(metastore, &["tables", "causality"])["events"]["columns"].clone()
}

fn start(dir: &Path, uri: &str) -> Server {
    Server::start(dir, &settings(uri))
}

fn settings(uri: &str) -> [(&'static str, &str); 3] {
    [("HIVE_METASTORE_URI", uri), ("DELTA_ENABLED", "true"), ("BATCH_FLUSH_INTERVAL", "100ms")]
}

fn send(server: &Server, app: &str, hours: std::ops::Range<i64>) {
    let event = |n: i64| json!({"appId": app, "deviceId": "d", "timestampMs": (HOUR + n * HOUR_MS).to_string(), "userLogin": {}});
    let events: Vec<Value> = hours.map(event).collect();
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": events})).unwrap();
    assert_eq!(status, 200, "{reply}");
}

/// The warning about the metastore; empty when there is none.
fn warning(server: &Server) -> String {
    let (_, ready) = get(&format!("{}/ready", server.admin)).unwrap();
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let warnings = ready["warnings"].as_array().cloned().unwrap_or_default();
    let about = warnings.iter().filter_map(Value::as_str).find(|warning| warning.starts_with("Hive Metastore: "));
    about.unwrap_or_default().to_owned()
}

fn wait_for_partitions(metastore: &MetastoreServer, count: usize) {
    let mut found = 0;
    wait_until(&format!("{count} partitions are registered"), || {
        found = partitions(metastore).len();
        found >= count
    });
    assert_eq!(found, count);
}

/// Each of the tests' parts in turn, over one server of each version: it takes long to start.
#[test]
fn the_lake_is_in_the_metastore() {
    for version in VERSIONS {
        let mut metastore = MetastoreServer::start(version);
        let dir = tempfile::tempdir().unwrap();
        let mut server = start(dir.path(), &metastore.uri());
        tables_and_partitions_are_there(&metastore, &server);
        a_metastore_that_is_away_holds_nothing_up(&mut metastore, &server);
        what_was_stored_without_it_is_found(&metastore, &mut server);
        a_lost_column_comes_back(&metastore, &mut server);
        partitions_that_are_there_twice_are_told(&metastore, &mut server);
        a_dropped_table_is_made_again(&metastore, &mut server);
        old_partitions_are_dropped(&mut metastore, &server);
        server.expect_quiet_log(&["the Hive Metastore does not know the lake as it is"]);
        let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
        assert_eq!(log.matches("database created in the Hive Metastore").count(), 1);
        another_table_of_the_name_is_told(&metastore);
    }
}

fn tables_and_partitions_are_there(metastore: &MetastoreServer, server: &Server) {
    APPS.into_iter().for_each(|app| send(server, app, 0..2));
    server.wait_drained();
    wait_for_partitions(metastore, 2 * APPS.len());
    let found = partitions(metastore);
    assert_eq!(found["app_id=007/year=2026/month=03/day=04/hour=05"], ["007", "2026", "3", "4", "5"]);
    let tables = ask(metastore, &["tables", "causality"]);
    let location = format!("file://{}", server.warehouse().canonicalize().unwrap().display());
    let plain = |location: &Value| location.as_str().unwrap().replace("file:///", "file:/");
    let (files, delta) = (&tables["events"], &tables["events_delta"]);
    let keys = json!({"app_id": "string", "year": "int", "month": "int", "day": "int", "hour": "int"});
    assert_eq!((&files["keys"], &files["type"]), (&keys, &json!("EXTERNAL_TABLE")));
    assert_eq!(plain(&files["location"]), plain(&json!(location)));
    let columns = &files["columns"];
    assert_eq!(columns.as_object().unwrap().len(), 27);
    for (name, kind) in
        [("id", "string"), ("timestamp_ms", "bigint"), ("screen_width", "int"), ("is_emulator", "boolean")]
    {
        assert_eq!(columns[name], kind, "{name}");
    }
    assert_eq!((&delta["path"], &delta["type"]), (&json!(location), &json!("EXTERNAL_TABLE")));
    assert_eq!(delta["parameters"]["spark.sql.sources.provider"], "delta");
    assert_eq!(warning(server), "");
    // As Spark and Hive ask for them.
    for (filter, count) in
        [("year = 2026 and month = 3 and hour = 5", APPS.len()), ("app_id = '007'", 2), ("month = 4", 0)]
    {
        assert_eq!(ask(metastore, &["filtered", "causality", "events", filter]), json!(count), "{filter}");
    }
}

/// Standing still, then gone: events are accepted, stored and acknowledged, and the partitions are there afterwards.
fn a_metastore_that_is_away_holds_nothing_up(metastore: &mut MetastoreServer, server: &Server) {
    signal(metastore.pid(), "STOP");
    send(server, "away", 0..3);
    server.wait_drained();
    signal(metastore.pid(), "CONT");
    wait_for_partitions(metastore, 2 * APPS.len() + 3);
    metastore.kill9();
    send(server, "away", 3..5);
    server.wait_drained();
    wait_until("the warning is there", || warning(server).contains("cannot be reached"));
    let told = warning(server);
    assert!(told.contains("2 partitions wait") && told.contains("stored and acknowledged"), "{told}");
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    assert!(metrics.contains("causality_hive_waiting_partitions 2"), "{metrics}");
    assert!(metrics.contains(r#"causality_hive_failures_total{kind="unreachable"}"#), "{metrics}");
    metastore.restart();
    wait_for_partitions(metastore, 2 * APPS.len() + 5);
    wait_until("the warning is gone", || warning(server).is_empty());
}

fn what_was_stored_without_it_is_found(metastore: &MetastoreServer, server: &mut Server) {
    let before = partitions(metastore).len();
    server.terminate(crate::harness::PATIENCE);
    {
        let server = Server::start(&server.dir, &[("DELTA_ENABLED", "true"), ("BATCH_FLUSH_INTERVAL", "100ms")]);
        send(&server, "without", 0..30);
        send(&server, "away", 5..6);
        server.wait_drained();
    }
    server.restart();
    wait_for_partitions(metastore, before + 31);
}

fn a_lost_column_comes_back(metastore: &MetastoreServer, server: &mut Server) {
    ask(metastore, &["narrow", "causality", "events"]);
    assert_eq!(columns_of_files(metastore).as_object().unwrap().len(), 25);
    server.kill_and_restart();
    wait_until("the columns are there", || columns_of_files(metastore).as_object().unwrap().len() == 27);
}

/// A repair command finds directories whose names are none of partitions.
fn partitions_that_are_there_twice_are_told(metastore: &MetastoreServer, server: &mut Server) {
    ask(metastore, &["repair", "causality", "events"]);
    server.kill_and_restart();
    wait_until("the warning is there", || warning(server).contains("1 partitions of causality.events are there twice"));
}

/// With all its partitions.
fn a_dropped_table_is_made_again(metastore: &MetastoreServer, server: &mut Server) {
    // By their directories: the doubled one counts once.
    let before = partitions(metastore).len();
    ask(metastore, &["drop", "causality", "events"]);
    send(server, "again", 0..1);
    wait_until("the table is there", || ask(metastore, &["tables", "causality"]).get("events").is_some());
    wait_for_partitions(metastore, before + 1);
    wait_until("the warning is gone", || warning(server).is_empty());
    assert!(server.warehouse().join("app_id=007").is_dir(), "the files stay");
}

/// Those of one app, which is not there afterwards; with the metastore away nothing goes.
fn old_partitions_are_dropped(metastore: &mut MetastoreServer, server: &Server) {
    let before = partitions(metastore);
    let of_app = |found: &BTreeMap<String, Vec<String>>| found.values().filter(|values| values[0] == "without").count();
    assert_eq!(of_app(&before), 30);
    let uri = metastore.uri();
    let retention = [("WAREHOUSE_RETENTION", "30d"), ("HIVE_METASTORE_URI", uri.as_str())];
    let expire = || lake(&server.dir, &["expire", "--app", "without"], &retention).output().unwrap();
    let directory = server.warehouse().join("app_id=without");
    let count = || files(&server.warehouse(), &directory).len();
    let stored = count();
    metastore.kill9();
    let output = expire();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && said.contains("cannot be reached") && said.contains("app_id=without"),
        "{said}"
    );
    assert_eq!(count(), stored);
    metastore.restart();
    let said = done(expire());
    assert!(said.starts_with("30 partitions"), "{said}");
    let after = partitions(metastore);
    assert_eq!((of_app(&after), after.len()), (0, before.len() - 30));
    assert!(!directory.exists());
    // To drop what is not there is no failure.
    send(server, "without", 0..1);
    server.wait_drained();
    assert!(done(expire()).starts_with("1 partitions with 1 files"));
    assert_eq!(of_app(&partitions(metastore)), 0);
}

fn another_table_of_the_name_is_told(metastore: &MetastoreServer) {
    let dir = tempfile::tempdir().unwrap();
    let uri = metastore.uri();
    // Ours, and at another place.
    let server = start(dir.path(), &uri);
    send(&server, "shop", 0..1);
    server.wait_drained();
    wait_until("the place is told", || {
        warning(&server).contains("causality.events") && warning(&server).contains("and not at")
    });
    drop(server);
    ask(metastore, &["foreign", "theirs", "things"]);
    let mut settings = settings(&uri).to_vec();
    settings.extend([("HIVE_DATABASE", "theirs"), ("HIVE_TABLE", "things")]);
    let server = Server::start(dir.path(), &settings);
    wait_until("the table is told", || {
        warning(&server).contains("theirs.things that is there is partitioned by () and not by (app_id string")
    });
    send(&server, "shop", 1..2);
    server.wait_drained();
    // What has no conflict is there all the same.
    let tables = ask(metastore, &["tables", "theirs"]);
    assert_eq!(tables["things_delta"]["parameters"]["spark.sql.sources.provider"], "delta");
}

/// Takes connections and never says anything.
#[test]
fn a_peer_that_is_silent_holds_nothing_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (silent, nobody) = (listener.local_addr().unwrap().port(), free_port());
    let dir = tempfile::tempdir().unwrap();
    let uri = format!("thrift://127.0.0.1:{nobody},thrift://127.0.0.1:{silent}");
    let mut server = start(dir.path(), &uri);
    for hour in 0..5 {
        send(&server, "shop", hour..hour + 1);
        server.wait_drained();
    }
    // With a call under way that nobody answers.
    assert!(server.terminate(crate::harness::PATIENCE).success());
    server.expect_quiet_log(&["the Hive Metastore does not know the lake as it is"]);
}
