//! The receiving side: chunks from the queue, and their messages from the stream.
//!
//! Invariants: no chunk is taken from the queue over a connection on which the queue has not been compared with the
//! stream. A message is handed out only while the lease of its chunk is known to hold.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tracing::{debug, warn};

use super::acker::ChunkAcker;
use super::allocator::{Allocation, Chunk, ChunkAllocator};
use super::in_flight::{ChunkKey, CompletedChunk, InFlightChunks};
use super::reader::Reader;
use super::ready::Ready;
use crate::base::clock;
use crate::base::clock::sleep_until;
use crate::bus::nats::consume::isolation::{IsolationQueue, must_isolate};
use crate::bus::nats::consume::pull::{NOTE_INTERVAL, REFUSED_PAUSE, delivery, record, takes};
use crate::bus::nats::consume::subscription::Subscription;
use crate::bus::nats::shared::Shared;
use crate::bus::subject::Filter;
use crate::bus::trials::TrialOutcome;
use crate::bus::{BusError, ConsumerSpec, Delivery, LeaseGrant, Receipt};

/// Chunks in flight, including the one being read, below which more are allocated and fetched. With more of them,
/// arrived messages would leave the processor's caches before they are handled.
const CHUNKS_AHEAD: usize = 2;
/// Chunks per fetch from the queue; with little traffic, chunks are small.
const FETCHED_CHUNKS_MAX: usize = 8;
/// Once everything is allocated, the next chunk is allocated after this pause, so that trickling messages make few
/// chunks.
const ALLOCATE_PAUSE: Duration = Duration::from_millis(50);
/// An idle subscription checks this often in case a wakeup was lost.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of chunks per fetch from the queue.
const QUEUE_BYTES_MAX: usize = 64 * 1024;
/// When the rest of a chunk is late, the messages that have arrived are handed out.
const READ_PAUSE_MAX: Duration = Duration::from_millis(100);

type Allocating = oneshot::Receiver<(ChunkAllocator, Result<Allocation, BusError>)>;

pub(crate) struct ChunkSubscription {
    acker: ChunkAcker,
    shared: Arc<Shared>,
    spec: ConsumerSpec,
    filter: Filter,
    queue: Subscription,
    epochs: watch::Receiver<u64>,
    /// The epoch in which the queue was compared with the stream; `None` until then.
    epoch: Option<u64>,
    /// `None` while it allocates.
    allocator: Option<ChunkAllocator>,
    allocating: Option<Allocating>,
    allocate_next_at: Instant,
    /// Chunks allocated since the last fetch from the queue; other subscriptions may receive them.
    allocated_ahead: usize,
    /// Everything up to here is allocated, and there was nothing more.
    allocated_all_to: Option<u64>,
    checked_at: Instant,
    reader: Reader,
    /// Leased and not read to the end; the first is being read.
    chunks: VecDeque<ReadingChunk>,
    /// Read, but not handed out yet.
    ready: Ready,
    /// When the oldest lease of the last messages handed out began.
    leased_at: Instant,
    complete: Vec<CompletedChunk>,
    /// Messages that were delivered often without an answer.
    isolation: IsolationQueue,
    /// Ended the process in each trial; to be dead-lettered.
    fatal: Vec<Receipt>,
}

struct ReadingChunk {
    key: ChunkKey,
    /// The next sequence to read.
    next: u64,
    last: u64,
    delivery_count: u32,
}

