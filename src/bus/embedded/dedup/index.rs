//! The message ids seen within the window: exact, durable, bounded in memory.
//!
//! The row of a committed group holds the keys of its messages, so they are durable in the same transaction. In memory,
//! recent keys are a hash table. A full table is frozen, sorted in the background, and written as an immutable run of
//! blocks with the following commits; until the run is complete, a restart reads the rows of the groups. Runs expire
//! with the window.
//!
//! Invariant: a key is known if and only if a successful commit stored it within the window; keys marked by a failed
//! transaction are undone. Knows nothing of subjects or consumers.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::key::{DedupEntry, DedupKey, seconds};
use super::sorted_run::{self, BuiltRun, RunIndex};

/// Keys in memory at which the table is frozen. A group can add some 100,000 before the check, and the table doubles at
/// 917,504.
const RECENT_KEYS_MAX: usize = 750_000;
/// Blocks written to a run, or deleted from an expired run, with each commit.
const BLOCKS_PER_COMMIT: usize = 256;
/// The block ids of run `n` begin at `n << RUN_SHIFT`.
const RUN_SHIFT: u32 = 24;

/// Keys are already hashes.
#[derive(Clone, Copy, Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

pub(super) type Keys = HashMap<DedupKey, DedupEntry, BuildHasherDefault<KeyHasher>>;

pub(crate) struct Dedup {
    window_s: u32,
    pub(super) keys_max: usize,
    pub(super) recent: Keys,
    /// The time of the newest key in `recent`, in seconds.
    recent_newest_s: u32,
    /// Keys that the current transaction put into `recent`, with their previous entries.
    undo: Vec<(DedupKey, Option<DedupEntry>)>,
    pub(super) frozen: Option<Frozen>,
    /// Complete runs, oldest first.
    pub(super) runs: Vec<SortedRun>,
    next_run: i64,
    /// All keys of groups up to this sequence are in complete runs.
    covered: u64,
    /// Block ids of expired runs that must still be deleted.
    pub(super) expired_blocks: Vec<std::ops::Range<i64>>,
    staged: Staged,
}

/// Keys being moved into a run.
pub(super) struct Frozen {
    run: i64,
    keys: Arc<Keys>,
    last_sequence: u64,
    stage: Stage,
    /// By how much the clock was set since they were frozen.
    set_by_s: i32,
}

enum Stage {
    Sorting(JoinHandle<BuiltRun>),
    Writing {
        built: BuiltRun,
        written: usize,
    },
    /// Only during the transition between two stages.
    Between,
}

pub(super) struct SortedRun {
    run: i64,
    newest_s: u32,
    index: RunIndex,
    /// By how much the clock was set since its keys were seen.
    set_by_s: i32,
}

impl SortedRun {
    fn newest_s(&self) -> u32 {
        self.newest_s.saturating_add_signed(self.set_by_s)
    }
}

/// Changes of the current transaction to the runs; they apply once it is committed.
#[derive(Default)]
struct Staged {
    written: usize,
    complete: bool,
    expired: bool,
    swept: usize,
}

impl Dedup {
    /// Loads complete runs and the groups after them from the file. `now_s` is in seconds.
    pub(crate) fn open(connection: &Connection, window_s: u32, now_s: u32) -> rusqlite::Result<Self> {
        let mut dedup = Self {
            window_s,
            keys_max: RECENT_KEYS_MAX,
            recent: Keys::default(),
            recent_newest_s: 0,
            undo: Vec::new(),
            frozen: None,
            runs: Vec::new(),
            next_run: 1,
            covered: 0,
            expired_blocks: Vec::new(),
            staged: Staged::default(),
        };
        dedup.load_runs(connection)?;
        dedup.load_recent(connection, now_s)?;
        Ok(dedup)
    }

