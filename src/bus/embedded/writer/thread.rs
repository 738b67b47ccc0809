//! The writer thread: takes what is queued, commits it as one transaction, answers.
//!
//! Invariant: nobody is told that something is stored, and nothing in memory says so, before the commit
//! that stores it has returned. A failed commit leaves the memory as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::outcome::{Done, Outcome, StoredPosition};
use crate::base::clock::ClockSteps;
use crate::bus::embedded::checkpoint::Checkpoints;
use crate::bus::embedded::consumer::books;
use crate::bus::embedded::dedup::{Dedup, key};
use crate::bus::embedded::group::Draft;
use crate::bus::embedded::input::InputBytes;
use crate::bus::embedded::pace::{Opening, Pace, Round, Standing};
use crate::bus::embedded::pack::Packer;
use crate::bus::embedded::queue::{Chore, Duplicate, Publish, Purged, Settle, Stored, Work};
use crate::bus::embedded::retention::{self, Needs};
use crate::bus::embedded::shared::{Shared, lock};
use crate::bus::embedded::wipe::Wiping;
use crate::bus::embedded::{dead_letter, file};
use crate::bus::{BusError, BusErrorKind, batch};
use crate::metrics;

/// Bytes of batches in one group. Groups of one size use each other's memory again; the next comes in meanwhile.
const GROUP_BYTES_MAX: usize = 2 << 20;
/// Steps of a purge that a commit waits for when the bus is full.
const STEPS_WHEN_FULL_MAX: usize = 8;
/// What a commit writes to the log beside its data, by estimate.
const COMMIT_OVERHEAD_BYTES: u64 = 64 << 10;

pub(crate) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: Connection,
    pub(super) dedup: Dedup,
    pub(super) clock: ClockSteps,
    pub(super) packer: Packer,
    pub(super) next_sequence: u64,
    pub(super) checkpoints: Checkpoints,
    pub(super) input_bytes: InputBytes,
    pub(super) pace: Pace,
    pub(super) wiping: Wiping,
    /// The files were not at their paths when they were looked for last.
    pub(super) misplaced: bool,
}

pub(crate) fn start(shared: Arc<Shared>, connection: Connection) -> Result<Vec<JoinHandle<()>>, BusError> {
    let window_s = u32::try_from(shared.settings.dedup_window.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
    let clock = ClockSteps::default();
    let dedup = Dedup::open(&connection, window_s, key::seconds(clock.last_ms()))
        .map_err(|error| file::failure(&shared.path, "read message ids", error))?;
    let checkpoints = Checkpoints::start(shared.path.clone(), shared.watch.clone())?;
    let next_sequence = *shared.head.borrow() + 1;
    let packer =
        Packer::new().map_err(|error| BusError::caused(BusErrorKind::Unavailable, "start bus writer", error))?;
    let pace = Pace::default();
    let input_bytes = InputBytes::unknown();
    let writer = Writer {
        shared,
        connection,
        dedup,
        clock,
        packer,
        next_sequence,
        checkpoints,
        input_bytes,
        pace,
        wiping: Wiping::new(),
        misplaced: false,
    };
    let thread = std::thread::Builder::new().name("bus-writer".into()).spawn(move || writer.run());
    let thread = thread.map_err(|error| BusError::caused(BusErrorKind::Unavailable, "start bus writer", error))?;
    Ok(vec![thread])
}

/// Ends the bus when the writer ends, however it ends: a queue that nobody empties must not be waited on.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.queue.abandon();
        self.0.closed.cancel();
    }
}

impl Writer {
    fn run(mut self) {
        let _ending = Ending(self.shared.clone());
        let mut opening = Opening::at_once();
        while let Some(work) = self.shared.queue.take(GROUP_BYTES_MAX, &opening) {
            let (began, batches) = (Instant::now(), work.publishes.len());
            self.round(work);
            if batches > 0 {
                let (gathered, now) = (began.saturating_duration_since(opening.from), Instant::now());
                opening = self.opening(Round { batches, gathered, busy: now - began }, now);
            }
        }
        self.checkpoints.start_over(&self.connection, "TRUNCATE");
    }

