//! Logs that SQLite itself wrote, damaged in every way that is cheap to try.

use std::fs;
use std::path::Path;

use rusqlite::Connection;

use super::error::fault;
use super::log::{self, Index, LogState};
use super::loss::recorded as losses;
use super::open::open_reader;
use super::{Fault, open_writer, open_writer_with_pages};

const PAGE_BYTES: usize = 512;
const FRAME_BYTES: usize = 24 + PAGE_BYTES;
const HEADER_BYTES: usize = 32;
const TRANSACTIONS: u64 = 8;

/// The files of a database as a killed process leaves them.
struct Crashed {
    database: Vec<u8>,
    log: Vec<u8>,
    index: Vec<u8>,
    /// Frames in the log at the end of each transaction.
    ends: Vec<u64>,
}

impl Crashed {
    /// `TRANSACTIONS` of one row each; the log starts over before the last `fresh` of them.
    fn new(fresh: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = open_writer_with_pages(&path, PAGE_BYTES as u32).unwrap();
        connection
            .execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(n INTEGER PRIMARY KEY, b BLOB)")
            .unwrap();
        let mut ends = Vec::new();
        for n in 0..TRANSACTIONS {
            if n + fresh == TRANSACTIONS {
                connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
                ends.clear();
            }
            let bytes = 300 + n * 331 % 1_000;
            connection.execute("INSERT INTO t VALUES (?1, randomblob(?2))", [n, bytes]).unwrap();
            let frames = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, u64>(1)).unwrap();
            ends.push(frames);
        }
        let read = |ending| fs::read(log::beside(&path, ending)).unwrap();
        Self { database: read(""), log: read("-wal"), index: read("-shm"), ends }
    }

    fn frames(&self) -> u64 {
        *self.ends.last().unwrap()
    }

    /// Bytes in front of a frame.
    fn at(frame: u64) -> usize {
        HEADER_BYTES + frame as usize * FRAME_BYTES
    }

    /// Those of the log that are not remains.
    fn live(&self) -> usize {
        Self::at(self.frames())
    }

    /// Frames before the last transaction.
    fn before_last(&self) -> u64 {
        self.ends.len().checked_sub(2).map_or(0, |at| self.ends[at])
    }

    fn put(&self, dir: &Path, log: &[u8], index: bool) -> std::path::PathBuf {
        let path = dir.join("a.db");
        fs::write(&path, &self.database).unwrap();
        fs::write(log::beside(&path, "-wal"), log).unwrap();
        let index_path = log::beside(&path, "-shm");
        match index {
            true => fs::write(index_path, &self.index).unwrap(),
            false => drop(fs::remove_file(index_path)),
        }
        path
    }

    fn examine(&self, log: &[u8], index: bool) -> LogState {
        let index = index.then(|| Index::parse(self.index.first_chunk().unwrap()).expect("the index verifies"));
        log::walk(log, log.len() as u64, index).unwrap()
    }

    /// Rows that are there after opening; none when that was refused.
    fn open(&self, log: &[u8], index: bool) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        match open_writer(&self.put(dir.path(), log, index)) {
            Ok(connection) => Some(rows(&connection)),
            Err(error) => {
                assert_eq!(fault(&error), Fault::Corrupt, "{error}");
                assert!(error.to_string().contains("a.db-wal is damaged at byte"), "{error}");
                None
            }
        }
    }

    /// The same log with checksums over big-endian words, as a machine of that kind writes it.
    fn swap_endianness(&mut self) {
        let sum = |seed: (u32, u32), bytes: &[u8]| {
            bytes.chunks(8).fold(seed, |(a, b), pair| {
                let word = |at| u32::from_be_bytes(pair[at..at + 4].try_into().unwrap());
                let a = a.wrapping_add(word(0)).wrapping_add(b);
                (a, b.wrapping_add(word(4)).wrapping_add(a))
            })
        };
        let set = |bytes: &mut [u8], sum: (u32, u32)| {
            bytes[..4].copy_from_slice(&sum.0.to_be_bytes());
            bytes[4..8].copy_from_slice(&sum.1.to_be_bytes());
        };
        self.log[3] |= 1;
        let mut running = sum((0, 0), &self.log[..24]);
        set(&mut self.log[24..32], running);
        for frame in self.log[HEADER_BYTES..].chunks_mut(FRAME_BYTES) {
            running = sum(sum(running, &frame[..8]), &frame[24..]);
            set(&mut frame[16..24], running);
        }
    }
}