impl ChunkSubscription {
    pub(crate) async fn open(shared: Arc<Shared>, spec: ConsumerSpec, filter: Filter) -> Result<Self, BusError> {
        let subject = shared.settings.chunk_subject(&spec.name);
        let queued = ConsumerSpec { filter: subject.clone(), ..spec.clone() };
        let stream = shared.settings.chunk_stream();
        // Messages are isolated, not chunks.
        let queue = Subscription::open(shared.clone(), &stream, queued, (Filter::parse(&subject)?, false)).await?;
        let acker = ChunkAcker { queue: queue.acker(), in_flight: Arc::new(InFlightChunks::default()) };
        let now = Instant::now();
        Ok(Self {
            acker,
            queue,
            epochs: shared.link.epochs(),
            epoch: None,
            allocator: Some(ChunkAllocator::new(shared.clone(), spec.name.clone())),
            allocating: None,
            allocate_next_at: now,
            allocated_ahead: 0,
            allocated_all_to: None,
            checked_at: now,
            reader: Reader::new(shared.clone(), spec.name.clone()),
            chunks: VecDeque::new(),
            ready: Ready::default(),
            leased_at: now,
            complete: Vec::new(),
            isolation: IsolationQueue::default(),
            fatal: Vec::new(),
            shared,
            spec,
            filter,
        })
    }

    pub(crate) fn acker(&self) -> ChunkAcker {
        self.acker.clone()
    }

    pub(crate) fn stream_id(&self) -> &str {
        self.queue.stream_id()
    }

    pub(crate) fn lease_grant(&self) -> LeaseGrant {
        let stream = (self.shared.topology.stream(), self.queue.stream_id().to_owned());
        LeaseGrant {
            at: self.leased_at,
            epochs: Some((self.shared.link.epochs(), self.queue.epoch())),
            stream: Some(stream),
        }
    }

