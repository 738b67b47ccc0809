//! The bus in one SQLite file, in this process.
//!
//! One writer thread owns the only writing connection. It takes whatever is queued, stores it as one row (a
//! group) in one transaction with the deduplication keys and the acknowledgements that wait, answers when
//! the commit is on disk, and appends the group to a tail in memory, from which consumers near the head are
//! served. A consumer that fell behind reads groups through a connection of its own, on tokio's blocking
//! threads. Nothing runs while nothing happens.
//!
//! Invariant: what is answered is on disk; what is delivered is what was stored. Knows nothing of events.

mod books;
mod checkpoint;
mod consumer;
mod dead_letter;
mod dedup;
mod erase;
mod file;
mod group;
mod health;
mod input;
mod original;
mod pace;
mod pack;
mod position;
mod queue;
mod retention;
mod run;
mod subscription;
mod tail;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_damage;
mod window;
mod wipe;
mod writer;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::consumer::Consumer;
use self::dedup::Key;
use self::file::DirectoryLock;
use self::group::Group;
use self::health::reason;
use self::queue::{Chore, Publish, Queue, Reply, Stored};
use self::tail::Tail;
use super::batch::{self, BATCH_BYTES_MAX, Parts};
use super::subject::Filter;
use super::trials::Book;
use super::{
    Batch, BusError, BusErrorKind, BusStatus, ConsumerSpec, ConsumerStatus, DeadLetter, EmbeddedSettings, Original,
    Published,
};
use crate::base::clock::unix_ms;
use crate::base::sqlite;
use crate::metrics;

pub(super) use self::subscription::{Acker, Subscription};

/// Bytes that a consumer behind the tail reads from the file at once.
const READ_BYTES: usize = 4 << 20;
/// Reading connections kept open.
const READERS_MAX: usize = 4;