    fn load_runs(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement =
            connection.prepare("SELECT run, newest_s, last_sequence, fences, filter FROM dedup_runs ORDER BY run")?;
        let mut rows = statement.query([])?;
        let mut end_of_live = 0;
        while let Some(row) = rows.next()? {
            let run: i64 = row.get(0)?;
            let (index_keys, filter) = (row.get_ref(3)?.as_blob()?, row.get_ref(4)?.as_blob()?);
            let Some(index) = RunIndex::decode(index_keys, filter) else {
                return Err(rusqlite::Error::InvalidColumnType(3, "fences".into(), rusqlite::types::Type::Blob));
            };
            self.expired_blocks.push(end_of_live..run << RUN_SHIFT);
            end_of_live = (run + 1) << RUN_SHIFT;
            self.next_run = run + 1;
            self.covered = row.get(2)?;
            self.runs.push(SortedRun { run, newest_s: row.get(1)?, index, set_by_s: 0 });
        }
        // Including those of a run that was incomplete when the process ended: its ids are reused.
        connection.execute("DELETE FROM dedup_blocks WHERE id >= ?1", [end_of_live])?;
        Ok(())
    }

    fn load_recent(&mut self, connection: &Connection, now_s: u32) -> rusqlite::Result<()> {
        let mut statement = connection.prepare(
            "SELECT published_at_ms, keys, first_sequence FROM groups WHERE first_sequence > ?1 AND length(keys) > 0",
        )?;
        let mut rows = statement.query([self.covered])?;
        while let Some(row) = rows.next()? {
            let published_s = seconds(row.get(0)?);
            if self.counts(published_s, now_s) {
                let (keys, _) = row.get_ref(1)?.as_blob()?.as_chunks::<16>();
                self.recent_newest_s = self.recent_newest_s.max(published_s);
                let seen = DedupEntry::new(published_s, row.get(2)?);
                self.recent.extend(keys.iter().map(|key| (DedupKey(*key), seen)));
            }
        }
        Ok(())
    }

    fn counts(&self, published_s: u32, now_s: u32) -> bool {
        now_s.saturating_sub(published_s) <= self.window_s
    }

    /// The entry of a key that was seen within the window. Otherwise marks the key as seen, now and in this group.
    pub(crate) fn seen(
        &mut self,
        connection: &Connection,
        key: &DedupKey,
        (now_s, group): (u32, u64),
    ) -> rusqlite::Result<Option<DedupEntry>> {
        let before = self.recent.get(key).copied();
        if before.is_some_and(|seen| self.counts(seen.published_s, now_s)) {
            return Ok(before);
        }
        if before.is_none()
            && let Some(seen) = self.in_runs(connection, key, now_s)?
        {
            return Ok(Some(seen));
        }
        self.recent_newest_s = self.recent_newest_s.max(now_s);
        self.recent.insert(*key, DedupEntry::new(now_s, group));
        self.undo.push((*key, before));
        Ok(None)
    }

