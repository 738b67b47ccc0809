//! The Delta log as it grows: checkpoints, also of very many files, and the removal of what is old. By `deltalake`, which
//! shares no code with the product.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cluster::{from_environment, resident_mib};
use crate::delta::{APPS, holds_exactly, read, send};
use crate::harness::{PATIENCE, Server, get, python, wait_until};

/// Every request is a commit of its own.
const AT_ONCE: (&str, &str) = ("BATCH_FLUSH_INTERVAL", "1ms");
/// Commits between two checkpoints.
const CHECKPOINT: i64 = 100;
/// Files of the large table in the default run; `CAUSALITY_DELTA_FILES` asks for more.
const FILES: usize = 45_000;
/// What a process may take at most that reads and writes checkpoints of a large table.
const RESIDENT_MIB_MAX: u64 = 256;

fn version(server: &Server) -> i64 {
    let (_, metrics) = get(&format!("{}/metrics", server.admin)).unwrap();
    let line = metrics.lines().find(|line| line.starts_with("causality_delta_version ")).map(str::to_owned);
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).unwrap_or_default() as i64
}

fn log_of(server: &Server) -> PathBuf {
    server.warehouse().join("_delta_log")
}

/// Sends events until the log has this version. Returns their ids.
fn commit_until(server: &Server, wanted: i64, sent: &mut usize) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    wait_until(&format!("the log has version {wanted}"), || {
        ids.extend(send(server, APPS[*sent % APPS.len()], *sent..*sent + 2));
        *sent += 2;
        version(server) >= wanted
    });
    ids
}

/// Until the hint names the checkpoint of this version or a later one.
fn wait_for_checkpoint(log: &Path, version: i64) -> Value {
    let mut hint = Value::Null;
    wait_until(&format!("there is a checkpoint of {version}"), || {
        let text = fs::read(log.join("_last_checkpoint")).unwrap_or_default();
        hint = serde_json::from_slice(&text).unwrap_or_default();
        hint["version"].as_i64().is_some_and(|at| at >= version)
    });
    hint
}

#[test]
fn readers_go_on_after_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[AT_ONCE]);
    let ids = commit_until(&server, CHECKPOINT + 1, &mut 0);
    wait_for_checkpoint(&log_of(&server), CHECKPOINT);
    server.wait_drained();
    holds_exactly(&server.warehouse(), &ids);
    let readers = read(&server.warehouse(), "readers");
    for (reader, answer) in readers.as_object().unwrap() {
        assert_eq!(answer["rows"], readers["deltalake, Delta"]["rows"], "{reader}");
        assert_eq!(answer["filtered"], answer["counts"], "{reader}");
    }
    server.expect_quiet_log(&[]);
}

/// Files of the log up to this version are as old as this.
fn age(log: &Path, until: i64, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3_600);
    for entry in fs::read_dir(log).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.split('.').next().unwrap().parse::<i64>().is_ok_and(|version| version <= until) {
            File::options().append(true).open(&path).unwrap().set_modified(then).unwrap();
        }
    }
}

/// Rows of those of the versions that can still be read.
fn rows_at(table: &Path, versions: &[i64]) -> BTreeMap<i64, usize> {
    let rows = python("read_delta.py", &[table.to_str().unwrap(), "versions"], &json!(versions).to_string());
    serde_json::from_str(&rows).unwrap()
}

/// The oldest commit that is there, and whether all after it are.
fn oldest(log: &Path, latest: i64) -> i64 {
    let is_there = |version: &i64| log.join(format!("{version:020}.json")).exists();
    let oldest = (0..=latest).find(is_there).unwrap();
    assert!((oldest..=latest).all(|version| is_there(&version)), "commits from {oldest} to {latest} without a gap");
    oldest
}

