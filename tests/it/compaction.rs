//! Compaction under real readers, kills and freezes: the rows that were accepted, each once, whatever happens when.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::delta::{event, holds_exactly, ids_of, read, send, try_send};
use crate::harness::{PATIENCE, Server, binary, get, wait_until};

/// Everything is due at once.
pub(crate) const SETTINGS: [(&str, &str); 4] = [
    ("DELTA_ENABLED", "true"),
    ("BATCH_FLUSH_INTERVAL", "20ms"),
    ("COMPACTION_MIN_AGE", "0s"),
    ("COMPACTION_MIN_FILES", "2"),
];
const APPS: [&str; 3] = ["shop", "007", "null"];

/// Work on the lake of a server whose directory is `dir`.
pub(crate) fn lake(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut words = vec!["lake".to_owned()];
    words.extend(arguments.iter().map(|word| (*word).to_owned()));
    command(dir, &words, environment)
}

fn command(dir: &Path, arguments: &[String], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments).env_clear().env("DATA_DIR", dir.join("data"));
    command.envs(SETTINGS).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

pub(crate) fn done(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn compact(dir: &Path) -> String {
    done(lake(dir, &["compact"], &[]).output().unwrap())
}

fn status(dir: &Path) -> Value {
    serde_json::from_str(&done(lake(dir, &["status", "--json"], &[]).output().unwrap())).unwrap()
}

/// One file for each app.
fn flush(server: &Server, from: usize) -> BTreeSet<String> {
    let sent = APPS.iter().flat_map(|app| send(server, app, from..from + 20)).collect();
    server.wait_drained();
    sent
}

pub(crate) fn in_the_making(table: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(table.join("_compaction")).map(|entries| entries.map(|e| e.unwrap().path()));
    entries.map(Iterator::collect).unwrap_or_default()
}

/// As if whoever was killed had been gone for longer than that.
pub(crate) fn let_leases_end(table: &Path) {
    for lease in in_the_making(table).iter().filter(|path| path.extension().is_some_and(|end| end == "lease")) {
        std::fs::remove_file(lease).unwrap();
    }
}

#[test]
fn every_reader_sees_the_same_rows_before_and_after() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SETTINGS);
    let ids: BTreeSet<String> = (0..4).flat_map(|part| flush(&server, part * 20)).collect();
    let table = server.warehouse();
    let before = read(&table, "readers");
    let files = status(dir.path())["files"].as_u64().unwrap();
    assert!(files >= 12, "{files}");

    let plan = done(lake(dir.path(), &["compact", "--dry-run"], &[]).output().unwrap());
    assert!(plan.contains("app_id=007") && plan.contains("partitions would be compacted"), "{plan}");
    let one = done(lake(dir.path(), &["compact", "--app", "007"], &[]).output().unwrap());
    assert!(one.contains("80 rows"), "{one}");
    let rest = compact(dir.path());
    assert!(rest.contains("160 rows"), "{rest}");
    assert_eq!(read(&table, "readers"), before);
    holds_exactly(&table, &ids);
    let after = status(dir.path());
    // An hour may have ended between two of the flushes.
    let least = after["partitions"].as_u64().unwrap();
    assert_eq!((after["files"].as_u64(), after["small_files"].as_u64()), (Some(least), Some(least)), "{after}");
    assert_eq!((after["due_partitions"].as_u64(), after["oldest_uncompacted"].as_str()), (Some(0), None), "{after}");
    assert!(compact(dir.path()).starts_with("no partition is due"));
    assert!(done(lake(dir.path(), &["vacuum"], &[]).output().unwrap()).starts_with("0 replaced files"));
    // The server goes on in the same partitions.
    let ids = ids.union(&flush(&server, 80)).cloned().collect();
    holds_exactly(&table, &ids);
    server.expect_quiet_log(&[]);
}

#[test]
fn without_the_log_it_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let output = lake(dir.path(), &["compact"], &[("DELTA_ENABLED", "false")]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(78) && said.contains("delta_enabled"), "{said}");
    let mut server = Server::launch(dir.path(), &[("DELTA_ENABLED", "false"), ("COMPACTION_ENABLED", "true")]);
    assert_eq!(server.wait_for_exit(PATIENCE).code(), Some(64));
    let log = std::fs::read_to_string(dir.path().join("log.jsonl")).unwrap();
    assert!(log.contains("compaction_enabled") && log.contains("delta_enabled"), "{log}");
}