    /// When publishers are next served, after a round that ended now.
    fn opening(&mut self, round: Round, now: Instant) -> Opening {
        let middle = lock(&self.shared.tail).middle();
        let consumers = self.shared.each_consumer();
        let next = consumers.iter().map(|consumer| consumer.lock().window().next());
        let standings = next.map(|next| Standing { next, behind: next < middle });
        self.pace.opening(round, now, standings)
    }

    fn round(&mut self, work: Work) {
        let Work { mut publishes, chores } = work;
        let (alone, chores): (Vec<Chore>, Vec<Chore>) =
            chores.into_iter().partition(|chore| matches!(chore, Chore::Purge { .. } | Chore::Wipe { .. }));
        let chores = match self.misplaced {
            true => self.keep_out(&mut publishes, chores),
            false => chores,
        };
        let incoming = publishes.iter().map(|publish| (publish.records.len() + publish.keys.len() * 16) as u64).sum();
        if !publishes.is_empty()
            && let Err(error) = self.make_room(incoming)
        {
            self.refuse(std::mem::take(&mut publishes), &error);
        }
        match self.commit(&publishes, &chores) {
            Ok(outcome) => self.settle(publishes, chores, outcome),
            Err(error) => self.isolate(publishes, chores, error),
        }
        for chore in alone {
            match chore {
                Chore::Purge { reply } => drop(reply.send(self.purge(0))),
                Chore::Wipe { reply } => drop(reply.send(self.wipe())),
                _ => {}
            }
        }
    }

    /// After a commit that failed: tries again in parts, so that one does not fail for the sake of another.
    /// Acknowledgements need less room than messages, and make some.
    fn isolate(&mut self, publishes: Vec<Publish>, chores: Vec<Chore>, error: BusError) {
        let alone = publishes.is_empty() || chores.is_empty();
        if !publishes.is_empty() {
            let again = if alone || error.kind == BusErrorKind::Full {
                Err(error.clone())
            } else {
                self.commit(&publishes, &[])
            };
            match again {
                Ok(outcome) => self.settle(publishes, Vec::new(), outcome),
                Err(error) => self.refuse(publishes, &error),
            }
        }
        let alone = alone && chores.len() == 1;
        for chore in chores {
            let again = if alone { Err(error.clone()) } else { self.commit(&[], std::slice::from_ref(&chore)) };
            match again {
                Ok(outcome) => self.settle(Vec::new(), vec![chore], outcome),
                Err(error) => self.fail(chore, &error),
            }
        }
    }

    /// Stores a group, the chores and the positions that they change, in one transaction, and makes it known to
    /// the consumers.
    fn commit(&mut self, publishes: &[Publish], chores: &[Chore]) -> Result<Outcome, BusError> {
        if publishes.is_empty() && chores.is_empty() {
            return Ok(Outcome::default());
        }
        let began = Instant::now();
        let mut draft = Draft::new(self.next_sequence, self.now_ms());
        let outcome = self.transaction("commit group", |writer| {
            let mut outcome = Outcome::default();
            writer.write_chores(chores, &mut draft, &mut outcome)?;
            writer.write_publishes(publishes, &mut draft, &mut outcome)?;
            writer.write_positions(chores, &mut outcome)?;
            Ok(outcome)
        })?;
        let (messages, bytes) = (draft.len() as u64, outcome.group_bytes as u64);
        if messages > 0 {
            self.next_sequence = draft.next_sequence();
            lock(&self.shared.refused).take();
            lock(&self.shared.tail).push(draft.into_group());
            self.shared.head.send_replace(self.next_sequence - 1);
            metrics::bus_committed(messages, bytes, began.elapsed());
        }
        self.committed(bytes);
        Ok(outcome)
    }