fn rows(connection: &Connection) -> u64 {
    connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn flipped(log: &[u8], byte: usize, bit: usize) -> Vec<u8> {
    let mut log = log.to_vec();
    log[byte] ^= 1 << bit;
    log
}

#[test]
fn what_a_killed_process_leaves_is_sound() {
    for fresh in [TRANSACTIONS, 3, 1] {
        let crashed = Crashed::new(fresh);
        for index in [true, false] {
            let state = crashed.examine(&crashed.log, index);
            assert_eq!(state, LogState::Sound { frames: crashed.frames() });
            assert_eq!(crashed.open(&crashed.log, index), Some(TRANSACTIONS));
        }
    }
}

/// Any flipped bit of what is in use is found without the index, in the last transaction too; any other is harmless.
#[test]
fn every_flipped_bit_is_found_where_it_is() {
    let mut swapped = Crashed::new(TRANSACTIONS);
    swapped.swap_endianness();
    assert_eq!(swapped.open(&swapped.log, false), Some(TRANSACTIONS), "as SQLite reads it");
    let mut numbers = Numbers(1);
    for crashed in [Crashed::new(TRANSACTIONS), Crashed::new(3), Crashed::new(1), swapped] {
        for byte in 0..crashed.log.len() {
            // All bits of the headers, and one of most bytes of the pages.
            let in_page = byte >= HEADER_BYTES && (byte - HEADER_BYTES) % FRAME_BYTES >= 24;
            if in_page && !byte.is_multiple_of(5) {
                continue;
            }
            for bit in if in_page { numbers.below(8)..numbers.below(8) + 1 } else { 0..8 } {
                match crashed.examine(&flipped(&crashed.log, byte, bit), false) {
                    LogState::Damaged(damage) if byte < crashed.live() => {
                        let frame = byte.checked_sub(HEADER_BYTES).map(|behind| (behind / FRAME_BYTES) as u64);
                        assert_eq!(damage.offset, frame.map_or(0, Crashed::at) as u64, "byte {byte}, bit {bit}");
                    }
                    LogState::Sound { frames } if byte >= crashed.live() => assert_eq!(frames, crashed.frames()),
                    state => panic!("byte {byte}, bit {bit}: {state:?}"),
                }
            }
        }
    }
}

#[test]
fn sqlite_never_opens_a_log_with_a_flipped_bit_and_loses_rows() {
    let mut numbers = Numbers(2);
    let crashed = Crashed::new(5);
    for _ in 0..60 {
        let log = flipped(&crashed.log, numbers.below(crashed.log.len()), numbers.below(8));
        let index = numbers.below(2) == 0;
        assert!(matches!(crashed.open(&log, index), None | Some(TRANSACTIONS)));
    }
}

/// More than a bit: found through what follows, and in the last transactions through the index.
#[test]
fn larger_damage_to_committed_frames_is_found() {
    let crashed = Crashed::new(TRANSACTIONS);
    let mut numbers = Numbers(3);
    for _ in 0..400 {
        let with_index = numbers.below(2) == 0;
        let followed = Crashed::at(crashed.ends[crashed.ends.len() - 3]);
        let end = if with_index { crashed.live() } else { followed };
        let mut log = crashed.log.clone();
        let start = numbers.below(end);
        for byte in &mut log[start..(start + 1 + numbers.below(600)).min(end)] {
            *byte = numbers.below(256) as u8;
        }
        if log == crashed.log {
            continue;
        }
        let state = crashed.examine(&log, with_index);
        assert!(matches!(state, LogState::Damaged(_)), "from byte {start}, index {with_index}: {state:?}");
    }
}

#[test]
fn a_log_that_is_cut_off_anywhere_starts() {
    for crashed in [Crashed::new(TRANSACTIONS), Crashed::new(3)] {
        for bytes in (0..crashed.log.len()).filter(|bytes| *bytes < 40 || bytes % 11 == 0) {
            let frames = (bytes.saturating_sub(HEADER_BYTES) / FRAME_BYTES) as u64;
            let committed = crashed.ends.iter().copied().filter(|end| *end <= frames).max().unwrap_or(0);
            let log = &crashed.log[..bytes];
            assert_eq!(crashed.examine(log, false), LogState::Sound { frames: committed }, "{bytes} bytes");
            let counted = crashed.examine(log, true);
            if frames < crashed.frames() && bytes >= HEADER_BYTES {
                assert_eq!(counted, LogState::Truncated { frames: committed, committed: crashed.frames() });
            } else {
                assert!(!matches!(counted, LogState::Damaged(_)), "{bytes} bytes: {counted:?}");
            }
        }
        for bytes in [0, 31, 32, 600, crashed.live() - 1] {
            let there = crashed.open(&crashed.log[..bytes], true).unwrap();
            let lost = crashed.ends.iter().filter(|end| Crashed::at(**end) > bytes).count() as u64;
            assert_eq!(there, TRANSACTIONS - lost);
        }
    }
}

/// Of the last transaction, a power cut keeps any of its sectors: the others are as they were before, or empty.
#[test]
fn a_torn_last_transaction_starts() {
    const SECTOR_BYTES: usize = 512;
    let mut numbers = Numbers(4);
    for fresh in [TRANSACTIONS, 4, 2] {
        let crashed = Crashed::new(fresh);
        let before = Crashed::new(fresh);
        let from = Crashed::at(crashed.before_last());
        for round in 0..300 {
            let mut log = crashed.log.clone();
            let sectors = from / SECTOR_BYTES..crashed.live().div_ceil(SECTOR_BYTES);
            for sector in sectors {
                let bytes = (sector * SECTOR_BYTES).max(from)..((sector + 1) * SECTOR_BYTES).min(crashed.live());
                match numbers.below(3) {
                    0 => log[bytes].fill(0),
                    // Of another log of the same shape: what was there before.
                    1 => log[bytes.clone()].copy_from_slice(&before.log[bytes]),
                    _ => {}
                }
            }
            let state = crashed.examine(&log, false);
            let all = log == crashed.log;
            let frames = if all { crashed.frames() } else { crashed.before_last() };
            assert_eq!(state, LogState::Sound { frames });
            if round % 30 == 0 {
                assert_eq!(crashed.open(&log, false), Some(TRANSACTIONS - u64::from(!all)));
            }
        }
    }
}

/// What a torn transaction leaves behind the next ones is not taken for theirs.
#[test]
fn the_remains_of_a_torn_transaction_are_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let connection = open_writer_with_pages(&path, PAGE_BYTES as u32).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(n INTEGER PRIMARY KEY, b BLOB)").unwrap();
    let log_path = log::beside(&path, "-wal");
    let sound = fs::metadata(&log_path).unwrap().len() as usize;
    connection.execute("INSERT INTO t VALUES (0, randomblob(9000))", []).unwrap();
    let (database, mut log) = (fs::read(&path).unwrap(), fs::read(&log_path).unwrap());
    drop(connection);
    log[sound + 30..sound + 300].fill(0);
    fs::write(&path, database).unwrap();
    fs::write(&log_path, log).unwrap();
    for n in 1..4 {
        let connection = open_writer(&path).unwrap();
        connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
        connection.execute("INSERT INTO t VALUES (?1, randomblob(100))", [n]).unwrap();
        assert_eq!(rows(&connection), n);
        let (database, log) = (fs::read(&path).unwrap(), fs::read(&log_path).unwrap());
        drop(connection);
        fs::write(&path, database).unwrap();
        fs::write(&log_path, log).unwrap();
    }
    assert_eq!(rows(&open_writer(&path).unwrap()), 3);
}