/// The process is killed after its files are in the table and before it says so to the bus: the messages come again when
/// the files are compacted.
#[test]
fn messages_that_come_again_are_found_where_compaction_put_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ids, mut unanswered) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..2 {
        let mut settings = SETTINGS.to_vec();
        settings.push(("CAUSALITY_FAULT_AT", "committed"));
        let mut server = Server::start(dir.path(), &settings);
        let events: Vec<Value> = (round * 50..(round + 1) * 50).map(|n| event("shop", n)).collect();
        match try_send(&server, &events) {
            Some(accepted) => ids.extend(accepted),
            None => unanswered.extend(ids_of(&events)),
        }
        assert!(!server.wait_for_exit(PATIENCE).success());
    }
    let table = dir.path().join("data/warehouse");
    let there = status(dir.path());
    if there["files"].as_u64() > Some(1) {
        assert!(compact(dir.path()).contains("1 partitions compacted"));
    }
    let server = Server::start(dir.path(), &SETTINGS);
    server.wait_drained();
    let found: BTreeSet<String> = serde_json::from_value(read(&table, "ids")["ids"].clone()).unwrap();
    ids.extend(unanswered.intersection(&found).cloned());
    holds_exactly(&table, &ids);
}

/// Killed where it matters, and what is left is put right by the next worker.
#[test]
fn a_compaction_that_is_killed_loses_and_doubles_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SETTINGS);
    let table = server.warehouse();
    let mut ids = BTreeSet::new();
    for (round, place) in ["compaction written", "compaction published", "compaction committed"].iter().enumerate() {
        for part in 0..2 {
            ids.extend(flush(&server, round * 40 + part * 20));
        }
        let output = lake(dir.path(), &["compact"], &[("CAUSALITY_FAULT_AT", place)]).output().unwrap();
        assert!(!output.status.success(), "{place}");
        let found: Vec<String> = serde_json::from_value(read(&table, "ids")["ids"].clone()).unwrap();
        assert_eq!((found.len(), &found.into_iter().collect::<BTreeSet<_>>()), (ids.len(), &ids), "{place}");
        if round > 0 {
            let_leases_end(&table);
        }
        // The first time, by waiting until the lease of the killed one is over.
        compact(dir.path());
        done(lake(dir.path(), &["vacuum"], &[]).output().unwrap());
        holds_exactly(&table, &ids);
        assert_eq!(in_the_making(&table), Vec::<PathBuf>::new(), "{place}");
    }
    server.expect_quiet_log(&[]);
}