    pub(crate) async fn fetch(&mut self, messages_max: usize, bytes_max: usize) -> Result<Vec<Delivery>, BusError> {
        let note_interval = NOTE_INTERVAL.min(self.spec.ack_wait / 8);
        // A consumer that fetches again has survived its trial.
        self.acker.end_trial(TrialOutcome::Survived).await;
        loop {
            self.shared.check_open("fetch messages")?;
            // Do not wait for requests on a connection that is lost.
            let mut epochs = self.epochs.clone();
            epochs.mark_unchanged();
            let prepared = tokio::select! {
                biased;
                _ = epochs.changed() => continue,
                prepared = self.prepare(messages_max, bytes_max) => prepared,
            };
            if let Err(error) = prepared {
                // The server is away: it returns, or the link stops reconnecting.
                debug!(%error, consumer = self.spec.name, "waiting for NATS");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
            let isolated = self.isolate((messages_max, bytes_max)).await;
            if !isolated.is_empty() {
                return Ok(isolated);
            }
            let full = self.ready.len() >= messages_max || self.ready.bytes() >= bytes_max;
            if !self.ready.is_empty() && (full || self.chunks.is_empty()) {
                return Ok(self.hand_out());
            }
            let short = self.chunks.len() < CHUNKS_AHEAD;
            let retry_at = self.chunks.front().and_then(|chunk| self.reader.retry_at(chunk.next));
            let pausing = self.allocator.is_some() && self.allocated_all_to.is_none() && short;
            tokio::select! {
                biased;
                _ = self.epochs.changed() => self.epoch = None,
                () = self.shared.closing.cancelled() => {}
                () = self.reader.wait() => {}
                allocated = ended(&mut self.allocating) => self.note_allocation(allocated),
                fetched = self.queue.fetch(FETCHED_CHUNKS_MAX, QUEUE_BYTES_MAX), if short => self.add_chunks(fetched?).await,
                () = tokio::time::sleep_until(self.allocate_next_at.into()), if pausing => {}
                () = sleep_until(retry_at) => {}
                () = sleep_until(self.isolation.choose_at()) => {}
                () = tokio::time::sleep(READ_PAUSE_MAX), if !self.ready.is_empty() => return Ok(self.hand_out()),
                () = tokio::time::sleep(note_interval) => self.notice().await,
            }
        }
    }

    pub(crate) async fn release(&mut self) -> Result<(), BusError> {
        // A chunk stored meanwhile would be delivered to a subscription that is about to end.
        if let Some(allocating) = self.allocating.take() {
            let _ = tokio::time::timeout(self.shared.settings.timeout, allocating).await;
        }
        self.isolation.clear();
        self.queue.release().await?;
        self.acker.answer(self.acker.in_flight.release_all()).await
    }

    /// The isolated messages to try next, once their whole chunk has arrived. Messages that ended the process too often
    /// are to be dead-lettered.
    async fn isolate(&mut self, limits: (usize, usize)) -> Vec<Delivery> {
        let reading = self.chunks.front().is_some_and(|chunk| must_isolate(chunk.delivery_count));
        if self.isolation.is_empty() || (reading && !self.isolation_is_full(limits)) {
            return Vec::new();
        }
        let chosen = match self.isolation.choose(&self.acker.queue.trials, limits).await {
            Ok(chosen) => chosen,
            Err(error) => {
                debug!(%error, consumer = self.spec.name, "suspects wait for NATS");
                return Vec::new();
            }
        };
        self.fatal.extend(chosen.fatal);
        let leases =
            chosen.next.iter().map(|delivery| self.acker.in_flight.leased_at(delivery.receipt.consumer_sequence));
        self.leased_at = leases.min().flatten().or(chosen.leased_at).unwrap_or_else(Instant::now);
        chosen.next
    }

    fn isolation_is_full(&self, (messages_max, bytes_max): (usize, usize)) -> bool {
        self.isolation.len() >= messages_max || (!self.isolation.is_empty() && self.isolation.bytes() >= bytes_max)
    }

    /// Does everything that does not have to wait for a message.
    async fn prepare(&mut self, messages_max: usize, bytes_max: usize) -> Result<(), BusError> {
        if self.epochs.has_changed().unwrap_or(true) || self.epoch.is_none() {
            self.reconnected().await?;
        }
        self.drop_stale();
        self.take_arrived(messages_max, bytes_max);
        self.flush_answers().await;
        self.ask(bytes_max).await?;
        let room = self.chunks.len() < CHUNKS_AHEAD && self.allocated_ahead < FETCHED_CHUNKS_MAX;
        if room && self.allocated_all_to.is_none() && Instant::now() >= self.allocate_next_at {
            self.start_allocating(messages_max, bytes_max);
        }
        Ok(())
    }

    /// Starts over on the current connection. The server may have crashed: the messages of the last connection may be
    /// leased to another process, and the queue may contain chunks that the stream has lost.
    async fn reconnected(&mut self) -> Result<(), BusError> {
        self.epoch = None;
        self.chunks.clear();
        self.ready.clear();
        self.complete.clear();
        self.isolation.clear();
        self.fatal.clear();
        self.reader.forget();
        self.allocating = None;
        let epoch = *self.epochs.borrow_and_update();
        self.queue.reconnected().await?;
        let mut allocator = ChunkAllocator::new(self.shared.clone(), self.spec.name.clone());
        allocator.learn().await?;
        self.allocator = Some(allocator);
        (self.allocated_all_to, self.allocated_ahead, self.allocate_next_at) = (None, 0, Instant::now());
        self.epoch = Some(epoch);
        Ok(())
    }

    fn hand_out(&mut self) -> Vec<Delivery> {
        self.leased_at = self.ready.leased_at().unwrap_or_else(Instant::now);
        self.ready.take()
    }

    /// Drops chunks that have waited for half of their lease; they are redelivered.
    fn drop_stale(&mut self) {
        let (now, half) = (clock::now(), self.spec.ack_wait / 2);
        let fresh = |leased_at: Option<Instant>| leased_at.is_some_and(|at| clock::between(at, now) < half);
        let before = self.chunks.len();
        self.chunks.retain(|chunk| fresh(self.acker.in_flight.leased_at(chunk.key)));
        let mut drop_stale = before - self.chunks.len();
        if !self.ready.is_empty() && !fresh(self.ready.leased_at()) {
            self.ready.clear();
            drop_stale += 1;
        }
        let in_flight = &self.acker.in_flight;
        drop_stale +=
            self.isolation.drop_stale(|message, _| fresh(in_flight.leased_at(message.receipt.consumer_sequence)));
        if drop_stale > 0 {
            warn!(ranges = drop_stale, consumer = self.spec.name, "messages waited too long here, they come again");
        }
    }

    /// Takes the arrived messages of the chunks in flight, up to both limits.
    fn take_arrived(&mut self, messages_max: usize, bytes_max: usize) {
        self.take_from_chunks(messages_max, bytes_max);
        self.reader.note_heard();
    }

    fn take_from_chunks(&mut self, messages_max: usize, bytes_max: usize) {
        while self.ready.len() < messages_max && (self.ready.is_empty() || self.ready.bytes() < bytes_max) {
            if self.isolation_is_full((messages_max, bytes_max)) {
                return;
            }
            let head = self.reader.head().map(|head| head.sequence);
            let Some(chunk) = self.chunks.front_mut() else { return };
            if self.reader.complete_from().is_none_or(|from| from > chunk.next) {
                return;
            }
            let Some(sequence) = head else {
                if self.reader.nothing_to() < chunk.last {
                    return;
                }
                self.end_chunk();
                continue;
            };
            if sequence > chunk.last {
                self.end_chunk();
                continue;
            }
            let Some(read) = self.reader.pop() else { return };
            if sequence < chunk.next {
                continue;
            }
            let (key, gap, last) = (chunk.key, chunk.next..sequence, chunk.last);
            chunk.next = sequence + 1;
            let receipt = Receipt { sequence, consumer_sequence: key, delivery_count: chunk.delivery_count };
            if !gap.is_empty() {
                self.complete.extend(self.acker.in_flight.skip(key, gap.start..=sequence - 1));
            }
            if !takes(&self.spec.name, &self.filter, &read.message) {
                self.complete.extend(self.acker.in_flight.skip(key, sequence..=sequence));
            } else if must_isolate(receipt.delivery_count) {
                let record = record(&read.message);
                let message = delivery(record, receipt, read.published_at_ms, self.queue.redelivery_horizon());
                // A chunk whose lease is not known to hold is dropped.
                self.isolation.push(message, self.acker.in_flight.leased_at(key).unwrap_or_else(Instant::now));
            } else {
                let leased_at = || self.acker.in_flight.leased_at(key);
                self.ready.push(
                    &read.message,
                    receipt,
                    read.published_at_ms,
                    self.queue.redelivery_horizon(),
                    leased_at,
                );
            }
            if sequence == last {
                self.end_chunk();
            }
        }
    }

    /// The chunk being read contains no further messages.
    fn end_chunk(&mut self) {
        if let Some(chunk) = self.chunks.pop_front()
            && chunk.next <= chunk.last
        {
            self.complete.extend(self.acker.in_flight.skip(chunk.key, chunk.next..=chunk.last));
        }
    }

    /// Acknowledges chunks without messages for this consumer.
    async fn flush_answers(&mut self) {
        if !self.complete.is_empty()
            && let Err(error) = self.acker.answer(std::mem::take(&mut self.complete)).await
        {
            warn!(%error, consumer = self.spec.name, "messages of other subjects could not be passed over");
        }
        for receipt in std::mem::take(&mut self.fatal) {
            if let Err(error) = self.acker.dead_letter_fatal(receipt).await {
                warn!(%error, consumer = self.spec.name, "cannot store dead letter");
            }
        }
    }

    /// Requests the messages of the chunks in flight; without any, the next message, which then leads to a chunk.
    async fn ask(&mut self, bytes_max: usize) -> Result<(), BusError> {
        if let Some(chunk) = self.chunks.front() {
            // The requested messages are in the stream: a server that delivers no more does not have them yet.
            match self.reader.retry_at(chunk.next) {
                Some(retry_at) if Instant::now() < retry_at => return Ok(()),
                Some(_) => self.reader.forget(),
                None => {}
            }
            let (first, mut last) = (chunk.next, chunk.last);
            for behind in self.chunks.iter().skip(1) {
                if behind.next != last + 1 {
                    break;
                }
                last = behind.last;
            }
            if !self.reader.read(first, last, bytes_max).await? {
                warn!(consumer = self.spec.name, "the stream lost messages of a range");
                self.epoch = None;
            }
            return Ok(());
        }
        let Some(allocated_to) = self.allocated_all_to else { return Ok(()) };
        while let Some(sequence) = self.reader.head().map(|head| head.sequence) {
            if sequence > allocated_to {
                self.allocated_all_to = None;
                return Ok(());
            }
            self.reader.pop();
        }
        self.reader.watch(allocated_to + 1, bytes_max).await
    }

    /// Runs in the background, so that chunks are available when they are needed.
    fn start_allocating(&mut self, messages_max: usize, bytes_max: usize) {
        if let Some(mut allocator) = self.allocator.take() {
            let (done, allocating) = oneshot::channel();
            self.allocating = Some(allocating);
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move {
                if let Some(allocation) =
                    shared.closing.run_until_cancelled(allocator.allocate(messages_max, bytes_max)).await
                {
                    // The receiver is gone when the connection was lost in the meantime.
                    let _ = done.send((allocator, allocation));
                }
            });
        }
    }