#[test]
fn a_log_without_its_file_is_kept() {
    let crashed = Crashed::new(TRANSACTIONS);
    let dir = tempfile::tempdir().unwrap();
    let path = crashed.put(dir.path(), &crashed.log, false);
    for left in [false, true] {
        match left {
            true => fs::write(&path, b"").unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
        let error = open_writer(&path).unwrap_err();
        assert_eq!(fault(&error), Fault::Corrupt);
        assert!(error.to_string().contains("the file is missing or empty"), "{error}");
    }
    crashed.put(dir.path(), &crashed.log, false);
    assert_eq!(rows(&open_writer(&path).unwrap()), TRANSACTIONS);
}

#[test]
fn a_damaged_tree_of_pages_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let connection = open_writer(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, b BLOB)").unwrap();
    for n in 0..200 {
        connection.execute("INSERT INTO t VALUES (?1, randomblob(900))", [n]).unwrap();
    }
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let page = 4_096 * 20;
    // The number of cells of a leaf, and where they begin.
    bytes[page + 3] ^= 0x40;
    bytes[page + 5] ^= 0x08;
    fs::write(&path, bytes).unwrap();
    let error = open_writer(&path).unwrap_err();
    assert_eq!(fault(&error), Fault::Corrupt);
    assert!(error.to_string().contains("pages are damaged"), "{error}");
}

