//! Tests of the embedded engine beyond the conformance suite: its file, its memory, its crashes.

mod damage;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::Engine;
use super::file;
use crate::bus::conformance::{self, Fixture, fetch, payloads, publish, publish_numbers, spec};
use crate::bus::{Batch, Bus, BusErrorKind, Delivery, EmbeddedSettings, Inner, Interest, Receipt};

conformance::suite!(Fixture::open_embedded);
fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

fn numbers(range: std::ops::Range<u64>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn a_directory_serves_one_engine_at_a_time() {
    let fixture = Fixture::embedded(|_| {});
    let second = Bus::open_embedded(fixture.settings().clone()).map(drop).unwrap_err();
    let reason = std::error::Error::source(&second).unwrap().to_string();
    assert!(reason.contains(&fixture.settings().dir.display().to_string()), "{reason}");
    fixture.bus.close().await;
    Bus::open_embedded(fixture.settings().clone()).unwrap();
}

#[tokio::test]
async fn groups_that_left_the_tail_are_read_from_the_file() {
    let mut fixture = Fixture::embedded(|settings| settings.tail_bytes_max = 2_000);
    for start in (0..2_000).step_by(100) {
        publish_numbers(&fixture.bus, start..start + 100).await;
    }
    fixture.reopen().await;
    let short = crate::bus::ConsumerSpec { ack_wait: Duration::from_secs(1), ..spec("c", ">") };
    let mut subscription = fixture.bus.subscribe(short).await.unwrap();
    let all = fetch(&mut subscription, 2_000).await;
    assert_eq!(payloads(&all), numbers(0..2_000));
    let outcome = receipts(&[all[..50].to_vec(), all[60..1_995].to_vec()].concat());
    subscription.acker().ack(&outcome).await.unwrap();
    let again = fetch(&mut subscription, 15).await;
    assert_eq!(payloads(&again), [numbers(50..60), numbers(1_995..2_000)].concat(), "redelivered from the file too");
}

/// An interest that can be switched.
#[derive(Default)]
struct Mood {
    wants: AtomicBool,
    passed: AtomicU64,
}

impl Interest for Mood {
    fn has_interest(&self) -> bool {
        self.wants.load(Ordering::Acquire)
    }

    fn skipped(&self, messages: u64) {
        self.passed.fetch_add(messages, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn messages_without_interest_are_skipped_for_good() {
    let mut fixture = Fixture::embedded(|_| {});
    publish_numbers(&fixture.bus, 0..500).await;
    let mood = Arc::new(Mood::default());
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    subscription.set_interest(mood.clone());
    let mut patience = async |ms| {
        tokio::time::timeout(Duration::from_millis(ms), subscription.fetch(100, 1 << 20)).await.map(Result::unwrap)
    };
    assert!(patience(50).await.is_err());
    publish_numbers(&fixture.bus, 500..700).await;
    assert!(patience(50).await.is_err());
    assert_eq!(mood.passed.load(Ordering::Relaxed), 700);
    mood.wants.store(true, Ordering::Release);
    publish_numbers(&fixture.bus, 700..710).await;
    assert_eq!(payloads(&patience(5_000).await.unwrap()), numbers(700..710), "wanted when they were published");
    mood.wants.store(false, Ordering::Release);
    publish_numbers(&fixture.bus, 710..800).await;
    // Until it is stored, which needs no further message.
    assert!(patience(500).await.is_err());
    drop(subscription);
    fixture.reopen().await;
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    publish_numbers(&fixture.bus, 800..801).await;
    let mut again = fetch(&mut subscription, 11).await;
    again.sort_by_key(Delivery::sequence);
    assert_eq!(payloads(&again), numbers(700..710).into_iter().chain(numbers(800..801)).collect::<Vec<_>>());
}

#[tokio::test]
async fn cancelled_fetches_lose_nothing() {
    let mut fixture = Fixture::embedded(|_| {});
    publish_numbers(&fixture.bus, 0..500).await;
    fixture.reopen().await;
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    let mut all = Vec::new();
    for patience_us in (0..).step_by(40) {
        let fetched = tokio::time::timeout(Duration::from_micros(patience_us), subscription.fetch(100, 1 << 20)).await;
        all.extend(fetched.map(Result::unwrap).unwrap_or_default());
        if all.len() == 500 {
            break;
        }
        assert!(patience_us < 1_000_000, "{} of 500 came", all.len());
    }
    assert_eq!(payloads(&all), numbers(0..500));
}

#[tokio::test]
async fn a_full_disk_refuses_and_publishing_resumes_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    let lock = file::lock(dir.path()).unwrap();
    let connection = file::open(&file::path(dir.path())).unwrap();
    // SQLite fails with SQLITE_FULL when the file would exceed this many pages, as it does on a full disk.
    connection.pragma_update(None, "max_page_count", 80).unwrap();
    let bus = Bus(Inner::Embedded(Engine::over(settings, lock, connection).unwrap()));
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let batch = |n: u64| {
        let mut batch = Batch::new();
        batch.push("a.b", Some(&format!("id-{n}")), |out| out.resize(out.len() + 100_000, b'x'));
        batch
    };
    let mut stored = 0;
    let refused = loop {
        match bus.publish(batch(stored)).await.remove(0) {
            Ok(published) => assert_eq!((published.sequence, published.duplicate), (stored + 1, false)),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert_eq!(refused.kind, BusErrorKind::Full);
    assert!(stored > 5, "only {stored} messages of 100 kB fit into 1.3 MB");
    for _ in 0..3 {
        assert_eq!(bus.publish(batch(stored)).await.remove(0).unwrap_err().kind, BusErrorKind::Full);
    }
    assert!(bus.status().await.unwrap().full.is_some());
    let read = fetch(&mut subscription, stored as usize).await;
    subscription.acker().ack(&receipts(&read)).await.expect("acknowledgements need no new page");
    assert!(bus.publish(batch(0)).await.remove(0).unwrap().duplicate);

    let purged = bus.purge_acknowledged().await.unwrap();
    assert_eq!(purged, stored - 1, "all but the newest group");
    let published = bus.publish(batch(stored)).await.remove(0).expect("there is room again");
    assert_eq!((published.sequence, published.duplicate), (stored + 1, false), "what failed left no id and no gap");
    assert!(bus.publish(batch(0)).await.remove(0).unwrap().duplicate, "a purge forgets no id");
    assert!(bus.status().await.unwrap().full.is_none());
}

/// Overwrites some bytes in the middle of the data marked by `needle`.
fn damage(file: &Path, needle: &[u8]) {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("the bytes are in the file");
    bytes[at + needle.len() / 2] ^= 0x55;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn damage_stops_the_start_with_the_name_of_the_file() {
    let fixture = Fixture::embedded(|_| {});
    publish(&fixture.bus, &[("a.b", None, "a message that is damaged later")]).await;
    fixture.bus.close().await;
    let file = file::path(&fixture.settings().dir);
    let whole = std::fs::read(&file).unwrap();
    damage(&file, b"message that is damaged");
    let error = Bus::open_embedded(fixture.settings().clone()).map(drop).unwrap_err();
    let reason = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(error.kind, BusErrorKind::Corrupt);
    assert!(reason.contains("bus.db") && reason.contains("sequence 1"), "{reason}");

    std::fs::write(&file, [&b"not a database"[..], &whole[14..]].concat()).unwrap();
    let error = Bus::open_embedded(fixture.settings().clone()).map(drop).unwrap_err();
    assert_eq!(error.kind, BusErrorKind::Corrupt, "{error}");

    std::fs::write(&file, b"").unwrap();
    Connection::open(&file).unwrap().execute_batch("CREATE TABLE somebody(elses INTEGER)").unwrap();
    let error = Bus::open_embedded(fixture.settings().clone()).map(drop).unwrap_err();
    assert_eq!(error.kind, BusErrorKind::Invalid, "{error}");

    std::fs::write(&file, whole).unwrap();
    Bus::open_embedded(fixture.settings().clone()).unwrap();
}

/// A file of the first version, whose groups are uncompressed, is upgraded.
#[tokio::test]
async fn a_file_of_the_first_version_is_read_and_written_on() {
    let mut fixture = Fixture::embedded(|_| {});
    publish_numbers(&fixture.bus, 0..10).await;
    fixture.bus.close().await;
    let older = "ALTER TABLE groups DROP COLUMN raw_bytes; PRAGMA user_version = 1;";
    Connection::open(file::path(&fixture.settings().dir)).unwrap().execute_batch(older).unwrap();
    fixture.reopen().await;
    publish_numbers(&fixture.bus, 10..500).await;
    fixture.reopen().await;
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 500).await), numbers(0..500));
}

#[tokio::test]
async fn large_groups_are_stored_compressed() {
    let mut fixture = Fixture::embedded(|_| {});
    let mut batch = Batch::new();
    let payload = |n: u32| format!("{n} of a thousand messages that are much alike");
    (0..1_000).for_each(|n| batch.push("events.a", None, |out| out.extend_from_slice(payload(n).as_bytes())));
    assert!(fixture.bus.publish(batch).await.iter().all(Result::is_ok));
    fixture.reopen().await;
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 1_000).await), (0..1_000).map(payload).collect::<Vec<_>>());
    let connection = Connection::open(file::path(&fixture.settings().dir)).unwrap();
    let (raw, stored): (u64, u64) = connection
        .query_row("SELECT raw_bytes, length(data) FROM groups", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert!(raw > 40_000 && stored < raw / 4, "{stored} of {raw} bytes");
}

#[tokio::test]
async fn the_log_stays_bounded_under_load() {
    let fixture = Fixture::embedded(|_| {});
    let log = file::path(&fixture.settings().dir).with_extension("db-wal");
    let mut longest = 0;
    for _ in 0..60 {
        let mut batch = Batch::new();
        (0..4).for_each(|_| batch.push("a.b", None, |out| out.resize(out.len() + 1_000_000, 7)));
        assert!(fixture.bus.publish(batch).await.iter().all(Result::is_ok));
        longest = longest.max(std::fs::metadata(&log).unwrap().len());
    }
    assert!(longest < 200 << 20, "the log grew to {longest} bytes while 240 MB were written");
    fixture.bus.close().await;
    assert!(!log.exists(), "a closed bus leaves one file");
}

/// Set in the child process that is to be killed: the directory of its bus.
pub(super) const CHILD_DIR: &str = "BUS_TEST_CHILD_DIR";

pub(super) fn settings(dir: &Path) -> EmbeddedSettings {
    EmbeddedSettings {
        dir: dir.to_owned(),
        bytes_max: 1 << 30,
        age_max: Duration::from_secs(3_600),
        dead_letter_age_max: Duration::from_secs(3_600),
        dedup_window: Duration::from_secs(600),
        tail_bytes_max: 1 << 20,
    }
}

/// Not a test by itself: publishes, and acknowledges half of what it reads, until it is killed. Prints what was
/// promised to it.
#[test]
fn child_of_survives_kill_9() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = Bus::open_embedded(settings(Path::new(&dir))).unwrap();
        let say = |line: String| {
            let mut out = std::io::stdout().lock();
            out.write_all(line.as_bytes()).unwrap();
            out.flush().unwrap();
        };
        let start = bus.status().await.unwrap().last_sequence;
        let publisher = async {
            for n in start.. {
                let mut batch = Batch::new();
                let id = format!("id-{n}");
                (0..3).for_each(|_| batch.push("a.b", Some(&id), |out| out.extend_from_slice(id.as_bytes())));
                let answers = bus.publish(batch).await;
                let stored: Vec<_> = answers.into_iter().map(|answer| answer.unwrap()).collect();
                assert!(stored[1].duplicate && stored[2].duplicate);
                say(format!("\nstored {} {id}\n", stored[0].sequence));
            }
        };
        let reader = async {
            let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
            loop {
                let some = subscription.fetch(20, usize::MAX).await.unwrap();
                let even: Vec<_> = receipts(&some).into_iter().filter(|r| r.sequence % 2 == 0).collect();
                subscription.acker().ack(&even).await.unwrap();
                even.iter().for_each(|receipt| say(format!("\nacked {}\n", receipt.sequence)));
            }
        };
        tokio::join!(publisher, reader);
    });
}

