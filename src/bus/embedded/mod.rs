//! The embedded engine: the bus in one SQLite file, in this process.
//!
//! One writer thread owns the only writing connection. It takes all queued batches, stores them as one row (a group) in
//! one transaction together with the deduplication keys and the waiting acknowledgements, answers once the commit is on
//! disk, and appends the group to a tail in memory that serves consumers near the head. A consumer that has fallen
//! behind reads groups through a separate connection on tokio's blocking threads. An idle bus runs nothing.
//!
//! Invariant: what is answered is on disk; what is delivered is what was stored. Knows nothing of events.

mod backpressure;
mod consumer;
mod dead_letter;
mod dedup;
mod erase;
mod file;
mod group;
mod input;
mod original;
mod pack;
mod queue;
mod recover;
mod retention;
mod shared;
mod subscription;
mod tail;
mod wipe;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::consumer::window::Window;
use self::consumer::{Consumer, trial_logs};
use self::queue::{Command, QUEUED_BYTES_MAX, Queue};
use self::shared::{READERS_MAX, Shared, reason};
use self::tail::Tail;
use self::writer::Writer;
use super::batch::{self, BATCH_BYTES_MAX, Parts};
use super::erase::{ErasePredicate, EraseSpan, Erased};
use super::input::{KeptInput, RefusedInput};
use super::subject::Filter;
use super::trials::TrialLog;
use super::{
    Batch, BusError, BusErrorKind, BusStatus, ConsumerSpec, ConsumerStatus, DeadLetter, EmbeddedSettings, Original,
    Published,
};
use crate::base::clock::unix_ms;
use crate::base::sqlite::{Database, DirectoryLock, FailedFsync, Readers, WriterThread};
use crate::metrics;

pub(super) use self::subscription::{Acker, Subscription};

/// A handle to the engine; dropping the last one closes it.
#[derive(Clone)]
pub(crate) struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    writer: WriterThread<Writer>,
}

impl Engine {
    pub(super) fn open(settings: EmbeddedSettings) -> Result<Self, BusError> {
        let lock = file::lock(&settings.dir)?;
        let connection = file::open(&file::path(&settings.dir))?;
        Self::over(settings, lock, connection)
    }

    /// Starts the engine on an open file.
    fn over(settings: EmbeddedSettings, lock: DirectoryLock, connection: Connection) -> Result<Self, BusError> {
        let path = file::path(&settings.dir);
        let failed = |error| file::failure(&path, "read bus file", error);
        let (first, last) = file::bounds(&connection).map_err(failed)?.unwrap_or((1, 0));
        let prepared = trial_logs::prepare(&connection).and_then(|()| wipe::prepare(&connection));
        prepared.map_err(|error| file::failure(&path, "prepare bus file", error))?;
        let consumers = recover::consumers(&connection, &path, last)?;
        let stream_id = file::stream_id(&connection).map_err(failed)?;
        let used_bytes = file::used_bytes(&connection).map_err(failed)?;
        let dead_letters = dead_letter::count(&connection).map_err(failed)?;
        let database = Database::over(path.clone(), &[file::lock_path(&settings.dir)]).map_err(|error| {
            BusError::caused(BusErrorKind::Unavailable, "open bus file", format!("{}: {error}", path.display()))
        })?;
        let database = Arc::new(database);
        let shared = Arc::new(Shared {
            queue: Arc::new(Queue::new(QUEUED_BYTES_MAX)),
            tail: Mutex::new(Tail::new(settings.tail_bytes_max)),
            head: watch::Sender::new(last),
            first: AtomicU64::new(first),
            used_bytes: AtomicU64::new(used_bytes),
            dead_letters: AtomicU64::new(dead_letters),
            trial_turn: Arc::new(Semaphore::new(1)),
            erasures: AtomicU64::new(0),
            refused: Mutex::default(),
            consumers: Mutex::new(consumers),
            readers: Arc::new(Readers::on_demand(database.clone(), READERS_MAX)),
            database,
            started: Instant::now(),
            recovered_to: last,
            closed: CancellationToken::new(),
            stream_id,
            settings,
        });
        let writer = Writer::new(shared.clone(), connection)?;
        let writer = WriterThread::start("bus-writer", shared.queue.clone(), writer, lock)
            .map_err(|error| BusError::caused(BusErrorKind::Unavailable, "start bus writer", error))?;
        Ok(Self(Arc::new(Handle { shared, writer })))
    }

    pub(super) fn stream_id(&self) -> String {
        self.0.shared.stream_id.clone()
    }