#[test]
fn a_long_log_is_read_in_little_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let connection = open_writer_with_pages(&path, 16 << 10).unwrap();
    connection.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE t(b BLOB)").unwrap();
    for _ in 0..64 {
        connection.execute("INSERT INTO t VALUES (zeroblob(1000000))", []).unwrap();
    }
    let started = std::time::Instant::now();
    let state = log::examine(&path).unwrap();
    println!("64 MB of log in {:?}", started.elapsed());
    assert!(matches!(state, LogState::Sound { frames } if frames > 3_900), "{state:?}");
}

/// A crash after a checkpoint that a reader held up: the first transactions are in the file, all are in the log.
fn half_copied(copied: usize) -> Crashed {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.db");
    let connection = open_writer_with_pages(&path, PAGE_BYTES as u32).unwrap();
    connection.execute_batch("CREATE TABLE t(n INTEGER PRIMARY KEY, b BLOB); PRAGMA wal_autocheckpoint = 0").unwrap();
    connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    let reader = open_reader(&path).unwrap();
    let mut ends = Vec::new();
    for n in 0..TRANSACTIONS {
        connection.execute("INSERT INTO t VALUES (?1, randomblob(700))", [n]).unwrap();
        ends.push(connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get::<_, u64>(1)).unwrap());
        if n + 1 == copied as u64 {
            reader.execute_batch("BEGIN").unwrap();
            assert_eq!(rows(&reader), n + 1);
        }
    }
    let in_file = connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, u64>(2)).unwrap();
    assert_eq!(in_file, ends[copied - 1]);
    let read = |ending| fs::read(log::beside(&path, ending)).unwrap();
    Crashed { database: read(""), log: read("-wal"), index: read("-shm"), ends }
}

/// Rows of a file that is whole.
fn whole_rows(connection: &Connection) -> u64 {
    let checked: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(checked, "ok");
    rows(connection)
}

/// What is not to be advised, since it leaves a file that is whole nowhere.
fn names_no_way(text: &str) -> bool {
    !text.contains("truncate") && !text.contains("`rm ") && text.contains("snapshot")
}