    /// Runs `work` in a transaction; on any failure all of it is undone, in memory too.
    pub(super) fn transaction<T>(
        &mut self,
        context: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        let result = self.execute(context, "BEGIN IMMEDIATE").and_then(|()| work(self)).and_then(|done| {
            let failed = |error| file::failure(&self.shared.path, context, error);
            self.dedup.maintain(&self.connection, key::seconds(self.clock.last_ms())).map_err(failed)?;
            // Asked here, where it needs no lock of its own.
            let used_bytes = file::used_bytes(&self.connection).map_err(failed)?.saturating_sub(self.wiping.bytes);
            self.execute(context, "COMMIT")?;
            self.shared.used_bytes.store(used_bytes, Ordering::Relaxed);
            Ok(done)
        });
        if result.is_err() {
            self.shared.note_damage(result.as_ref().err());
            if !self.connection.is_autocommit()
                && let Err(error) = self.connection.execute_batch("ROLLBACK")
            {
                tracing::error!(%error, "roll back");
            }
            self.dedup.rolled_back();
            self.input_bytes.changed();
        }
        result
    }

    /// What the wall clock shows. When it was set, message ids keep their ages: none is forgotten early.
    pub(super) fn now_ms(&mut self) -> i64 {
        let (now_ms, step_ms) = self.clock.look();
        if step_ms != 0 {
            tracing::info!(step_ms, "the clock was set; message ids are remembered for as long as before");
            self.dedup.clock_was_set(step_ms);
        }
        now_ms
    }

    fn execute(&self, context: &'static str, sql: &'static str) -> Result<(), BusError> {
        let executed = self.connection.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
        executed.map(drop).map_err(|error| file::failure(&self.shared.path, context, error))
    }

    /// After a transaction: its counts, and the log that it lengthened.
    pub(super) fn committed(&mut self, bytes: u64) {
        self.dedup.committed(self.next_sequence - 1, key::seconds(self.clock.last_ms()));
        self.checkpoints.committed(&self.connection, bytes + COMMIT_OVERHEAD_BYTES);
    }

    pub(super) fn write<T>(
        &mut self,
        context: &'static str,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, BusError> {
        work(self).map_err(|error| file::failure(&self.shared.path, context, error))
    }

    fn write_publishes(
        &mut self,
        publishes: &[Publish],
        draft: &mut Draft,
        outcome: &mut Outcome,
    ) -> Result<(), BusError> {
        let now_s = key::seconds(draft.published_at_ms);
        let records = publishes.iter().map(|publish| publish.ends.len()).sum();
        draft.reserve(records, publishes.iter().map(|publish| publish.records.len()).sum());
        for publish in publishes {
            let stored = self.write("look up message ids", |writer| writer.append(publish, draft, now_s))?;
            outcome.stored.push(stored);
        }
        if draft.len() > 0 {
            outcome.group_bytes =
                self.write("write group", |writer| file::insert_group(&writer.connection, draft, &mut writer.packer))?;
        }
        Ok(())
    }

    /// Adds a batch to the group, without the messages that were seen before.
    pub(super) fn append(&mut self, publish: &Publish, draft: &mut Draft, now_s: u32) -> rusqlite::Result<Stored> {
        let mut stored = Stored { first_sequence: draft.next_sequence(), duplicates: Vec::new() };
        if publish.keys.is_empty() {
            draft.extend(&publish.records, 0, &publish.ends, publish.beginning);
            return Ok(stored);
        }
        let mut keys = publish.keys.iter();
        let all_keyed = publish.keys.len() == publish.ends.len();
        // Records from `from` on, which begin at `start`, are not copied yet.
        let (mut from, mut start, mut end) = (0, 0, 0);
        for (index, next_end) in publish.ends.iter().enumerate() {
            let begin = std::mem::replace(&mut end, *next_end);
            let is_keyed = || batch::layout(&publish.records, begin as usize).is_some_and(|l| !l.message_id.is_empty());
            if !all_keyed && !is_keyed() {
                continue;
            }
            let Some(key) = keys.next() else { break };
            if let Some(seen) = self.dedup.seen(&self.connection, key, (now_s, draft.first_sequence))? {
                draft.extend(&publish.records, start, &publish.ends[from..index], publish.beginning);
                (from, start) = (index + 1, end);
                stored.duplicates.push(Duplicate { index: index as u32, group: seen.group(), key: *key });
            } else {
                draft.push_key(key);
            }
        }
        draft.extend(&publish.records, start, &publish.ends[from..], publish.beginning);
        Ok(stored)
    }

