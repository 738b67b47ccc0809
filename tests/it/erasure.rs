//! Erasure under real readers: the rows of one person are gone at once, everybody else's are there all the time.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::compaction::{SETTINGS, done, in_the_making, lake, let_leases_end, of_device};
use crate::delta::{event, holds_exactly, ids_of, read, send, try_send};
use crate::harness::{Server, get, python};

/// Of a person who is erased.
const EVENTS: usize = 200;

fn erase(dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Value {
    let arguments: Vec<&str> = ["erase", "--lake-only", "--json"].iter().chain(arguments).copied().collect();
    serde_json::from_str(&done(lake(dir, &arguments, environment).output().unwrap())).unwrap()
}

#[test]
fn every_reader_sees_everybody_else_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SETTINGS);
    let table = server.warehouse();
    let mut ids = BTreeSet::new();
    for part in 0..3 {
        for app in ["shop", "007", "null"] {
            ids.extend(send(&server, app, part * 20..(part + 1) * 20));
        }
        let mut events: Vec<Value> = (1_000 + part * 50..1_050 + part * 50).map(|n| event("shop", n)).collect();
        ids.extend(ids_of(&events));
        events.extend(of_device("gone", (part + 1) * 50).into_iter().skip(part * 50));
        try_send(&server, &events).expect("an answer");
        server.wait_drained();
    }
    let plan = done(lake(dir.path(), &["erase", "--device", "gone", "--dry-run"], &[]).output().unwrap());
    assert!(plan.contains("150 rows in 3 of"), "{plan}");
    let other = erase(dir.path(), &["--device", "gone", "--app", "007"], &[]);
    assert_eq!(other["lake"]["rows_removed"], 0, "{other}");
    let receipt = erase(dir.path(), &["--device", "gone"], &[]);
    assert_eq!((&receipt["lake"]["rows_removed"], &receipt["is_complete"]), (&150.into(), &true.into()), "{receipt}");
    assert_eq!(receipt["lake"]["old_files_gone_by"], receipt["finished_at"], "they are gone: {receipt}");
    holds_exactly(&table, &ids);
    let readers = read(&table, "readers");
    let readers = readers.as_object().unwrap();
    assert_eq!(readers.len(), 6);
    for (reader, answer) in readers {
        assert_eq!(answer["counts"]["shop"], 210, "{reader}");
        assert_eq!(answer["rows"], readers["deltalake, Delta"]["rows"], "{reader}");
    }
    assert_eq!(erase(dir.path(), &["--device", "gone"], &[])["lake"]["rows_removed"], 0);
    server.expect_quiet_log(&[]);
}

/// While its events are on their way into the lake.
#[test]
fn a_running_process_is_asked_first_and_keeps_the_record() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = SETTINGS.to_vec();
    settings[1] = ("BATCH_FLUSH_INTERVAL", "2s");
    let server = Server::start(dir.path(), &settings);
    let mut events: Vec<Value> = (0..50).map(|n| event("shop", n)).collect();
    let ids = ids_of(&events);
    events.extend(of_device("gone", EVENTS));
    try_send(&server, &events).expect("an answer");
    let arguments = ["erase", "--json", "--device", "gone", "--admin-url", &server.admin];
    let receipt: Value = serde_json::from_str(&done(lake(dir.path(), &arguments, &[]).output().unwrap())).unwrap();
    assert_eq!(receipt["is_complete"], true, "{receipt}");
    assert_eq!(receipt["processes"]["events"], EVENTS, "{receipt}");
    server.wait_drained();
    holds_exactly(&server.warehouse(), &ids);
    let (_, records) = get(&format!("{}/api/admin/audit?kind=erasure&limit=1", server.admin)).unwrap();
    let records: Value = serde_json::from_str(&records).unwrap();
    let told = &records["items"][0]["before"];
    assert_eq!(told["lake"]["rows_removed"], receipt["lake"]["rows_removed"], "{records}");
    assert!(!records.to_string().contains("gone\""), "no record holds the id: {records}");
    server.expect_quiet_log(&[]);
    let nobody = ["erase", "--device", "gone", "--admin-url", "http://127.0.0.1:1"];
    let output = lake(dir.path(), &nobody, &[]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("--lake-only"), "{said}");
}