#[test]
fn older_pages_of_a_log_are_never_laid_over_a_newer_file() {
    for copied in [2, 4, TRANSACTIONS as usize] {
        let crashed = half_copied(copied);
        let (in_file, all) = (crashed.ends[copied - 1], crashed.frames());
        let (mut refused, mut opened) = (0, 0);
        for frames in 0..all {
            let bytes = if frames == 0 { 0 } else { Crashed::at(frames) };
            let dir = tempfile::tempdir().unwrap();
            let path = crashed.put(dir.path(), &crashed.log[..bytes], true);
            let kept = crashed.ends.iter().copied().filter(|end| *end <= frames).max().unwrap_or(0);
            let what = format!("{frames} of {all} frames, {kept} whole, {in_file} in the file");
            match open_writer(&path) {
                Ok(connection) => {
                    let whole = if frames == 0 && in_file == all { all } else { kept };
                    assert!(whole >= in_file, "{what}");
                    assert_eq!(
                        whole_rows(&connection),
                        crashed.ends.iter().filter(|end| **end <= whole).count() as u64
                    );
                    assert_eq!(losses(&path).is_some_and(|text| text.contains(" are left")), whole < all, "{what}");
                    opened += 1;
                }
                Err(error) if in_file == all => {
                    assert!(kept < in_file && error.to_string().contains("`rm "), "{what}: {error}");
                    fs::remove_file(log::beside(&path, "-wal")).unwrap();
                    assert_eq!(whole_rows(&open_writer(&path).unwrap()), TRANSACTIONS, "{what}");
                    assert_eq!(losses(&path), None);
                    refused += 1;
                }
                Err(error) => {
                    assert!(kept < in_file && names_no_way(&error.to_string()), "{what}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 2 && opened > 0, "{refused} refused, {opened} opened");
    }
}

#[test]
fn the_advice_for_a_damaged_log_fits_what_is_in_the_file() {
    const COPIED: usize = 4;
    let crashed = half_copied(COPIED);
    let in_file = crashed.ends[COPIED - 1];
    for frame in [0, in_file / 2, in_file - 1, in_file, in_file + 1, crashed.frames() - 1] {
        let log = flipped(&crashed.log, Crashed::at(frame) + 300, 3);
        let dir = tempfile::tempdir().unwrap();
        let path = crashed.put(dir.path(), &log, true);
        let text = open_writer(&path).unwrap_err().to_string();
        if frame < in_file {
            assert!(names_no_way(&text), "{frame}: {text}");
            continue;
        }
        let offset: u64 = text.split("truncate -s ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        fs::File::options().write(true).open(log::beside(&path, "-wal")).unwrap().set_len(offset).unwrap();
        assert!(whole_rows(&open_writer(&path).unwrap()) >= COPIED as u64, "{frame}");
        // It is told until somebody says that it is seen.
        drop(open_writer(&path).unwrap());
        assert!(losses(&path).unwrap().contains("a.db-lost once that is seen"));
        fs::remove_file(log::beside(&path, "-lost")).unwrap();
        assert_eq!(losses(&path), None);
    }
    // Without an index nobody knows, and it is said.
    let dir = tempfile::tempdir().unwrap();
    let path = crashed.put(dir.path(), &flipped(&crashed.log, Crashed::at(1) + 300, 3), false);
    let text = open_writer(&path).unwrap_err().to_string();
    assert!(text.contains("truncate") && text.contains("is not known"), "{text}");
}

#[test]
fn a_log_that_was_being_copied_cannot_be_given_up() {
    let mut crashed = half_copied(4);
    // The last frame that the checkpoint had begun to copy.
    let all = u32::try_from(crashed.frames()).unwrap();
    crashed.index[128..132].copy_from_slice(&all.to_ne_bytes());
    let logs = [&crashed.log[..Crashed::at(3)], &crashed.log[..Crashed::at(crashed.ends[5])], &[]];
    for log in logs.into_iter().map(<[u8]>::to_vec).chain([flipped(&crashed.log, Crashed::at(2) + 99, 1)]) {
        let dir = tempfile::tempdir().unwrap();
        let text = open_writer(&crashed.put(dir.path(), &log, true)).unwrap_err().to_string();
        assert!(names_no_way(&text), "{text}");
    }
    assert_eq!(crashed.open(&crashed.log, true), Some(TRANSACTIONS), "whole, it is taken in again");
}