    fn write_positions(&mut self, chores: &[Chore], outcome: &mut Outcome) -> Result<(), BusError> {
        for chore in chores {
            let (Chore::Settle(Settle { consumer, .. }) | Chore::Record { consumer, .. }) = chore else { continue };
            if outcome.positions.iter().any(|stored| Arc::ptr_eq(&stored.consumer, consumer)) {
                continue;
            }
            let (position, book) = {
                let mind = consumer.lock();
                (mind.position(), mind.unstored_book())
            };
            self.write("store consumer position", |writer| {
                if let Some(book) = &book {
                    books::store(&writer.connection, &consumer.name, book)?;
                }
                file::update_position(&writer.connection, &consumer.name, &position)
            })?;
            outcome.positions.push(StoredPosition { consumer: consumer.clone(), high: position.high, book });
        }
        Ok(())
    }

    /// Settles in memory what the commit stored, then tells those who wait.
    pub(super) fn answer(&mut self, publishes: Vec<Publish>, chores: Vec<Chore>, outcome: Outcome) {
        for StoredPosition { consumer, high, book } in outcome.positions {
            let mut mind = consumer.lock();
            mind.recorded(high);
            if let Some(book) = book {
                mind.book_stored(&book);
            }
        }
        let duplicates: usize = outcome.stored.iter().map(|stored| stored.duplicates.len()).sum();
        if !publishes.is_empty() {
            metrics::bus_duplicates(duplicates as u64);
        }
        // Whoever published and is gone has no use for the answer; the same below.
        for (publish, stored) in publishes.into_iter().zip(outcome.stored) {
            let _ = publish.reply.send(Ok(stored));
        }
        for (chore, done) in chores.into_iter().zip(outcome.done) {
            match (chore, done) {
                (Chore::Settle(settle), done) => {
                    settle.consumer.lock().settled(&settle.sequences);
                    if let (Some((why, _)), Done::Buried(count)) = (&settle.reason, done) {
                        self.shared.dead_letters.fetch_add(count, Ordering::Relaxed);
                        metrics::bus_dead_lettered(&settle.consumer.name, why.name(), count);
                    }
                    let _ = settle.reply.send(Ok(()));
                }
                (Chore::Refilter { consumer, filter, reply }, _) => {
                    consumer.lock().set_filter(filter);
                    let _ = reply.send(Ok(()));
                }
                (Chore::Record { reply, .. }, _) => drop(reply.send(Ok(()))),
                (Chore::Register { reply, .. }, Done::Sequence(answer)) => drop(reply.send(Ok(answer))),
                (Chore::PurgeDeadLetters { reply, .. }, Done::Sequence(deleted)) => {
                    self.shared.dead_letters_gone(deleted);
                    drop(reply.send(Ok(deleted)));
                }
                (Chore::Replay { reply, .. } | Chore::DeleteDeadLetter { reply, .. }, Done::Flag(flag)) => {
                    self.shared.dead_letters_gone(u64::from(flag));
                    drop(reply.send(Ok(flag)));
                }
                (Chore::KeepInput { reply, .. }, Done::Kept(kept)) => {
                    self.shared.dead_letters.fetch_add(kept.kept as u64, Ordering::Relaxed);
                    drop(reply.send(Ok(kept)));
                }
                (Chore::AmendInput { reply, .. }, Done::Flag(flag)) => drop(reply.send(Ok(flag))),
                (Chore::Resubmit { reply, .. }, Done::Resubmitted(stored)) => {
                    self.shared.dead_letters_gone(u64::from(stored.is_some()));
                    drop(reply.send(Ok(stored)));
                }
                (Chore::Erase { reply, .. }, Done::Erased(groups, messages)) => {
                    self.make_known(&groups);
                    drop(reply.send(Ok(messages)));
                }
                (Chore::Erase { .. } | Chore::Wipe { .. }, _) => {}
                (Chore::Register { .. } | Chore::Replay { .. } | Chore::DeleteDeadLetter { .. }, _) => {}
                (Chore::PurgeDeadLetters { .. } | Chore::Purge { .. }, _) => {}
                (Chore::KeepInput { .. } | Chore::AmendInput { .. } | Chore::Resubmit { .. }, _) => {}
            }
        }
    }

