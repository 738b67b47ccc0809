//! The writer thread: takes queued work, commits it as one transaction, and answers.
//!
//! Invariant: no caller is answered, and no state in memory changes, before the commit has returned. A failed commit
//! leaves the memory unchanged.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::outcome::{CommandOutcome, CommitOutcome, StoredPosition};
use crate::base::clock::ClockSteps;
use crate::base::sqlite::{CheckpointLimits, Checkpoints, CommitLimits, CommitSchedule, Groups, Transactions, Work};
use crate::bus::embedded::backpressure::{Backpressure, CommitStats, ConsumerProgress};
use crate::bus::embedded::consumer::trial_logs;
use crate::bus::embedded::dedup::{Dedup, key};
use crate::bus::embedded::group::Draft;
use crate::bus::embedded::input::InputBytes;
use crate::bus::embedded::pack::Packer;
use crate::bus::embedded::queue::{Command, Duplicate, Publish, Purged, Resolve, Stored};
use crate::bus::embedded::retention::{self, PurgeRequest};
use crate::bus::embedded::shared::Shared;
use crate::bus::embedded::wipe::Wiper;
use crate::bus::embedded::{dead_letter, file};
use crate::bus::{BusError, BusErrorKind, batch};
use crate::metrics;

/// Bytes of batches in one group. Groups of the same size reuse each other's memory; the next one arrives in the
/// meantime.
const GROUP_BYTES_MAX: usize = 2 << 20;
/// Commands executed in one commit; each may write a message of the largest size.
const COMMANDS_PER_COMMIT_MAX: usize = 32;
/// Purge steps that a commit waits for when the bus is full.
const STEPS_WHEN_FULL_MAX: usize = 8;
const CHECKPOINTS: CheckpointLimits = CheckpointLimits { soft_bytes: 32 << 20, hard_bytes: 256 << 20 };
/// Estimated bytes that a commit adds to the log besides its data.
const COMMIT_OVERHEAD_BYTES: u64 = 64 << 10;

pub(crate) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Transactions,
    pub(super) dedup: Dedup,
    pub(super) clock: ClockSteps,
    pub(super) packer: Packer,
    pub(super) next_sequence: u64,
    pub(super) input_bytes: InputBytes,
    pub(super) backpressure: Backpressure,
    pub(super) wiper: Wiper,
    /// The files were not at their paths at the last check.
    pub(super) misplaced: bool,
}

impl Groups for Writer {
    type Batch = Publish;
    type Command = Command;

    const LIMITS: CommitLimits = CommitLimits { batch_bytes: GROUP_BYTES_MAX, commands: COMMANDS_PER_COMMIT_MAX };

    fn bytes_of(publish: &Publish) -> usize {
        publish.records.len()
    }

    fn serve(&mut self, work: Work<Publish, Command>, schedule: CommitSchedule) -> CommitSchedule {
        let (began, batches) = (Instant::now(), work.batches.len());
        self.round(work);
        if batches == 0 {
            return schedule;
        }
        let (gathered, now) = (began.saturating_duration_since(schedule.from), Instant::now());
        self.schedule(CommitStats { batches, gathered, busy: now - began }, now)
    }

    fn finish(&mut self) {
        self.file.checkpoints.start_over(&self.file.connection, "TRUNCATE");
    }
}