#[tokio::test]
async fn survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut stored: Vec<(u64, String)> = Vec::new();
    let mut acked = std::collections::BTreeSet::new();
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "bus::embedded::tests::child_of_survives_kill_9", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut promises = 0;
        for line in lines.by_ref().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["stored", sequence, id] => stored.push((sequence.parse().unwrap(), id.to_owned())),
                ["acked", sequence] => drop(acked.insert(sequence.parse::<u64>().unwrap())),
                _ => continue,
            }
            promises += 1;
            if promises == 40 + round * 23 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
    }
    let bus = Bus::open_embedded(settings(dir.path())).unwrap();
    let last = bus.status().await.unwrap().last_sequence;
    assert!(stored.iter().all(|(sequence, _)| *sequence <= last));
    let mut all = bus.subscribe(spec("audit", ">")).await.unwrap();
    let found = fetch(&mut all, last as usize).await;
    assert_eq!(found.iter().map(Delivery::sequence).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
    for (sequence, id) in &stored {
        assert_eq!(found[*sequence as usize - 1].payload(), id.as_bytes(), "sequence {sequence}");
    }
    for (_, id) in &stored {
        assert!(publish(&bus, &[("a.b", Some(id), "again")]).await[0].duplicate, "{id}");
    }
    let mut rest = bus.subscribe(spec("c", ">")).await.unwrap();
    let mut left = Vec::new();
    while let Ok(some) = tokio::time::timeout(Duration::from_millis(300), rest.fetch(10_000, usize::MAX)).await {
        left.extend(some.unwrap());
    }
    let left: std::collections::BTreeSet<u64> = left.iter().map(Delivery::sequence).collect();
    assert!(left.is_disjoint(&acked), "an acknowledged message came again");
    assert!((1..=last).filter(|s| s % 2 == 1).all(|odd| left.contains(&odd)), "one that was not, did not");
}
