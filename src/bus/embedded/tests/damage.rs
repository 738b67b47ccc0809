//! Tests with damaged, removed or replaced files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{CHILD_DIR, settings};
use crate::bus::conformance::{Fixture, fetch, payloads, publish, publish_numbers, spec};
use crate::bus::embedded::file;
use crate::bus::embedded::shared::reason;
use crate::bus::{Bus, BusErrorKind, Delivery};

const FILES: [&str; 4] = ["bus.db", "bus.db-wal", "bus.db-shm", "bus.lock"];

/// The directory of a process killed after some promises, and the highest sequence it was promised.
fn killed(promises: usize) -> (tempfile::TempDir, u64) {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bus::embedded::tests::child_of_survives_kill_9", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stored = 0;
    let mut count = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        if let ["stored", sequence, _] = line.split(' ').collect::<Vec<_>>()[..] {
            stored = sequence.parse().unwrap();
            count += 1;
            if count == promises {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    (dir, stored)
}

fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in FILES {
        fs::copy(from.join(file), dir.path().join(file)).unwrap();
    }
    dir
}

async fn last_sequence(dir: &Path) -> Result<u64, String> {
    match Bus::open_embedded(settings(dir)) {
        Ok(bus) => {
            let last = bus.status().await.unwrap().last_sequence;
            let mut all = bus.subscribe(spec("audit", ">")).await.unwrap();
            let found = fetch(&mut all, last as usize).await;
            assert!(found.iter().map(Delivery::sequence).eq(1..=last));
            Ok(last)
        }
        Err(error) => {
            assert_eq!(error.kind, BusErrorKind::Corrupt, "{error}");
            Err(reason(&error))
        }
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_log_of_a_killed_process_costs_no_acknowledged_message() {
    let (dir, promised) = killed(60);
    let log = fs::read(dir.path().join("bus.db-wal")).unwrap();
    let mut refused = 0;
    for n in 0..16 {
        let copy = copy(dir.path());
        let at = (n * 2_654_435_761_usize + n) % log.len();
        let mut damaged = log.clone();
        damaged[at] ^= 1 << (n % 8);
        fs::write(copy.path().join("bus.db-wal"), damaged).unwrap();
        match last_sequence(copy.path()).await {
            Ok(last) => assert!(last >= promised, "byte {at}: {last} of {promised}"),
            Err(reason) => {
                refused += 1;
                assert!(reason.contains("bus.db-wal is damaged at byte "), "{reason}");
            }
        }
    }
    assert!(refused > 8, "{refused} of 16 starts were refused");
    for cut in [1, 500, 20_000] {
        let copy = copy(dir.path());
        fs::write(copy.path().join("bus.db-wal"), &log[..log.len() - cut]).unwrap();
        last_sequence(copy.path()).await.expect("a log that ends early starts");
    }
    assert!(last_sequence(dir.path()).await.unwrap() >= promised);
}

fn aside(dir: &Path, file: &str) -> (PathBuf, PathBuf) {
    (dir.join(file), dir.join(format!("{file}.aside")))
}

#[tokio::test]
async fn nothing_is_accepted_into_files_that_a_restart_would_not_find() {
    for file in FILES {
        let mut fixture = Fixture::embedded(|_| {});
        let dir = fixture.settings().dir.clone();
        publish_numbers(&fixture.bus, 0..3).await;
        let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
        fixture.bus.ping().await.unwrap();

        let (place, away) = aside(&dir, file);
        fs::rename(&place, &away).unwrap();
        let expect_refused = async |what: &str| {
            let mut batch = crate::bus::Batch::new();
            batch.push("a.b", None, |out| out.extend_from_slice(what.as_bytes()));
            let refused = fixture.bus.publish(batch).await.remove(0).expect_err(what);
            let why = reason(&refused);
            assert_eq!(refused.kind, BusErrorKind::Unavailable, "{why}");
            assert!(why.contains(file) && why.contains(what), "{why}");
            let checked = reason(&fixture.bus.ping().await.unwrap_err());
            assert!(checked.contains(file) && checked.contains(what), "{checked}");
        };
        expect_refused("was removed").await;
        expect_refused("was removed").await;
        fs::write(&place, b"").unwrap();
        expect_refused("was replaced").await;
        assert!(fixture.bus.status().await.unwrap().full.is_none());

        // The contents of the open files can still be drained.
        let read = fetch(&mut subscription, 3).await;
        subscription.acker().ack(&[read[0].receipt]).await.unwrap();

        fs::rename(&away, &place).unwrap();
        fixture.bus.ping().await.unwrap();
        let published = publish(&fixture.bus, &[("a.b", None, "back")]).await;
        drop(subscription);
        fixture.reopen().await;
        let mut audit = fixture.bus.subscribe(spec("audit", ">")).await.unwrap();
        let all = fetch(&mut audit, published[0].sequence as usize).await;
        assert_eq!(payloads(&all).last().map(String::as_str), Some("back"));
    }
}

#[tokio::test]
async fn damage_found_at_runtime_is_reported() {
    let mut fixture = Fixture::embedded(|settings| settings.tail_bytes_max = 1_000);
    for n in 0..40 {
        publish(&fixture.bus, &[("a.b", None, &format!("{n} {}", "x".repeat(3_000)))]).await;
    }
    fixture.reopen().await;
    fixture.bus.ping().await.unwrap();
    let path = file::path(&fixture.settings().dir);
    // In place: the file stays the one that is open. The connections have already read the first pages.
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() / 2;
    bytes[at..].fill(0x5a);
    let mut open = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut open, &bytes).unwrap();
    // Closing it would release the locks of the bus.
    std::mem::forget(open);
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    let mut failed = None;
    for _ in 0..40 {
        match subscription.fetch(1, usize::MAX).await {
            Ok(_) => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    assert_eq!(failed.expect("a page is damaged").kind, BusErrorKind::Corrupt);
    let said = fixture.bus.ping().await.unwrap_err();
    assert_eq!(said.kind, BusErrorKind::Corrupt);
    assert!(reason(&said).contains("bus.db"), "{}", reason(&said));
}