    fn note_allocation(&mut self, allocated: Option<(ChunkAllocator, Result<Allocation, BusError>)>) {
        self.allocating = None;
        let Some((allocator, allocation)) = allocated else {
            // The bus is closing, or the subscription starts over.
            self.epoch = None;
            return;
        };
        self.allocator = Some(allocator);
        match allocation {
            Ok(Allocation::Full) => self.allocated_ahead += 1,
            Ok(Allocation::Tail) => {
                self.allocated_ahead += 1;
                self.allocate_next_at = Instant::now() + ALLOCATE_PAUSE;
            }
            Ok(Allocation::Nothing(allocated_to)) => self.allocated_all_to = Some(allocated_to),
            Err(error) => {
                debug!(%error, consumer = self.spec.name, "messages are not cut into ranges");
                self.allocate_next_at = Instant::now() + REFUSED_PAUSE;
            }
        }
    }

    async fn add_chunks(&mut self, fetched: Vec<Delivery>) {
        if self.epoch != Some(self.queue.epoch()) {
            // From a connection on which the queue has not been compared with the stream yet.
            let receipts: Vec<Receipt> = fetched.iter().map(|delivery| delivery.receipt).collect();
            let _ = self.acker.queue.release(&receipts, Duration::ZERO).await;
            self.epoch = None;
            return;
        }
        self.allocated_ahead = 0;
        let leased_at = self.queue.lease_grant().at;
        for delivery in fetched {
            let Some(chunk) = Chunk::read(delivery.payload()) else {
                warn!(sequence = delivery.sequence(), consumer = self.spec.name, "not a range, passed over");
                let _ = self.acker.queue.ack(&[delivery.receipt]).await;
                continue;
            };
            let sequences = chunk.first..=chunk.last;
            let key = self.acker.in_flight.add(delivery.receipt, &sequences, leased_at, self.spec.ack_wait);
            let delivery_count = delivery.delivery_count;
            self.chunks.push_back(ReadingChunk { key, next: chunk.first, last: chunk.last, delivery_count });
        }
    }

    async fn notice(&mut self) {
        self.reader.check_silence().await;
        self.allocated_ahead = 0;
        if self.checked_at.elapsed() >= CHECK_INTERVAL {
            self.checked_at = Instant::now();
            self.allocated_all_to = None;
        }
    }
}

/// Never ready while there is no receiver.
async fn ended<T>(receiver: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.await.ok(),
        None => std::future::pending().await,
    }
}