    /// Fails with `Full` when the stream's limit leaves no room and nothing can be purged.
    fn make_room(&mut self, incoming: u64) -> Result<(), BusError> {
        for _ in 0..STEPS_WHEN_FULL_MAX {
            let used = self.shared.used_bytes.load(Ordering::Relaxed);
            if used.saturating_add(incoming) <= self.shared.settings.bytes_max {
                return Ok(());
            }
            let purged = self.purge(incoming)?;
            if purged.messages == 0 && !purged.more {
                break;
            }
        }
        let used = self.shared.used_bytes.load(Ordering::Relaxed);
        if used.saturating_add(incoming) <= self.shared.settings.bytes_max {
            return Ok(());
        }
        let reason = format!("{used} of {} bytes hold what is not acknowledged", self.shared.settings.bytes_max);
        Err(BusError::caused(BusErrorKind::Full, "store batch", reason))
    }

    /// One step of a purge, in its own transaction.
    fn purge(&mut self, incoming_bytes: u64) -> Result<Purged, BusError> {
        let now_ms = self.now_ms();
        let since = |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let settings = &self.shared.settings;
        let needs = Needs {
            acknowledged_to: self.acknowledged_to(),
            used_bytes: self.shared.used_bytes.load(Ordering::Relaxed),
            bytes_max: settings.bytes_max,
            incoming_bytes,
            is_full: lock(&self.shared.refused).as_ref().is_some_and(|error| error.kind == BusErrorKind::Full),
            published_before_ms: since(settings.age_max),
            now_s: key::seconds(now_ms),
        };
        let dead_before_ms = since(settings.dead_letter_age_max);
        let last = self.next_sequence - 1;
        let (step, dead) = self.transaction("purge messages", |writer| {
            writer.write("purge messages", |writer| {
                let dead = dead_letter::delete_before(&writer.connection, dead_before_ms)?;
                let step = retention::plan(&writer.connection, &writer.dedup, &needs)?;
                if let Some(upto) = step.upto {
                    // The pages that this frees are room for the run.
                    retention::delete_groups(&writer.connection, upto)?;
                }
                if step.uncovered {
                    writer.dedup.cover(&writer.connection, last)?;
                }
                Ok((step, dead))
            })
        })?;
        self.shared.dead_letters_gone(dead as u64);
        if dead > 0 || step.messages > 0 {
            self.wiping.freed();
        }
        if dead > 0 {
            self.input_bytes.changed();
        }
        self.committed(0);
        self.dedup.rest(needs.now_s);
        let bounds = file::bounds(&self.connection);
        if let Ok(Some((first, _))) = bounds {
            self.shared.first.store(first, Ordering::Relaxed);
        }
        Ok(Purged { messages: step.messages, more: step.more })
    }

    /// What every durable consumer has acknowledged; 0 when there is none.
    fn acknowledged_to(&self) -> u64 {
        let consumers = self.shared.each_consumer();
        consumers.iter().map(|consumer| consumer.lock().window().floor()).min().unwrap_or(0)
    }
}
