//! Tests of deduplication on a real file.

use rusqlite::Connection;

use super::index::Dedup;
use super::key::DedupKey;
use crate::bus::Batch;
use crate::bus::embedded::file;
use crate::bus::embedded::group::Draft;
use crate::bus::embedded::pack::Packer;

const WINDOW_S: u32 = 600;

struct Stream {
    connection: Connection,
    dedup: Dedup,
    next_sequence: u64,
    _dir: tempfile::TempDir,
}

impl Stream {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let connection = file::open(&file::path(dir.path())).unwrap();
        let mut dedup = Dedup::open(&connection, WINDOW_S, 0).unwrap();
        dedup.keys_max = 1_000;
        Self { connection, dedup, next_sequence: 1, _dir: dir }
    }

    fn reopen(&mut self, now_s: u32) {
        self.dedup = Dedup::open(&self.connection, WINDOW_S, now_s).unwrap();
        self.dedup.keys_max = 1_000;
    }

    /// Publishes keys as one group. Returns how many of them are new.
    fn publish(&mut self, keys: std::ops::Range<u32>, now_s: u32, commit: bool) -> usize {
        self.connection.execute_batch("BEGIN").unwrap();
        let mut draft = Draft::new(self.next_sequence, i64::from(now_s) * 1_000);
        for n in keys {
            let key = DedupKey::of(&n.to_le_bytes());
            let at = (now_s, self.next_sequence);
            if let Some(seen) = self.dedup.seen(&self.connection, &key, at).unwrap() {
                assert!(seen.group() > 0 && seen.group() <= self.next_sequence);
            } else {
                let mut batch = Batch::new();
                batch.push("a", Some("id"), |_| {});
                let parts = batch.into_parts();
                draft.extend(&parts.records, 0, &parts.ends, parts.subject_prefix);
                draft.push_key(&key);
            }
        }
        if draft.len() > 0 {
            file::insert_group(&self.connection, &draft, &mut Packer::new().unwrap()).unwrap();
        }
        self.dedup.maintain(&self.connection, now_s).unwrap();
        if commit {
            self.connection.execute_batch("COMMIT").unwrap();
            self.next_sequence = draft.next_sequence();
            self.dedup.committed(self.next_sequence - 1, now_s);
        } else {
            self.connection.execute_batch("ROLLBACK").unwrap();
            self.dedup.rolled_back();
        }
        draft.len()
    }

    fn blocks(&self) -> usize {
        self.connection.query_row("SELECT count(*) FROM dedup_blocks", [], |row| row.get(0)).unwrap()
    }
}

#[test]
fn keys_are_known_wherever_they_are() {
    let mut stream = Stream::new();
    for group in 0..40 {
        let fresh = group * 137..(group + 1) * 137;
        assert_eq!(stream.publish(fresh.clone(), 1_000, true), 137);
        assert_eq!(stream.publish(fresh, 1_000, true), 0);
    }
    while stream.dedup.frozen.is_some() {
        stream.publish(0..0, 1_000, true);
    }
    assert!(stream.dedup.runs.len() >= 2, "{} runs", stream.dedup.runs.len());
    assert!(stream.dedup.recent.len() < 1_200);
    assert_eq!(stream.publish(0..5_480, 1_600, true), 0, "in runs and in memory");
    stream.reopen(1_600);
    assert_eq!(stream.publish(0..5_480, 1_600, true), 0, "and after a start");
    assert_eq!(stream.publish(5_400..5_500, 1_600, true), 20);
}

#[test]
fn keys_older_than_the_window_are_forgotten_and_their_runs_deleted() {
    let mut stream = Stream::new();
    for group in 0..20 {
        stream.publish(group * 200..(group + 1) * 200, 1_000 + group, true);
    }
    while stream.dedup.frozen.is_some() {
        stream.publish(0..0, 1_020, true);
    }
    assert!(stream.blocks() > 0 && !stream.dedup.runs.is_empty());
    assert_eq!(stream.publish(0..200, 1_600, true), 0);
    assert_eq!(stream.publish(0..400, 1_601, true), 200, "exact to the second, also within a run");
    for _ in 0..100 {
        stream.publish(0..0, 3_000, true);
    }
    stream.dedup.rest(3_000);
    assert_eq!(stream.dedup.recent.capacity(), 0);
    assert_eq!((stream.dedup.runs.len(), stream.blocks(), stream.dedup.expired_blocks.len()), (0, 0, 0));
    assert_eq!(stream.publish(0..4_000, 3_000, true), 4_000);
}

#[test]
fn keys_keep_their_age_when_the_clock_is_set() {
    /// Keys in a run, being moved into one, and in memory; `None` when the sorting thread was too fast for that.
    fn in_all_three() -> Option<Stream> {
        let mut stream = Stream::new();
        stream.publish(0..1_000, 20_000, true);
        while stream.dedup.frozen.is_some() {
            stream.publish(0..0, 20_000, true);
        }
        stream.publish(1_000..2_000, 20_000, true);
        stream.publish(2_000..2_500, 20_000, true);
        let dedup = &stream.dedup;
        (dedup.runs.len() == 1 && dedup.frozen.is_some() && !dedup.recent.is_empty()).then_some(stream)
    }
    for step_s in [10_800_i64, -10_800] {
        let mut stream = (0..1_000).find_map(|_| in_all_three()).unwrap();
        let at = |now_s: i64| u32::try_from(now_s).unwrap();
        stream.dedup.clock_was_set(step_s * 1_000);
        assert_eq!(stream.publish(0..2_500, at(20_600 + step_s), true), 0, "set by {step_s} s");
        while stream.dedup.frozen.is_some() {
            stream.publish(0..0, at(20_600 + step_s), true);
        }
        assert_eq!(stream.publish(0..2_500, at(20_600 + step_s), true), 0, "all in runs or in memory");
        assert_eq!(stream.publish(0..2_500, at(20_601 + step_s), true), 2_500, "to the second");
    }
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    let mut stream = Stream::new();
    stream.publish(0..900, 1_000, true);
    assert_eq!(stream.publish(800..1_300, 1_700, false), 500, "all are past the window");
    assert_eq!(stream.publish(0..900, 1_600, true), 0, "the times of before are back");
    assert_eq!(stream.publish(900..1_300, 1_600, true), 400);
    // A run that is being written: its parts fail again and again, but it is complete in the end.
    for _ in 0..50 {
        stream.publish(1_300..1_310, 1_600, false);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert!(stream.dedup.frozen.is_some() && stream.blocks() == 0);
    while stream.dedup.frozen.is_some() {
        stream.publish(0..0, 1_600, true);
    }
    assert_eq!(stream.publish(0..1_300, 1_600, true), 0);
    stream.reopen(1_600);
    assert_eq!(stream.publish(0..1_310, 1_600, true), 10);
}

#[test]
fn covered_keys_outlive_their_groups() {
    let mut stream = Stream::new();
    stream.publish(0..300, 1_000, true);
    assert!(!stream.dedup.covers(300, 1_000_000, 1_000));
    assert!(stream.dedup.covers(300, 1_000_000, 1_601), "past the window nothing is needed");
    stream.connection.execute_batch("BEGIN").unwrap();
    stream.dedup.move_to_run(&stream.connection, 300).unwrap();
    stream.connection.execute_batch("DELETE FROM groups; COMMIT").unwrap();
    stream.dedup.committed(300, 1_000);
    assert!(stream.dedup.covers(300, 1_000_000, 1_000));
    assert_eq!(stream.publish(0..300, 1_000, true), 0);
    stream.reopen(1_000);
    assert_eq!(stream.publish(0..301, 1_000, true), 1);
}