    pub(super) async fn publish(&self, batch: Batch) -> Vec<Result<Published, BusError>> {
        let parts = batch.into_parts();
        let count = parts.ends.len();
        if count == parts.refused || parts.records.len() > BATCH_BYTES_MAX {
            let invalid = BusError::new(BusErrorKind::Invalid, "publish batch");
            return vec![Err(invalid); count];
        }
        if parts.refused == 0 {
            return match self.0.shared.store(parts).await {
                Ok(stored) => queue::expand(count, &stored),
                Err(error) => vec![Err(error); count],
            };
        }
        // Refused messages have no record: publish the others and insert the errors at their positions.
        let starts = std::iter::once(0).chain(parts.ends.iter().copied());
        let kept: Vec<bool> = starts.zip(&parts.ends).map(|(start, end)| start < *end).collect();
        let ends: Vec<u32> = parts.ends.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(end, _)| *end).collect();
        let refused = parts.refused;
        let stored = self.0.shared.store(Parts { ends, ..parts }).await;
        let mut answers = match stored {
            Ok(stored) => queue::expand(count - refused, &stored),
            Err(error) => vec![Err(error); count - refused],
        }
        .into_iter();
        let refused = || Err(BusError::new(BusErrorKind::Invalid, "publish message"));
        kept.iter().map(|kept| if *kept { answers.next().unwrap_or_else(refused) } else { refused() }).collect()
    }

    pub(super) async fn originals<T: Send + 'static>(
        &self,
        wanted: Vec<Original>,
        read: fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<Option<T>>, BusError> {
        self.0.shared.blocking(move |shared, connection| original::find(shared, connection, &wanted, read)).await
    }

    pub(super) async fn subscribe(&self, spec: ConsumerSpec) -> Result<Subscription, BusError> {
        let consumer = self.consumer(&spec).await?;
        Ok(Subscription::new(self.0.shared.clone(), consumer))
    }

    pub(super) async fn ensure_consumer(&self, spec: &ConsumerSpec) -> Result<(), BusError> {
        self.consumer(spec).await.map(drop)
    }

    /// Returns the durable consumer configured by the spec; creates it if necessary.
    async fn consumer(&self, spec: &ConsumerSpec) -> Result<Arc<Consumer>, BusError> {
        let shared = &self.0.shared;
        let filter = Filter::parse(&spec.filter)?;
        if spec.name.is_empty() || spec.name.len() > batch::MESSAGE_ID_BYTES_MAX {
            return Err(BusError::new(BusErrorKind::Invalid, "name consumer"));
        }
        let known = shared.consumers().get(&spec.name).cloned();
        let consumer = match known {
            Some(consumer) => consumer,
            None => {
                let (name, text) = (spec.name.clone(), spec.filter.clone());
                let floor = shared.command(|reply| Command::Register { name, filter: text, reply }).await?;
                let fresh = || {
                    let window = Window::new(floor);
                    Consumer::new(spec.name.clone(), (spec.filter.clone(), filter.clone()), window, TrialLog::default())
                };
                shared.consumers().entry(spec.name.clone()).or_insert_with(fresh).clone()
            }
        };
        if consumer.lock().configure(spec) {
            let (consumer, filter) = (consumer.clone(), (spec.filter.clone(), filter));
            shared.command(|reply| Command::Refilter { consumer, filter, reply }).await?;
        }
        Ok(consumer)
    }

    pub(super) async fn status(&self) -> Result<BusStatus, BusError> {
        let shared = self.0.shared.clone();
        let head = *shared.head.borrow();
        let consumers = shared.each_consumer();
        let mut states = Vec::with_capacity(consumers.len());
        for consumer in &consumers {
            let (floor, in_flight, resolved) = {
                let state = consumer.lock();
                let window = state.window();
                (window.floor(), window.in_flight() as u64, window.resolved_above_floor())
            };
            let backlog = head.saturating_sub(floor + resolved);
            let oldest_age_ms = match backlog {
                0 => None,
                _ => shared.published_at_ms(floor + 1).await?.map(|at| unix_ms().saturating_sub(at).max(0) as u64),
            };
            metrics::bus_consumer(&consumer.name, backlog, in_flight, oldest_age_ms.unwrap_or_default());
            let name = consumer.name.clone();
            states.push(ConsumerStatus { name, backlog, pending: in_flight, oldest_age_ms, ack_floor: floor });
        }
        let (first, bytes) = (shared.first.load(Ordering::Relaxed), shared.used_bytes.load(Ordering::Relaxed));
        metrics::bus_stored(bytes, shared.settings.bytes_max);
        metrics::bus_dead_letters(self.dead_letter_count());
        let refused = shared.refused.lock().clone();
        Ok(BusStatus {
            engine: "embedded",
            messages: (head + 1).saturating_sub(first),
            bytes,
            bytes_max: shared.settings.bytes_max,
            last_sequence: head,
            dead_letters: self.dead_letter_count(),
            full: refused.as_ref().filter(|error| error.kind == BusErrorKind::Full).map(reason),
            refused: refused.as_ref().map(reason),
            consumers: states,
        })
    }

    pub(super) fn dead_letter_count(&self) -> u64 {
        self.0.shared.dead_letters.load(Ordering::Relaxed)
    }

    pub(super) async fn dead_letters(&self, before: Option<u64>, limit: usize) -> Result<Vec<DeadLetter>, BusError> {
        self.0.shared.read("list dead letters", move |connection| dead_letter::list(connection, before, limit)).await
    }

    pub(super) async fn dead_letter(&self, id: u64) -> Result<Option<DeadLetter>, BusError> {
        self.0.shared.read("read dead letter", move |connection| dead_letter::find(connection, id)).await
    }

    pub(super) async fn replay_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        self.0.shared.command(|reply| Command::Replay { id, reply }).await
    }

    pub(super) async fn delete_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        self.0.shared.command(|reply| Command::DeleteDeadLetter { id, reply }).await
    }

    pub(super) async fn purge_dead_letters(&self, before_ms: Option<i64>) -> Result<u64, BusError> {
        let before_ms = before_ms.unwrap_or(i64::MAX);
        let mut deleted = 0;
        loop {
            let step = self.0.shared.command(|reply| Command::PurgeDeadLetters { before_ms, reply }).await?;
            deleted += step;
            if step == 0 {
                return Ok(deleted);
            }
        }
    }

    pub(super) async fn purge_acknowledged(&self) -> Result<u64, BusError> {
        let mut messages = 0;
        loop {
            let purged = self.0.shared.command(|reply| Command::Purge { reply }).await?;
            messages += purged.messages;
            if !purged.more {
                return Ok(messages);
            }
        }
    }

    pub(super) async fn erase(&self, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
        erase::erase(&self.0.shared, span, matches).await
    }

    /// Returns `false` when it ran out of time.
    pub(super) async fn wipe(&self, until: Instant) -> Result<bool, BusError> {
        loop {
            let is_clean = self.0.shared.command(|reply| Command::Wipe { reply }).await?;
            if is_clean || Instant::now() >= until {
                return Ok(is_clean);
            }
        }
    }

    pub(super) async fn keep_input(&self, inputs: Vec<RefusedInput>, bytes_max: u64) -> Result<KeptInput, BusError> {
        self.0.shared.command(|reply| Command::KeepInput { inputs, bytes_max, reply }).await
    }

    pub(super) async fn resubmit_input(
        &self,
        id: u64,
        batch: Batch,
    ) -> Result<Option<Vec<Result<Published, BusError>>>, BusError> {
        let count = batch.len();
        let shared = &self.0.shared;
        let publish = Box::new(input::queued(shared, batch).await?);
        let stored = shared.command(|reply| Command::Resubmit { id, publish, reply }).await?;
        Ok(stored.map(|stored| queue::expand(count, &stored)))
    }

    pub(super) async fn amend_input(&self, id: u64, input: RefusedInput) -> Result<bool, BusError> {
        self.0.shared.command(|reply| Command::AmendInput { id, input, reply }).await
    }

    pub(super) async fn input_counts(&self, subjects_max: usize) -> Result<Vec<(String, u64)>, BusError> {
        self.0.shared.read("count refused input", move |connection| input::counts(connection, subjects_max)).await
    }

    pub(super) async fn ping(&self) -> Result<(), BusError> {
        self.0.shared.ping().await
    }

    /// Losses of the file that have not been acknowledged yet.
    pub(super) fn warning(&self) -> (&'static str, Option<String>) {
        ("bus_file_lost", self.0.shared.database.losses())
    }

    pub(super) fn on_failed_fsync(&self, handler: fn(&FailedFsync)) {
        self.0.shared.database.on_failed_fsync(handler);
    }

    pub(super) async fn close(&self) {
        for consumer in self.0.shared.each_consumer() {
            let withdrawn = consumer.lock().withdraw_trials();
            if withdrawn && let Err(error) = self.0.shared.command(|reply| Command::Record { consumer, reply }).await {
                tracing::warn!(%error, "an unfinished attempt with suspects counts as one that failed");
            }
        }
        let handle = self.0.clone();
        let joined = tokio::task::spawn_blocking(move || handle.close()).await;
        if let Err(error) = joined {
            tracing::error!(%error, "close bus");
        }
    }
}

impl Handle {
    /// Stops the writer after the queued work, and releases the directory.
    fn close(&self) {
        self.shared.closed.cancel();
        self.shared.readers.close();
        self.writer.close();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}