    fn in_runs(&self, connection: &Connection, key: &DedupKey, now_s: u32) -> rusqlite::Result<Option<DedupEntry>> {
        if let Some(frozen) = &self.frozen
            && let Some(seen) = frozen.keys.get(key)
            && self.counts(seen.published_s.saturating_add_signed(frozen.set_by_s), now_s)
        {
            return Ok(Some(*seen));
        }
        for run in self.runs.iter().rev().filter(|run| self.counts(run.newest_s(), now_s)) {
            let Some(block) = run.index.candidate(key) else { continue };
            let mut statement = connection.prepare_cached("SELECT keys FROM dedup_blocks WHERE id = ?1")?;
            let found = statement.query_row([block_id(run.run, block)], |row| {
                Ok(row.get_ref(0)?.as_blob().map(|block| sorted_run::find_in_block(block, key))?)
            })?;
            let published_s = |seen: DedupEntry| seen.published_s.saturating_add_signed(run.set_by_s);
            if found.is_some_and(|seen| self.counts(published_s(seen), now_s)) {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Writes pending blocks, a bounded number at a time, in the current transaction.
    pub(crate) fn maintain(&mut self, connection: &Connection, now_s: u32) -> rusqlite::Result<()> {
        let behind = self.recent.len() >= self.keys_max;
        self.write_frozen(connection, if behind { usize::MAX } else { BLOCKS_PER_COMMIT })?;
        if self.runs.first().is_some_and(|run| !self.counts(run.newest_s(), now_s)) {
            connection.execute("DELETE FROM dedup_runs WHERE run = ?1", [self.runs[0].run])?;
            self.staged.expired = true;
        }
        self.sweep(connection)
    }

    /// Deletes blocks of expired runs. SQLite is built without `LIMIT` for deletes, hence the range of ids.
    fn sweep(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let Some(ids) = self.expired_blocks.last() else { return Ok(()) };
        let first = "SELECT min(id) FROM dedup_blocks WHERE id >= ?1 AND id < ?2";
        let first: Option<i64> = connection.prepare_cached(first)?.query_row([ids.start, ids.end], |row| row.get(0))?;
        let Some(first) = first else {
            self.staged.swept = 1;
            return Ok(());
        };
        let end = ids.end.min(first + BLOCKS_PER_COMMIT as i64);
        connection.prepare_cached("DELETE FROM dedup_blocks WHERE id >= ?1 AND id < ?2")?.execute([first, end])?;
        Ok(())
    }

    fn write_frozen(&mut self, connection: &Connection, blocks_max: usize) -> rusqlite::Result<()> {
        let Some(frozen) = &mut self.frozen else { return Ok(()) };
        if matches!(&frozen.stage, Stage::Sorting(sorting) if sorting.is_finished() || blocks_max == usize::MAX)
            && let Stage::Sorting(sorting) = std::mem::replace(&mut frozen.stage, Stage::Between)
        {
            let built = sorting.join().unwrap_or_else(|_| sort(&frozen.keys));
            frozen.stage = Stage::Writing { built, written: 0 };
        }
        let Stage::Writing { built, written } = &frozen.stage else { return Ok(()) };
        if self.staged.complete {
            return Ok(());
        }
        let mut insert = connection.prepare_cached("INSERT INTO dedup_blocks(id, keys) VALUES (?1, ?2)")?;
        for (at, block) in built.blocks().enumerate().skip(written + self.staged.written).take(blocks_max) {
            insert.execute((block_id(frozen.run, at), block))?;
            self.staged.written += 1;
        }
        if written + self.staged.written == built.blocks().len() {
            let newest_s = newest_s(&frozen.keys);
            let (index_keys, filter) = built.index.encode();
            connection.execute(
                "INSERT INTO dedup_runs(run, newest_s, last_sequence, fences, filter) VALUES (?1, ?2, ?3, ?4, ?5)",
                (frozen.run, newest_s, frozen.last_sequence, index_keys, filter),
            )?;
            self.staged.complete = true;
        }
        Ok(())
    }

    /// The current transaction is committed; its groups reach up to `last_sequence`.
    pub(crate) fn committed(&mut self, last_sequence: u64, now_s: u32) {
        self.undo.clear();
        let staged = std::mem::take(&mut self.staged);
        if staged.expired {
            let run = self.runs.remove(0).run;
            self.expired_blocks.push(run << RUN_SHIFT..(run + 1) << RUN_SHIFT);
        } else if staged.swept > 0 {
            self.expired_blocks.pop();
        }
        if let Some(Frozen { stage: Stage::Writing { written, .. }, .. }) = &mut self.frozen {
            *written += staged.written;
        }
        if staged.complete
            && let Some(Frozen { run, keys, last_sequence, stage: Stage::Writing { built, .. }, set_by_s }) =
                self.frozen.take()
        {
            let newest_s = newest_s(&keys);
            self.runs.push(SortedRun { run, newest_s, index: built.index, set_by_s });
            self.covered = last_sequence;
        }
        if self.recent.len() >= self.keys_max && self.frozen.is_none() {
            self.forget_old(now_s);
            if self.recent.len() >= self.keys_max / 2 {
                self.freeze(last_sequence);
            }
        }
    }

    /// The wall clock was set by `step_ms`: entries keep their ages. Called between transactions.
    pub(crate) fn clock_was_set(&mut self, step_ms: i64) {
        let step_s = i32::try_from(step_ms / 1_000).unwrap_or(if step_ms < 0 { i32::MIN } else { i32::MAX });
        for seen in self.recent.values_mut() {
            seen.published_s = seen.published_s.saturating_add_signed(step_s);
        }
        self.recent_newest_s = self.recent_newest_s.saturating_add_signed(step_s);
        let set_by_s = self.frozen.iter_mut().map(|frozen| &mut frozen.set_by_s);
        for set_by_s in set_by_s.chain(self.runs.iter_mut().map(|run| &mut run.set_by_s)) {
            *set_by_s = set_by_s.saturating_add(step_s);
        }
    }

    /// Frees the memory once no key in it counts any more. Called between transactions.
    pub(crate) fn rest(&mut self, now_s: u32) {
        if self.undo.is_empty() && !self.counts(self.recent_newest_s, now_s) {
            self.recent = Keys::default();
        }
    }

    fn forget_old(&mut self, now_s: u32) {
        let window_s = self.window_s;
        self.recent.retain(|_, seen| now_s.saturating_sub(seen.published_s) <= window_s);
    }

    fn freeze(&mut self, last_sequence: u64) {
        // Traffic that filled the table once will fill it again, so it does not grow step by step.
        let fresh = Keys::with_capacity_and_hasher(self.recent.len(), BuildHasherDefault::default());
        let keys = Arc::new(std::mem::replace(&mut self.recent, fresh));
        let sorted = keys.clone();
        let spawned = std::thread::Builder::new().name("bus-dedup".into()).spawn(move || sort(&sorted));
        let stage = match spawned {
            Ok(sorting) => Stage::Sorting(sorting),
            Err(_) => Stage::Writing { built: sort(&keys), written: 0 },
        };
        self.frozen = Some(Frozen { run: self.next_run, keys, last_sequence, stage, set_by_s: 0 });
        self.next_run += 1;
    }

    /// The current transaction failed: its keys are forgotten.
    pub(crate) fn rolled_back(&mut self) {
        self.staged = Staged::default();
        for (key, before) in self.undo.drain(..).rev() {
            match before {
                Some(seen) => self.recent.insert(key, seen),
                None => self.recent.remove(&key),
            };
        }
    }

    /// Whether the keys of the group outlive its row.
    pub(crate) fn covers(&self, last_sequence: u64, published_at_ms: i64, now_s: u32) -> bool {
        last_sequence <= self.covered || !self.counts(seconds(published_at_ms), now_s)
    }

    /// The last sequence up to which `move_to_run` can take the keys in one transaction.
    pub(crate) fn coverable(&self) -> u64 {
        self.frozen.as_ref().map_or(u64::MAX, |frozen| frozen.last_sequence)
    }

    /// Moves keys into a run, up to `last_sequence` or as far as `coverable` allows. The current transaction must not
    /// have marked any.
    pub(crate) fn move_to_run(&mut self, connection: &Connection, last_sequence: u64) -> rusqlite::Result<()> {
        if self.frozen.is_none() && !self.recent.is_empty() {
            self.freeze(last_sequence);
        }
        self.write_frozen(connection, usize::MAX)
    }
}

fn sort(keys: &Keys) -> BuiltRun {
    BuiltRun::new(keys.iter().map(|(key, seen)| (*key, *seen)))
}

fn newest_s(keys: &Keys) -> u32 {
    keys.values().map(|seen| seen.published_s).max().unwrap_or_default()
}

fn block_id(run: i64, block: usize) -> i64 {
    (run << RUN_SHIFT) + block as i64
}