/// A handle on the engine; the last one closes it.
#[derive(Clone)]
pub(super) struct Engine(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the writer, the subscriptions and the handle have in common.
struct Shared {
    path: PathBuf,
    stream_id: String,
    settings: EmbeddedSettings,
    queue: Queue,
    tail: Mutex<Tail>,
    /// The last committed sequence.
    head: watch::Sender<u64>,
    /// The first stored sequence, and the bytes in use, as of the last commit.
    first: AtomicU64,
    used_bytes: AtomicU64,
    /// Why publishing was refused last, until it succeeds.
    dead_letters: AtomicU64,
    /// Held by the trial that is under way.
    trial_turn: Arc<Semaphore>,
    /// How often groups in the file were given others in their places: raised before those in memory are forgotten.
    erasures: AtomicU64,
    refused: Mutex<Option<BusError>>,
    /// The first damage that was read from the file.
    damage: Mutex<Option<String>>,
    /// Whether the files are where a restart looks for them.
    watch: sqlite::Watch,
    consumers: Mutex<BTreeMap<String, Arc<Consumer>>>,
    readers: Mutex<Vec<Connection>>,
    started: Instant,
    /// The last sequence when the file was opened: messages up to it may have been delivered by a process that
    /// crashed.
    recovered_to: u64,
    closed: CancellationToken,
    lock: Mutex<Option<DirectoryLock>>,
}

impl Engine {
    pub(super) fn open(settings: EmbeddedSettings) -> Result<Self, BusError> {
        let lock = DirectoryLock::take(&settings.dir)?;
        let connection = file::open(&file::path(&settings.dir))?;
        Self::over(settings, lock, connection)
    }

    /// Starts over an open file.
    fn over(settings: EmbeddedSettings, lock: DirectoryLock, connection: Connection) -> Result<Self, BusError> {
        let path = file::path(&settings.dir);
        let failed = |error| file::failure(&path, "read bus file", error);
        let (first, last) = file::bounds(&connection).map_err(failed)?.unwrap_or((1, 0));
        let prepared = books::prepare(&connection).and_then(|()| wipe::prepare(&connection));
        prepared.map_err(|error| file::failure(&path, "prepare bus file", error))?;
        let consumers = recover_consumers(&connection, &path, last)?;
        let stream_id = file::stream_id(&connection).map_err(failed)?;
        let watch = sqlite::Watch::over(&path, &[file::lock_path(&settings.dir)]);
        let watch = watch.map_err(|error| {
            BusError::caused(BusErrorKind::Unavailable, "open bus file", format!("{}: {error}", path.display()))
        })?;
        let shared = Arc::new(Shared {
            queue: Queue::new(),
            tail: Mutex::new(Tail::new(settings.tail_bytes_max)),
            head: watch::Sender::new(last),
            first: AtomicU64::new(first),
            used_bytes: AtomicU64::new(file::used_bytes(&connection).map_err(failed)?),
            dead_letters: AtomicU64::new(dead_letter::count(&connection).map_err(failed)?),
            trial_turn: Arc::new(Semaphore::new(1)),
            erasures: AtomicU64::new(0),
            refused: Mutex::default(),
            damage: Mutex::default(),
            watch,
            consumers: Mutex::new(consumers),
            readers: Mutex::default(),
            started: Instant::now(),
            recovered_to: last,
            closed: CancellationToken::new(),
            lock: Mutex::new(Some(lock)),
            stream_id,
            path,
            settings,
        });
        let threads = Mutex::new(writer::start(shared.clone(), connection)?);
        Ok(Self(Arc::new(Handle { shared, threads })))
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
                Ok(stored) => expand(count, &stored),
                Err(error) => vec![Err(error); count],
            };
        }
        // Refused messages left no record: publish the others and put the answers back in their places.
        let starts = std::iter::once(0).chain(parts.ends.iter().copied());
        let kept: Vec<bool> = starts.zip(&parts.ends).map(|(start, end)| start < *end).collect();
        let ends: Vec<u32> = parts.ends.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(end, _)| *end).collect();
        let refused = parts.refused;
        let stored = self.0.shared.store(Parts { ends, ..parts }).await;
        let mut answers = match stored {
            Ok(stored) => expand(count - refused, &stored),
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

    /// The durable consumer as the spec says, created when it is missing.
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
                let floor = shared.chore(|reply| Chore::Register { name, filter: text, reply }).await?;
                let fresh = || {
                    let window = window::Window::new(floor);
                    Consumer::new(spec.name.clone(), (spec.filter.clone(), filter.clone()), window, Book::default())
                };
                shared.consumers().entry(spec.name.clone()).or_insert_with(fresh).clone()
            }
        };
        if consumer.lock().configure(spec) {
            let (consumer, filter) = (consumer.clone(), (spec.filter.clone(), filter));
            shared.chore(|reply| Chore::Refilter { consumer, filter, reply }).await?;
        }
        Ok(consumer)
    }

    pub(super) async fn status(&self) -> Result<BusStatus, BusError> {
        let shared = self.0.shared.clone();
        let head = *shared.head.borrow();
        let consumers = shared.each_consumer();
        let mut states = Vec::with_capacity(consumers.len());
        for consumer in &consumers {
            let (floor, unsettled, settled) = {
                let mind = consumer.lock();
                let window = mind.window();
                (window.floor(), window.unsettled() as u64, window.settled_above_floor())
            };
            let backlog = head.saturating_sub(floor + settled);
            let oldest_age_ms = match backlog {
                0 => None,
                _ => shared.published_at_ms(floor + 1).await?.map(|at| unix_ms().saturating_sub(at).max(0) as u64),
            };
            metrics::bus_consumer(&consumer.name, backlog, unsettled, oldest_age_ms.unwrap_or_default());
            let name = consumer.name.clone();
            states.push(ConsumerStatus { name, backlog, pending: unsettled, oldest_age_ms, ack_floor: floor });
        }
        let (first, bytes) = (shared.first.load(Ordering::Relaxed), shared.used_bytes.load(Ordering::Relaxed));
        metrics::bus_stored(bytes, shared.settings.bytes_max);
        metrics::bus_dead_letters(self.dead_letter_count());
        let refused = lock(&shared.refused).clone();
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
        self.0.shared.chore(|reply| Chore::Replay { id, reply }).await
    }

    pub(super) async fn delete_dead_letter(&self, id: u64) -> Result<bool, BusError> {
        self.0.shared.chore(|reply| Chore::DeleteDeadLetter { id, reply }).await
    }

    pub(super) async fn purge_dead_letters(&self, before_ms: Option<i64>) -> Result<u64, BusError> {
        let before_ms = before_ms.unwrap_or(i64::MAX);
        let mut deleted = 0;
        loop {
            let step = self.0.shared.chore(|reply| Chore::PurgeDeadLetters { before_ms, reply }).await?;
            deleted += step;
            if step == 0 {
                return Ok(deleted);
            }
        }
    }

    pub(super) async fn purge_acknowledged(&self) -> Result<u64, BusError> {
        let mut messages = 0;
        loop {
            let purged = self.0.shared.chore(|reply| Chore::Purge { reply }).await?;
            messages += purged.messages;
            if !purged.more {
                return Ok(messages);
            }
        }
    }

    pub(super) async fn close(&self) {
        for consumer in self.0.shared.each_consumer() {
            let withdrawn = consumer.lock().withdraw_trials();
            if withdrawn && let Err(error) = self.0.shared.chore(|reply| Chore::Record { consumer, reply }).await {
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
    /// Ends the threads after what is queued, and lets the directory go.
    fn close(&self) {
        self.shared.queue.close();
        self.shared.closed.cancel();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            if thread.join().is_err() {
                tracing::error!("a thread of the bus panicked");
            }
        }
        lock(&self.shared.readers).clear();
        lock(&self.shared.lock).take();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    async fn store(&self, parts: Parts) -> Result<Stored, BusError> {
        let Parts { records, ends, beginning, keyed, .. } = parts;
        let keys = if keyed == 0 { Vec::new() } else { keys_of(&records, keyed) };
        let _room = self.queue.room(records.len()).await?;
        let (reply, answer) = oneshot::channel();
        self.queue.publish(Publish { records, ends, beginning, keys, reply, _room })?;
        answer.await.unwrap_or_else(|_| Err(BusError::new(BusErrorKind::Closed, "publish batch")))
    }

    async fn chore<T>(&self, make: impl FnOnce(Reply<T>) -> Chore) -> Result<T, BusError> {
        let (reply, answer) = oneshot::channel();
        let closed = || BusError::new(BusErrorKind::Closed, "reach bus writer");
        self.queue.chore(make(reply)).map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// Runs a query on a reading connection, on a blocking thread.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        context: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, BusError> {
        self.blocking(move |shared, connection| {
            query(connection).map_err(|error| file::failure(&shared.path, context, error))
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &Connection) -> Result<T, BusError> + Send + 'static,
    ) -> Result<T, BusError> {
        if self.closed.is_cancelled() {
            return Err(BusError::new(BusErrorKind::Closed, "read bus file"));
        }
        let shared = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let kept = lock(&shared.readers).pop();
            let connection = kept.map_or_else(|| shared.open_reader(), Ok)?;
            let answer = work(&shared, &connection);
            shared.note_damage(answer.as_ref().err());
            let mut readers = lock(&shared.readers);
            if readers.len() < READERS_MAX && !shared.closed.is_cancelled() {
                readers.push(connection);
            }
            answer
        });
        let failed = |error| Err(BusError::caused(BusErrorKind::Unavailable, "read bus file", error));
        done.await.unwrap_or_else(failed)
    }

    async fn read_groups(self: &Arc<Self>, sequence: u64) -> Result<VecDeque<Arc<Group>>, BusError> {
        self.blocking(move |shared, connection| file::read_groups(connection, &shared.path, sequence, READ_BYTES)).await
    }

    /// When a message was stored; of one that is gone, the next one.
    async fn published_at_ms(self: &Arc<Self>, sequence: u64) -> Result<Option<i64>, BusError> {
        let recent = lock(&self.tail).find(sequence).map(|group| group.published_at_ms);
        match recent {
            Some(at) => Ok(Some(at)),
            None => self.read("read group time", move |connection| file::published_at_ms(connection, sequence)).await,
        }
    }

    fn dead_letters_gone(&self, count: u64) {
        let _ = self
            .dead_letters
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |kept| Some(kept.saturating_sub(count)));
    }

    fn consumers(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Consumer>>> {
        lock(&self.consumers)
    }

    /// All of them by name, to be locked one by one without the lock on the map.
    fn each_consumer(&self) -> Vec<Arc<Consumer>> {
        self.consumers().values().cloned().collect()
    }

    /// Ticks since the engine's start.
    fn now(&self) -> u32 {
        consumer::tick(self.started.elapsed())
    }
}

fn recover_consumers(
    connection: &Connection,
    path: &std::path::Path,
    last: u64,
) -> Result<BTreeMap<String, Arc<Consumer>>, BusError> {
    let rows = file::read_consumers(connection).map_err(|error| file::failure(path, "read consumers", error))?;
    let mut consumers = BTreeMap::new();
    for (name, filter, position) in rows {
        let damaged = |what: &str| file::corrupt(path, "recover consumer", format!("{what} of consumer {name}"));
        let compiled = Filter::parse(&filter).map_err(|_| damaged("the filter"))?;
        let window = position.recover().filter(|window| window.next() <= last + 1);
        let window = window.ok_or_else(|| damaged("the position"))?;
        let book = books::read(connection, &name).map_err(|error| file::failure(path, "read consumers", error))?;
        let mut book = book.ok_or_else(|| damaged("the record of suspects"))?;
        book.forget(window.floor(), &[]);
        consumers.insert(name.clone(), Consumer::new(name, (filter, compiled), window, book));
    }
    Ok(consumers)
}

/// The keys of the records that carry a message id.
fn keys_of(records: &[u8], keyed: usize) -> Vec<Key> {
    let mut keys = Vec::with_capacity(keyed);
    let mut at = 0;
    while let Some(layout) = batch::layout(records, at) {
        at = layout.end();
        if !layout.message_id.is_empty() {
            keys.push(Key::of(&records[layout.message_id]));
        }
    }
    keys
}

/// One answer a message.
fn expand(count: usize, stored: &Stored) -> Vec<Result<Published, BusError>> {
    let mut duplicates = stored.duplicates.iter().peekable();
    let mut sequence = stored.first_sequence;
    let answer = |index: u32| {
        if let Some(duplicate) = duplicates.next_if(|duplicate| duplicate.index == index) {
            let original = Original { sequence: duplicate.group, key: duplicate.key.0 };
            return Ok(Published { sequence: 0, duplicate: true, original });
        }
        sequence += 1;
        Ok(Published::new(sequence - 1))
    };
    (0..count as u32).map(answer).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