impl Drop for Writer {
    /// Nothing is stored or delivered without it.
    fn drop(&mut self) {
        self.shared.closed.cancel();
    }
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, connection: Connection) -> Result<Self, BusError> {
        let window_s = u32::try_from(shared.settings.dedup_window.as_secs_f64().ceil() as u64).unwrap_or(u32::MAX);
        let clock = ClockSteps::default();
        let dedup = Dedup::open(&connection, window_s, key::seconds(clock.last_ms()))
            .map_err(|error| shared.failure("read message ids", &error))?;
        let started = |error| BusError::caused(BusErrorKind::Unavailable, "start bus writer", error);
        let database = shared.database.clone();
        let checkpoints =
            Checkpoints::in_background(database.clone(), CHECKPOINTS, "bus-checkpoint").map_err(started)?;
        let packer = Packer::new().map_err(started)?;
        let next_sequence = *shared.head.borrow() + 1;
        Ok(Self {
            next_sequence,
            shared,
            file: Transactions::new(connection, checkpoints, database),
            dedup,
            clock,
            packer,
            input_bytes: InputBytes::unknown(),
            backpressure: Backpressure::default(),
            wiper: Wiper::new(),
            misplaced: false,
        })
    }

    /// When publishers are served next, after a round that ended now.
    fn schedule(&mut self, stats: CommitStats, now: Instant) -> CommitSchedule {
        let middle = self.shared.tail.lock().middle();
        let consumers = self.shared.each_consumer();
        let next = consumers.iter().map(|consumer| consumer.lock().window().next());
        let progress = next.map(|next| ConsumerProgress { next, behind: next < middle });
        self.backpressure.schedule(stats, now, progress)
    }

    fn round(&mut self, work: Work<Publish, Command>) {
        let Work { batches: mut publishes, commands } = work;
        let (alone, commands): (Vec<Command>, Vec<Command>) =
            commands.into_iter().partition(|command| matches!(command, Command::Purge { .. } | Command::Wipe { .. }));
        let commands = match self.misplaced {
            true => self.reject_while_misplaced(&mut publishes, commands),
            false => commands,
        };
        let incoming = publishes.iter().map(|publish| (publish.records.len() + publish.keys.len() * 16) as u64).sum();
        if !publishes.is_empty()
            && let Err(error) = self.make_room(incoming)
        {
            self.refuse(std::mem::take(&mut publishes), &error);
        }
        match self.commit(&publishes, &commands) {
            Ok(outcome) => self.resolve(publishes, commands, outcome),
            Err(error) => self.isolate(publishes, commands, error),
        }
        for command in alone {
            match command {
                Command::Purge { reply } => drop(reply.send(self.purge(0))),
                Command::Wipe { reply } => drop(reply.send(self.wipe())),
                _ => {}
            }
        }
    }

    /// Retries a failed commit in parts, so that one part does not fail because of another. Acknowledgements need less
    /// room than messages, and free some.
    fn isolate(&mut self, publishes: Vec<Publish>, commands: Vec<Command>, error: BusError) {
        let alone = publishes.is_empty() || commands.is_empty();
        if !publishes.is_empty() {
            let again = if alone || error.kind == BusErrorKind::Full {
                Err(error.clone())
            } else {
                self.commit(&publishes, &[])
            };
            match again {
                Ok(outcome) => self.resolve(publishes, Vec::new(), outcome),
                Err(error) => self.refuse(publishes, &error),
            }
        }
        let alone = alone && commands.len() == 1;
        for command in commands {
            let again = if alone { Err(error.clone()) } else { self.commit(&[], std::slice::from_ref(&command)) };
            match again {
                Ok(outcome) => self.resolve(Vec::new(), vec![command], outcome),
                Err(error) => self.fail(command, &error),
            }
        }
    }

    /// Stores a group, the commands and the positions they change in one transaction, and makes it visible to
    /// consumers.
    fn commit(&mut self, publishes: &[Publish], commands: &[Command]) -> Result<CommitOutcome, BusError> {
        if publishes.is_empty() && commands.is_empty() {
            return Ok(CommitOutcome::default());
        }
        let began = Instant::now();
        let mut draft = Draft::new(self.next_sequence, self.now_ms());
        let outcome = self.transaction("commit group", |writer| {
            let mut outcome = CommitOutcome::default();
            writer.write_commands(commands, &mut draft, &mut outcome)?;
            writer.write_publishes(publishes, &mut draft, &mut outcome)?;
            writer.write_positions(commands, &mut outcome)?;
            Ok(outcome)
        })?;
        let (messages, bytes) = (draft.len() as u64, outcome.group_bytes as u64);
        if messages > 0 {
            self.next_sequence = draft.next_sequence();
            self.shared.refused.lock().take();
            self.shared.tail.lock().push(draft.into_group());
            self.shared.head.send_replace(self.next_sequence - 1);
            metrics::bus_committed(messages, bytes, began.elapsed());
        }
        self.committed(bytes);
        Ok(outcome)
    }

    /// Runs `work` in a transaction. A failure undoes everything, in memory too.
    pub(super) fn transaction<T>(
        &mut self,
        context: &'static str,
        work: impl FnOnce(&mut Self) -> Result<T, BusError>,
    ) -> Result<T, BusError> {
        let in_file = |error| file::file_error(context, error);
        let result = self.file.begin(context).map_err(in_file).and_then(|()| work(self)).and_then(|done| {
            let failed = |error| self.shared.failure(context, &error);
            self.dedup.maintain(&self.file.connection, key::seconds(self.clock.last_ms())).map_err(failed)?;
            // Read here, where no other lock is needed.
            let used_bytes = file::used_bytes(&self.file.connection).map_err(failed)?.saturating_sub(self.wiper.bytes);
            self.file.commit(context).map_err(in_file)?;
            self.shared.used_bytes.store(used_bytes, Ordering::Relaxed);
            Ok(done)
        });
        if result.is_err() {
            self.shared.note_damage(result.as_ref().err());
            self.file.roll_back();
            self.dedup.rolled_back();
            self.input_bytes.changed();
        }
        result
    }

    /// The wall clock. When it was set, message ids keep their ages: none is forgotten early.
    pub(super) fn now_ms(&mut self) -> i64 {
        let (now_ms, step_ms) = self.clock.look();
        if step_ms != 0 {
            tracing::info!(step_ms, "the clock was set; message ids are remembered for as long as before");
            self.dedup.clock_was_set(step_ms);
        }
        now_ms
    }

    /// Updates the state after a transaction, and reports the growth of the log.
    pub(super) fn committed(&mut self, bytes: u64) {
        self.dedup.committed(self.next_sequence - 1, key::seconds(self.clock.last_ms()));
        self.file.committed(bytes + COMMIT_OVERHEAD_BYTES);
    }

    pub(super) fn write<T>(
        &mut self,
        context: &'static str,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> Result<T, BusError> {
        work(self).map_err(|error| self.shared.failure(context, &error))
    }

    fn write_publishes(
        &mut self,
        publishes: &[Publish],
        draft: &mut Draft,
        outcome: &mut CommitOutcome,
    ) -> Result<(), BusError> {
        let now_s = key::seconds(draft.published_at_ms);
        let records = publishes.iter().map(|publish| publish.ends.len()).sum();
        draft.reserve(records, publishes.iter().map(|publish| publish.records.len()).sum());
        for publish in publishes {
            let stored = self.write("look up message ids", |writer| writer.append(publish, draft, now_s))?;
            outcome.stored.push(stored);
        }
        if draft.len() > 0 {
            outcome.group_bytes = self.write("write group", |writer| {
                file::insert_group(&writer.file.connection, draft, &mut writer.packer)
            })?;
        }
        Ok(())
    }

    /// Adds a batch to the group, without duplicates.
    pub(super) fn append(&mut self, publish: &Publish, draft: &mut Draft, now_s: u32) -> rusqlite::Result<Stored> {
        let mut stored = Stored { first_sequence: draft.next_sequence(), duplicates: Vec::new() };
        if publish.keys.is_empty() {
            draft.extend(&publish.records, 0, &publish.ends, publish.subject_prefix);
            return Ok(stored);
        }
        let mut keys = publish.keys.iter();
        let all_keyed = publish.keys.len() == publish.ends.len();
        // Records from `from` on, beginning at `start`, have not been copied yet.
        let (mut from, mut start, mut end) = (0, 0, 0);
        for (index, next_end) in publish.ends.iter().enumerate() {
            let begin = std::mem::replace(&mut end, *next_end);
            let is_keyed = || batch::layout(&publish.records, begin as usize).is_some_and(|l| !l.message_id.is_empty());
            if !all_keyed && !is_keyed() {
                continue;
            }
            let Some(key) = keys.next() else { break };
            if let Some(seen) = self.dedup.seen(&self.file.connection, key, (now_s, draft.first_sequence))? {
                draft.extend(&publish.records, start, &publish.ends[from..index], publish.subject_prefix);
                (from, start) = (index + 1, end);
                stored.duplicates.push(Duplicate { index: index as u32, group: seen.group(), key: *key });
            } else {
                draft.push_key(key);
            }
        }
        draft.extend(&publish.records, start, &publish.ends[from..], publish.subject_prefix);
        Ok(stored)
    }

    fn write_positions(&mut self, commands: &[Command], outcome: &mut CommitOutcome) -> Result<(), BusError> {
        for command in commands {
            let (Command::Resolve(Resolve { consumer, .. }) | Command::Record { consumer, .. }) = command else {
                continue;
            };
            if outcome.positions.iter().any(|stored| Arc::ptr_eq(&stored.consumer, consumer)) {
                continue;
            }
            let (position, log) = {
                let state = consumer.lock();
                (state.position(), state.unstored_log())
            };
            self.write("store consumer position", |writer| {
                if let Some(log) = &log {
                    trial_logs::store(&writer.file.connection, &consumer.name, log)?;
                }
                file::update_position(&writer.file.connection, &consumer.name, &position)
            })?;
            outcome.positions.push(StoredPosition { consumer: consumer.clone(), high: position.high, log });
        }
        Ok(())
    }

    /// Resolves in memory what the commit has stored, then answers the callers.
    pub(super) fn answer(&mut self, publishes: Vec<Publish>, commands: Vec<Command>, outcome: CommitOutcome) {
        for StoredPosition { consumer, high, log } in outcome.positions {
            let mut state = consumer.lock();
            state.recorded(high);
            if let Some(log) = log {
                state.log_stored(&log);
            }
        }
        let duplicates: usize = outcome.stored.iter().map(|stored| stored.duplicates.len()).sum();
        if !publishes.is_empty() {
            metrics::bus_duplicates(duplicates as u64);
        }
        // A caller that is gone does not need its answer; the same below.
        for (publish, stored) in publishes.into_iter().zip(outcome.stored) {
            let _ = publish.reply.send(Ok(stored));
        }
        for (command, done) in commands.into_iter().zip(outcome.done) {
            match (command, done) {
                (Command::Resolve(resolve), done) => {
                    resolve.consumer.lock().resolved(&resolve.sequences);
                    if let (Some((why, _)), CommandOutcome::DeadLettered(count)) = (&resolve.reason, done) {
                        self.shared.dead_letters.fetch_add(count, Ordering::Relaxed);
                        metrics::bus_dead_lettered(&resolve.consumer.name, why.name(), count);
                    }
                    let _ = resolve.reply.send(Ok(()));
                }
                (Command::Refilter { consumer, filter, reply }, _) => {
                    consumer.lock().set_filter(filter);
                    let _ = reply.send(Ok(()));
                }
                (Command::Record { reply, .. }, _) => drop(reply.send(Ok(()))),
                (Command::Register { reply, .. }, CommandOutcome::Sequence(answer)) => drop(reply.send(Ok(answer))),
                (Command::PurgeDeadLetters { reply, .. }, CommandOutcome::Sequence(deleted)) => {
                    self.shared.dead_letters_removed(deleted);
                    drop(reply.send(Ok(deleted)));
                }
                (
                    Command::Replay { reply, .. } | Command::DeleteDeadLetter { reply, .. },
                    CommandOutcome::Flag(flag),
                ) => {
                    self.shared.dead_letters_removed(u64::from(flag));
                    drop(reply.send(Ok(flag)));
                }
                (Command::KeepInput { reply, .. }, CommandOutcome::Kept(kept)) => {
                    self.shared.dead_letters.fetch_add(kept.kept as u64, Ordering::Relaxed);
                    drop(reply.send(Ok(kept)));
                }
                (Command::AmendInput { reply, .. }, CommandOutcome::Flag(flag)) => drop(reply.send(Ok(flag))),
                (Command::Resubmit { reply, .. }, CommandOutcome::Resubmitted(stored)) => {
                    self.shared.dead_letters_removed(u64::from(stored.is_some()));
                    drop(reply.send(Ok(stored)));
                }
                (Command::Erase { reply, .. }, CommandOutcome::Erased(groups, messages)) => {
                    self.apply_erasure(&groups);
                    drop(reply.send(Ok(messages)));
                }
                (Command::Erase { .. } | Command::Wipe { .. }, _) => {}
                (Command::Register { .. } | Command::Replay { .. } | Command::DeleteDeadLetter { .. }, _) => {}
                (Command::PurgeDeadLetters { .. } | Command::Purge { .. }, _) => {}
                (Command::KeepInput { .. } | Command::AmendInput { .. } | Command::Resubmit { .. }, _) => {}
            }
        }
    }

    /// Fails with `Full` when the limit of the stream leaves no room and nothing can be purged.
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

    /// One purge step, in its own transaction.
    fn purge(&mut self, incoming_bytes: u64) -> Result<Purged, BusError> {
        let now_ms = self.now_ms();
        let since = |age: Duration| now_ms.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let settings = &self.shared.settings;
        let request = PurgeRequest {
            acknowledged_to: self.acknowledged_to(),
            used_bytes: self.shared.used_bytes.load(Ordering::Relaxed),
            bytes_max: settings.bytes_max,
            incoming_bytes,
            is_full: self.shared.refused.lock().as_ref().is_some_and(|error| error.kind == BusErrorKind::Full),
            published_before_ms: since(settings.age_max),
            now_s: key::seconds(now_ms),
        };
        let dead_before_ms = since(settings.dead_letter_age_max);
        let last = self.next_sequence - 1;
        let (step, dead) = self.transaction("purge messages", |writer| {
            writer.write("purge messages", |writer| {
                let dead = dead_letter::delete_before(&writer.file.connection, dead_before_ms)?;
                let step = retention::plan(&writer.file.connection, &writer.dedup, &request)?;
                if let Some(upto) = step.upto {
                    // The pages freed by this make room for the run.
                    retention::delete_groups(&writer.file.connection, upto)?;
                }
                if step.uncovered {
                    writer.dedup.move_to_run(&writer.file.connection, last)?;
                }
                Ok((step, dead))
            })
        })?;
        self.shared.dead_letters_removed(dead as u64);
        if dead > 0 || step.messages > 0 {
            self.wiper.freed();
        }
        if dead > 0 {
            self.input_bytes.changed();
        }
        self.committed(0);
        self.dedup.rest(request.now_s);
        let bounds = file::bounds(&self.file.connection);
        if let Ok(Some((first, _))) = bounds {
            self.shared.first.store(first, Ordering::Relaxed);
        }
        Ok(Purged { messages: step.messages, more: step.more })
    }

    /// The sequence up to which every durable consumer has acknowledged; 0 without consumers.
    fn acknowledged_to(&self) -> u64 {
        let consumers = self.shared.each_consumer();
        consumers.iter().map(|consumer| consumer.lock().window().floor()).min().unwrap_or(0)
    }
}