/// Compactions, erasures, vacuums, imports and the sink are killed at any moment, in turn, while events come.
#[test]
fn kills_at_any_moment_leave_nothing_behind() {
    let rounds: usize = std::env::var("CAUSALITY_COMPACTION_KILLS").map_or(7, |rounds| rounds.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &SETTINGS);
    let table = server.warehouse();
    let mut ids = BTreeSet::new();
    let mut again: Vec<Vec<String>> = Vec::new();
    let keeping = [("COMPACTION_KEEP_REPLACED", "true"), ("VACUUM_RETENTION", "0s")];
    for round in 0..rounds {
        for part in 0..3 {
            let from = (round * 3 + part) * 5;
            ids.extend(APPS.iter().flat_map(|app| send(&server, app, from..from + 5)).collect::<Vec<_>>());
            std::thread::sleep(Duration::from_millis(30));
        }
        let what: Vec<String> = match round % 7 {
            2 => words("lake vacuum"),
            3 | 6 => {
                let person = format!("person-{round}");
                try_send(&server, &of_device(&person, 60)).expect("an answer");
                server.wait_drained();
                again.push(words(&format!("lake erase --lake-only --device {person}")));
                again[again.len() - 1].clone()
            }
            5 => {
                let file = dir.path().join(format!("{round}.jsonl"));
                let mut events = of_device(&format!("import-{round}"), 400);
                events.iter_mut().for_each(|event| event["timestampMs"] = json!(1_767_225_600_000u64));
                let lines: Vec<String> = events.iter().map(Value::to_string).collect();
                std::fs::write(&file, lines.join("\n")).unwrap();
                ids.extend(ids_of(&events));
                again.push(words(&format!("import --chunk-bytes 4096 {}", file.display())));
                again[again.len() - 1].clone()
            }
            _ => words("lake compact"),
        };
        let environment = if round % 2 == 0 { &keeping[..] } else { &[] };
        let mut worker = command(dir.path(), &what, environment);
        let mut worker = worker.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis((round * 37 % 200) as u64));
        if round % 3 == 2 {
            server.kill_and_restart();
        }
        // It may have come to its end.
        let _ = worker.kill();
        worker.wait().unwrap();
        let_leases_end(&table);
        if round % 5 == 0 {
            read(&table, "ids");
        }
    }
    server.wait_drained();
    for what in again {
        done(command(dir.path(), &what, &[]).output().unwrap());
    }
    compact(dir.path());
    done(lake(dir.path(), &["vacuum"], &keeping).output().unwrap());
    holds_exactly(&table, &ids);
    server.kill_and_restart();
    wait_until("what was half written is removed", || in_the_making(&table).is_empty());
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Events of one device in one hour.
pub(crate) fn of_device(device: &str, count: usize) -> Vec<Value> {
    let of = |n| json!({"id": format!("{device}-{n}"), "appId": "shop", "deviceId": device, "userLogin": {}});
    (0..count).map(of).collect()
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Two at once, the first of which stands still until its lease is over and the second has done the work.
#[test]
fn a_worker_that_stood_still_for_longer_than_its_lease_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SETTINGS);
    let table = server.warehouse();
    let mut ids = BTreeSet::new();
    for part in 0..6 {
        let events: Vec<Value> = (part * 1_000..(part + 1) * 1_000).map(|n| event("shop", n)).collect();
        ids.extend(try_send(&server, &events).expect("an answer"));
        server.wait_drained();
    }
    let mut first = lake(dir.path(), &["compact"], &[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the first has the lease", || !in_the_making(&table).is_empty() || first.try_wait().unwrap().is_some());
    signal(&first, "-STOP");
    // It waits for the lease of the first.
    compact(dir.path());
    holds_exactly(&table, &ids);
    signal(&first, "-CONT");
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{first:?}");
    done(lake(dir.path(), &["vacuum"], &[]).output().unwrap());
    holds_exactly(&table, &ids);
    assert_eq!(in_the_making(&table), Vec::<PathBuf>::new());
}

/// In the background, beside ingest. Readers may have begun with files that are replaced meanwhile.
#[test]
fn the_sink_compacts_by_itself_while_events_come_and_readers_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = SETTINGS.to_vec();
    settings.extend([
        ("COMPACTION_ENABLED", "true"),
        ("COMPACTION_SCHEDULE", "1s"),
        ("COMPACTION_KEEP_REPLACED", "true"),
    ]);
    let server = Server::start(dir.path(), &settings);
    let table = server.warehouse();
    let (mut ids, mut sent, mut counted) = (BTreeSet::new(), 0, 0);
    let compacted = || {
        let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
        let line = metrics.lines().find(|line| line.starts_with("causality_compaction_runs_total{outcome=\"done\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default()
    };
    wait_until("some partitions were compacted", || {
        for app in APPS {
            ids.extend(send(&server, app, sent..sent + 10));
        }
        sent += 10;
        let found: Vec<String> = serde_json::from_value(read(&table, "ids")["ids"].clone()).unwrap();
        let unique: BTreeSet<&String> = found.iter().collect();
        assert!(unique.len() == found.len() && found.len() >= counted, "{} of {}", unique.len(), found.len());
        counted = found.len();
        compacted() >= 4.0
    });
    server.wait_drained();
    wait_until("the last ones too", || status(dir.path())["due_partitions"] == 0);
    wait_until("nobody is at work", || in_the_making(&table).is_empty());
    let vacuum = [("COMPACTION_KEEP_REPLACED", "true"), ("VACUUM_RETENTION", "0s")];
    done(lake(dir.path(), &["vacuum"], &vacuum).output().unwrap());
    holds_exactly(&table, &ids);
    server.expect_quiet_log(&[]);
}