/// Killed where it matters, and done by whoever is told again.
#[test]
fn an_erasure_that_is_killed_is_done_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &SETTINGS);
    let table = server.warehouse();
    let mut ids = BTreeSet::new();
    for (round, place) in ["compaction written", "compaction published", "compaction committed"].iter().enumerate() {
        let person = format!("person-{round}");
        let mut events: Vec<Value> = (round * 50..(round + 1) * 50).map(|n| event("shop", n)).collect();
        ids.extend(ids_of(&events));
        events.extend(of_device(&person, EVENTS));
        try_send(&server, &events).expect("an answer");
        server.wait_drained();
        let arguments = ["erase", "--lake-only", "--device", &person];
        let output = lake(dir.path(), &arguments, &[("CAUSALITY_FAULT_AT", place)]).output().unwrap();
        assert!(!output.status.success(), "{place}");
        let found: BTreeSet<String> = serde_json::from_value(read(&table, "ids")["ids"].clone()).unwrap();
        assert!(found.is_superset(&ids), "{place}");
        if round > 0 {
            let_leases_end(&table);
        }
        // The first time, by waiting until the lease of the killed one is over.
        let removed = erase(dir.path(), &["--device", &person], &[])["lake"]["rows_removed"].clone();
        assert_eq!(removed, if *place == "compaction committed" { 0 } else { EVENTS }, "{place}");
        done(lake(dir.path(), &["vacuum"], &[]).output().unwrap());
        holds_exactly(&table, &ids);
        assert!(in_the_making(&table).is_empty(), "{place}");
    }
    server.expect_quiet_log(&[]);
}

/// `CAUSALITY_READS` asks for more reads.
#[test]
fn no_reader_sees_a_state_in_between() {
    let reads = std::env::var("CAUSALITY_READS").unwrap_or_else(|_| "60".to_owned());
    let dir = tempfile::tempdir().unwrap();
    read_while_it_changes(dir.path(), &[], "10s", |server| {
        python("read_changes.py", &[server.warehouse().to_str().unwrap(), &reads, "10"], "")
    });
}

/// Events come, files are compacted, persons erased and replaced files removed after `kept` while `reader` reads; it
/// returns what `read_changes.py` said.
pub(crate) fn read_while_it_changes(
    dir: &Path,
    settings: &[(&str, &str)],
    kept: &str,
    reader: impl FnOnce(&Server) -> String,
) {
    let compacting =
        [("COMPACTION_ENABLED", "true"), ("COMPACTION_SCHEDULE", "1s"), ("COMPACTION_KEEP_REPLACED", "true")];
    let server = Server::start(dir, &[&SETTINGS, settings, &compacting].concat());
    let table = server.warehouse();
    let keeping = [("COMPACTION_KEEP_REPLACED", "true"), ("VACUUM_RETENTION", kept)];
    let over = AtomicBool::new(false);
    let mut ids = send(&server, "shop", 0..10);
    server.wait_drained();
    let (told, live) = std::thread::scope(|scope| {
        let work = scope.spawn(|| {
            let mut live = BTreeSet::new();
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                let person = format!("person-{round}");
                let mut events: Vec<Value> = (0..10).map(|n| event("shop", 10 + round * 10 + n)).collect();
                live.extend(ids_of(&events));
                events.extend(of_device(&person, EVENTS));
                try_send(&server, &events).expect("an answer");
                server.wait_drained();
                std::thread::sleep(Duration::from_millis(100));
                let receipt = erase(dir, &["--device", &person], &keeping);
                assert_eq!(receipt["lake"]["rows_removed"], EVENTS, "{receipt}");
                if round % 10 == 9 {
                    done(lake(dir, &["vacuum"], &keeping).output().unwrap());
                }
            }
            live
        });
        let told = std::panic::catch_unwind(AssertUnwindSafe(|| reader(&server)));
        over.store(true, Ordering::Relaxed);
        (told, work.join().unwrap())
    });
    let told: Value = serde_json::from_str(&told.expect("every read was one state of the table")).unwrap();
    eprintln!("{told}");
    assert!(told["persons"].as_u64() > Some(0) && told["versions"].as_u64() > Some(2), "{told}");
    ids.extend(live);
    server.wait_drained();
    drop(server);
    done(lake(dir, &["vacuum"], &[("COMPACTION_KEEP_REPLACED", "true"), ("VACUUM_RETENTION", "0s")]).output().unwrap());
    holds_exactly(&table, &ids);
}