#[test]
fn old_commits_go_and_the_time_within_the_retention_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[AT_ONCE, ("DELTA_LOG_RETENTION", "1h")]);
    let (table, log, mut sent) = (server.warehouse(), log_of(&server), 0);
    let mut ids = commit_until(&server, 220, &mut sent);
    wait_for_checkpoint(&log, 200);
    let looked_at = [0, 50, 99, 100, 130, 199, 200, 210, 220];
    let before = rows_at(&table, &looked_at);
    assert_eq!(before.len(), looked_at.len());

    // The checkpoint of 100 is old, and that of 200 is not.
    age(&log, 150, 3);
    ids.extend(commit_until(&server, 310, &mut sent));
    wait_for_checkpoint(&log, 300);
    wait_until("commits before 100 are gone", || !log.join(format!("{:020}.json", 99)).exists());
    assert_eq!(oldest(&log, 310), 100);
    let after = rows_at(&table, &looked_at);
    assert_eq!(after, before.clone().into_iter().filter(|(version, _)| *version >= 100).collect());

    // So is that of 200; somebody else's attempt at one was killed.
    fs::write(log.join("00000000000000000150.checkpoint.0000000001.0000000002.parquet"), b"a part").unwrap();
    age(&log, 250, 3);
    ids.extend(commit_until(&server, 410, &mut sent));
    wait_for_checkpoint(&log, 400);
    wait_until("commits before 200 are gone", || !log.join(format!("{:020}.json", 199)).exists());
    assert_eq!(oldest(&log, 410), 200);
    let after = rows_at(&table, &looked_at);
    assert_eq!(after, before.into_iter().filter(|(version, _)| *version >= 200).collect());
    let checkpoints = || {
        let names = fs::read_dir(&log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names = names.filter(|name| name.ends_with(".parquet"));
        names.map(|name| name[..20].parse().unwrap()).collect::<BTreeSet<i64>>()
    };
    wait_until("the old checkpoints and the part are gone", || checkpoints() == [200, 300, 400].into());
    server.wait_drained();
    holds_exactly(&table, &ids);
    server.expect_quiet_log(&[]);
}

/// A table of very many files, which are only named: readers of the log alone do not miss them.
#[test]
fn checkpoints_of_many_files_take_bounded_memory() {
    let files = from_environment("CAUSALITY_DELTA_FILES", FILES);
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[AT_ONCE]);
    send(&server, "shop", 0..2);
    server.wait_drained();
    let (table, log) = (server.warehouse(), log_of(&server));
    server.terminate(PATIENCE);
    // Before the checkpoint that the server writes next.
    let latest = (files as i64 / 50_000 + 1) * CHECKPOINT - 2;
    let added = name_files(&log, files, latest);
    server.restart();
    let mut sent = 2;
    for checkpoint in [latest + 2, latest + 2 + CHECKPOINT] {
        commit_until(&server, checkpoint, &mut sent);
        let hint = wait_for_checkpoint(&log, checkpoint);
        let counted = hint["numOfAddFiles"].as_u64().unwrap() as usize;
        assert!(counted > added && counted <= added + sent, "{hint}");
        let parts = hint["size"].as_u64().unwrap().div_ceil(20_000);
        assert_eq!(hint["parts"].as_u64().unwrap_or(1), parts, "{hint}");
        eprintln!("{added} files: {hint}");
    }
    server.wait_drained();
    let resident = resident_mib(&server);
    eprintln!("{added} files: {resident:?} MiB resident at most");
    assert!(resident.is_none_or(|mib| mib < RESIDENT_MIB_MAX), "{resident:?} MiB");
    let counted = read(&table, "count");
    assert_eq!(counted["version"], json!(version(&server)));
    assert_eq!(counted["named"], json!(added), "and {} others", counted["others"]);
    server.expect_quiet_log(&[]);
}

/// Commits up to `latest` that add files like the one that was committed first. Returns how many.
fn name_files(log: &Path, files: usize, latest: i64) -> usize {
    let first = fs::read_to_string(log.join(format!("{:020}.json", 1))).unwrap();
    let mut add: Value = first
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .find(|line: &Value| !line["add"].is_null())
        .unwrap();
    let each = files / (latest - 1) as usize;
    for version in 2..=latest {
        let mut commit = String::new();
        for n in 0..each {
            let path = format!("app_id=many/year=2026/month=01/day=01/hour=00/events_{version}-{n}.parquet");
            add["add"]["path"] = json!(path);
            commit.push_str(&add.to_string());
            commit.push('\n');
        }
        fs::write(log.join(format!("{version:020}.json")), commit).unwrap();
    }
    each * (latest - 1) as usize
}
