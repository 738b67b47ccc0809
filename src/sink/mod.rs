//! From the bus into the warehouse: pull, batch, encode, store, acknowledge.
//!
//! Invariants: a message is acknowledged only after the file with its row is durable and, where the warehouse keeps a
//! log, committed to it; a message that may have been stored before is looked up before it is written again; what is open
//! and what is being written stays under the memory limit, whatever the warehouse does. Knows nothing of HTTP or rules.
//!
//! Four things go on at once: the next fetch, the look-ups of what the last ones brought, one
//! job of encoding on a blocking thread, and the uploads. Chunks are encoded in the order in which
//! they were fetched: one that repeats a message gives up the open file that still holds it, and a
//! file's lease only ever takes in those of later lives of the bus's connection. The loop in
//! [`Sink::step`] owns all of them. A process may run several
//! such loops ([`workers`]), which are to the bus and to one another as sinks of several processes.

mod alone;
mod batch;
mod batches;
mod cold;
mod compaction;
mod error;
mod fetch;
mod flush;
mod kept;
mod late_files;
mod lease;
mod settings;
mod status;
mod suspects;
mod upload;
mod wake;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_alone;
#[cfg(test)]
mod tests_cold;
#[cfg(test)]
mod tests_lost;
#[cfg(test)]
mod tests_restart;
#[cfg(test)]
mod tests_s3;
#[cfg(test)]
mod tests_workers;

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::base::clock::sleep_until;
use crate::bus::{Acker, Bus, ConsumerSpec, Receipt, Subscription};
use crate::metrics;
use crate::warehouse::{EncodeSettings, Encoder, Warehouse, WarehouseError};

use alone::Alone;
use batches::{Limits, OpenBatches, Taken};
use fetch::{Chunk, Fetched};
use upload::{UPLOAD_BYTES, Uploaded};

pub use compaction::Compactor;
pub use error::SinkError;
pub use late_files::settle_abandoned;
pub use settings::{SERVER_FETCH_BYTES_MAX, Settings};
pub use status::SinkStatus;
use status::WorkerStatus;

/// The durable consumer on the bus and what it reads.
const CONSUMER: &str = "warehouse-sink";
const FILTER: &str = "events.>";
/// Chunks that no job has taken, with the one that a fetch will bring: as many as let the encoder go on while a
/// remote warehouse takes some tens of milliseconds to be looked into.
const CHUNKS_MAX: usize = 6;
/// Those of them that wait for the encoder: more would only take memory.
const WAITING_MAX: usize = 2;
/// A stopping sink takes the stream for drained when nothing has come for this long.
const DRAINED_AFTER: Duration = Duration::from_millis(100);
/// The least time between two looks at ages and leases: a bus that cannot renew is not asked in a loop.
const WAKE_PAUSE: Duration = Duration::from_millis(50);

/// One of the loops of a process. Cheap to clone; run once at a time.
#[derive(Clone)]
pub struct Worker {
    settings: Settings,
    bus: Bus,
    warehouse: Warehouse,
    status: WorkerStatus,
    writers: Arc<Semaphore>,
}

/// The workers that the settings ask for, each with its share of the memory; all of them show up in `status`.
pub fn workers(settings: Settings, bus: &Bus, warehouse: &Warehouse, status: &SinkStatus) -> Vec<Worker> {
    let writers = Arc::new(Semaphore::new(settings.max_concurrent_writes.max(1)));
    let count = settings.workers.max(1);
    let share = |whole: usize| (whole / count).max(1);
    let settings = Settings {
        memory_bytes_max: share(settings.memory_bytes_max),
        open_partitions_max: share(settings.open_partitions_max),
        fetch_messages_max: share(settings.fetch_messages_max),
        fetch_bytes_max: share(settings.fetch_bytes_max),
        ..settings
    };
    let worker = |_| Worker {
        settings: settings.clone(),
        bus: bus.clone(),
        warehouse: warehouse.clone(),
        status: status.worker(),
        writers: writers.clone(),
    };
    (0..count).map(worker).collect()
}

impl Settings {
    /// The durable consumer that all sinks share.
    pub fn consumer(&self) -> ConsumerSpec {
        ConsumerSpec {
            name: CONSUMER.to_owned(),
            filter: FILTER.to_owned(),
            matches_most: true,
            coarse_acks: true,
            ack_wait: self.ack_wait,
            max_deliver: self.max_deliver,
            pending_max: self.pending_max,
        }
    }
}

impl Worker {
    /// Runs until `stop`, then takes what is left on the bus, writes everything out and returns.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SinkError> {
        let subscription = self.bus.subscribe(self.settings.consumer()).await?;
        let status = self.status.clone();
        let mut sink = Sink::new(self, subscription)?;
        sink.tidy(stop.clone());
        status.update(|figures| figures.running = true);
        let ended = sink.run(&stop).await;
        if ended.as_ref().is_err_and(|error| !error.is_of_messages()) {
            alone::withdraw(&sink.acker).await;
        }
        status.stopped();
        ended
    }
}

/// The batches back from a job, with what it brought.
type Worked = Result<(OpenBatches, Result<Taken, WarehouseError>), tokio::task::JoinError>;
type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Sink {
    settings: Settings,
    acker: Acker,
    warehouse: Warehouse,
    status: WorkerStatus,
    /// Absent while a fetch has it.
    subscription: Option<Subscription>,
    fetch: Option<Boxed<Fetched>>,
    /// Ends the fetch that is under way.
    ended: CancellationToken,
    /// Fetched, and being looked up; they end in the order of the fetches.
    looks: FuturesOrdered<Boxed<Result<Chunk, SinkError>>>,
    /// Looked up while a job was running; the oldest first.
    waiting: VecDeque<Chunk>,
    /// Fetched to be tried apart from others; nothing is fetched meanwhile.
    alone: Option<Alone>,
    /// Messages in the last fetch.
    last_fetched: usize,
    /// Absent while a job has them.
    batches: Option<OpenBatches>,
    job: Option<Boxed<Worked>>,
    open_bytes: usize,
    /// When ages and leases were looked at.
    woke_at: Option<Instant>,
    uploads: FuturesUnordered<Boxed<Uploaded>>,
    writing_files: usize,
    writing_bytes: usize,
    writers: Arc<Semaphore>,
}

/// What happened in one step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Fetched,
    Other,
}

impl Sink {
    fn new(worker: Worker, subscription: Subscription) -> Result<Self, SinkError> {
        let Worker { settings, warehouse, status, writers, .. } = worker;
        let limits = Limits {
            rows_max: settings.batch_events_max,
            file_bytes_max: settings.file_bytes_max,
            age_max: settings.flush_interval,
            open_bytes_max: settings.memory_bytes_max / 2,
            open_partitions_max: settings.open_partitions_max,
            ack_wait: settings.ack_wait,
        };
        let encode = EncodeSettings {
            compression: settings.compression,
            row_group_rows_max: settings.row_group_rows,
            stream: settings.stream.clone(),
        };
        let batches = OpenBatches::new(limits, Encoder::new(encode)?.promoting(warehouse.promoted()));
        Ok(Self {
            acker: subscription.acker(),
            warehouse,
            status,
            subscription: Some(subscription),
            fetch: None,
            ended: CancellationToken::new(),
            looks: FuturesOrdered::new(),
            waiting: VecDeque::new(),
            alone: None,
            last_fetched: 0,
            batches: Some(batches),
            job: None,
            open_bytes: 0,
            woke_at: None,
            uploads: FuturesUnordered::new(),
            writing_files: 0,
            writing_bytes: 0,
            writers,
            settings,
        })
    }

    async fn run(&mut self, stop: &CancellationToken) -> Result<(), SinkError> {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                step = self.step(true) => { step?; }
            }
        }
        let budget = self.settings.stop_budget.left();
        match tokio::time::timeout(budget, self.drain(Instant::now() + budget / 3)).await {
            Ok(drained) => drained?,
            Err(_) => {
                return Err(SinkError::StopTimedOut { rows: self.batches.as_ref().map_or(0, OpenBatches::rows) });
            }
        }
        self.give_back().await;
        Ok(())
    }

    /// Others need not wait for what was read ahead. Only when no file is on its way any more: they look for it.
    async fn give_back(&mut self) {
        self.ended.cancel();
        if let Some(fetch) = self.fetch.take() {
            self.subscription = Some(fetch.await.subscription);
        }
        if let Some(subscription) = &mut self.subscription
            && let Err(error) = subscription.release().await
        {
            warn!(%error, "messages read ahead are not given back, they come again when their leases end");
        }
    }

    /// Takes what is left on the bus until `gather_until`, then writes everything out.
    async fn drain(&mut self, gather_until: Instant) -> Result<(), SinkError> {
        loop {
            let mut gathered = false;
            while Instant::now() < gather_until {
                match tokio::time::timeout(DRAINED_AFTER, self.step(true)).await {
                    Ok(step) => gathered |= step? == Step::Fetched,
                    Err(_) if self.is_idle() && self.has_room() => break,
                    // Still looking up, encoding, or waiting for uploads to make room.
                    Err(_) => {}
                }
            }
            gathered |= self.flush().await?;
            if !gathered {
                return Ok(());
            }
        }
    }

    /// Writes out everything that was fetched. True when a fetch that was under way brought more.
    async fn flush(&mut self) -> Result<bool, SinkError> {
        let mut gathered = false;
        while self.job.is_some() || self.chunks() > 0 || self.alone.is_some() {
            gathered |= self.step(false).await? == Step::Fetched;
        }
        loop {
            self.start_job(OpenBatches::close_all);
            while self.job.is_some() || !self.uploads.is_empty() {
                gathered |= self.step(false).await? == Step::Fetched;
            }
            if self.chunks() > 0 || self.batches.as_ref().is_none_or(OpenBatches::is_empty) {
                let kept = self.batches.as_ref().map_or(0, OpenBatches::kept_rows);
                if kept > 0 && self.chunks() == 0 {
                    warn!(
                        rows = kept,
                        "rows given up: the sink stops before the bus says whether it has their messages"
                    );
                }
                return Ok(gathered);
            }
        }
    }

    /// Starts what can start, then waits until one thing has come to its end. Loses nothing
    /// when it is cancelled.
    async fn step(&mut self, fetching: bool) -> Result<Step, SinkError> {
        if self.job.is_none()
            && let Some(chunk) = self.waiting.pop_front()
        {
            self.start_job(move |batches| batches.take(&chunk.deliveries, &chunk.leased, &chunk.stored));
        }
        self.go_on_alone();
        let fetching = fetching && self.alone.is_none();
        if fetching && self.chunks() < CHUNKS_MAX && self.waiting.len() < WAITING_MAX && self.has_room() {
            self.start_fetch();
        }
        let pause_to = self.woke_at.map(|woke_at| woke_at + WAKE_PAUSE);
        let wakes =
            [self.batches.as_ref().and_then(OpenBatches::wake_at), self.alone.as_ref().and_then(Alone::renew_at)];
        let wake_at = wakes.into_iter().flatten().min().map(|at| pause_to.map_or(at, |to| at.max(to)));
        let step = tokio::select! {
            fetched = next(&mut self.fetch) => {
                self.fetched(fetched)?;
                Step::Fetched
            }
            Some(chunk) = self.looks.next(), if !self.looks.is_empty() => {
                self.looked_up(chunk?);
                Step::Other
            }
            done = next(&mut self.job) => {
                self.worked(done)?;
                Step::Other
            }
            Some(uploaded) = self.uploads.next(), if !self.uploads.is_empty() => {
                self.writing_files -= usize::from(uploaded.file_bytes > 0);
                self.writing_bytes -= uploaded.file_bytes + UPLOAD_BYTES * usize::from(uploaded.file_bytes > 0);
                uploaded.result?;
                Step::Other
            }
            () = sleep_until(wake_at) => {
                self.wake().await;
                Step::Other
            }
        };
        self.report();
        Ok(step)
    }

    fn has_room(&self) -> bool {
        self.open_bytes + self.writing_bytes < self.settings.memory_bytes_max
    }

    /// Files that are made of little may be larger than that.
    pub(super) fn has_room_to_write(&self) -> bool {
        self.writing_bytes < self.settings.memory_bytes_max / 4
    }

    fn is_idle(&self) -> bool {
        self.job.is_none() && self.chunks() == 0 && self.alone.is_none()
    }

    /// Chunks that no job has taken yet.
    fn chunks(&self) -> usize {
        self.looks.len() + self.waiting.len()
    }

    fn start_fetch(&mut self) {
        if let Some(subscription) = self.subscription.take() {
            let linger = self.last_fetched < self.settings.fetch_messages_max / 4;
            let limits = (self.settings.fetch_messages_max, self.settings.fetch_bytes_max);
            self.fetch = Some(Box::pin(fetch::fetch(subscription, limits, linger, self.ended.clone())));
        }
    }

    fn fetched(&mut self, fetched: Fetched) -> Result<(), SinkError> {
        let leased = fetched.subscription.lease_grant();
        self.subscription = Some(fetched.subscription);
        let deliveries = fetched.deliveries?;
        self.last_fetched = deliveries.len();
        if deliveries.first().is_some_and(|delivery| delivery.isolated) {
            self.alone = Some(Alone::new(deliveries, leased, self.settings.ack_wait));
            return Ok(());
        }
        let stored_in = (self.warehouse.clone(), self.status.clone());
        let look = fetch::look_up(deliveries, leased, self.settings.ack_wait, self.acker.clone(), stored_in);
        self.looks.push_back(Box::pin(look));
        Ok(())
    }

    fn looked_up(&mut self, chunk: Chunk) {
        if !chunk.stored.is_empty() {
            metrics::sink_repeated_rows(chunk.stored.len() as u64);
            let stored = chunk.deliveries.iter().filter(|delivery| chunk.stored.contains(&delivery.sequence()));
            let receipts: Vec<Receipt> = stored.map(|delivery| delivery.receipt).collect();
            let acker = self.acker.clone();
            self.uploads.push(Box::pin(async move {
                if let Err(error) = acker.ack(&receipts).await {
                    warn!(%error, rows = receipts.len(), "rows stored before are not acknowledged");
                }
                Uploaded { file_bytes: 0, result: Ok(()) }
            }));
        }
        self.waiting.push_back(chunk);
    }

    /// Hands the batches to a blocking thread; only when no job has them.
    fn start_job(&mut self, work: impl FnOnce(&mut OpenBatches) -> Result<Taken, WarehouseError> + Send + 'static) {
        if let Some(mut batches) = self.batches.take() {
            self.job = Some(Box::pin(tokio::task::spawn_blocking(move || {
                let taken = work(&mut batches);
                (batches, taken)
            })));
        }
    }

    fn worked(&mut self, done: Worked) -> Result<(), SinkError> {
        let (batches, taken) = done.map_err(|error| {
            error!(%error, "encoding failed");
            SinkError::Defect
        })?;
        self.open_bytes = batches.memory_bytes();
        self.batches = Some(batches);
        let taken = taken?;
        if taken.lapsed_rows > 0 {
            warn!(rows = taken.lapsed_rows, "rows given up: the leases of their messages lapsed");
            metrics::sink_lapsed_rows(taken.lapsed_rows as u64);
        }
        if taken.kept_rows > 0 {
            warn!(rows = taken.kept_rows, "rows are kept until it is known whether the bus still has their messages");
        }
        if taken.orphaned_rows > 0 {
            let (rows, files) = (taken.orphaned_rows, taken.closed.len());
            warn!(rows, files, "the stream that had them is gone: rows that were kept are written");
        }
        if !taken.unreadable.is_empty() {
            self.bury(taken.unreadable);
        }
        let parts = flush::flush(taken.closed.len());
        for (closed, part) in taken.closed.into_iter().zip(parts) {
            self.writing_files += 1;
            self.writing_bytes += closed.file.len() + UPLOAD_BYTES;
            let (warehouse, acker) = (self.warehouse.clone(), self.acker.clone());
            let upload = upload::upload(closed, part, warehouse, acker, self.writers.clone(), self.status.clone());
            self.uploads.push(Box::pin(upload));
        }
        Ok(())
    }

    /// Moves messages that nobody can read to the dead letters.
    fn bury(&mut self, unreadable: Vec<(Receipt, String)>) {
        metrics::sink_unreadable(unreadable.len() as u64);
        let acker = self.acker.clone();
        self.uploads.push(Box::pin(async move {
            for (receipt, reason) in unreadable {
                if let Err(error) = acker.dead_letter(receipt, &reason).await {
                    warn!(%error, sequence = receipt.sequence, "message not moved to the dead letters");
                }
            }
            Uploaded { file_bytes: 0, result: Ok(()) }
        }));
    }

    fn report(&self) {
        let Some(batches) = &self.batches else { return };
        let all = self.status.update(|figures| {
            figures.open_batches = batches.len();
            figures.open_rows = batches.rows();
            figures.open_bytes = self.open_bytes;
            figures.oldest_opened_at = batches.oldest();
            figures.writing_files = self.writing_files;
            figures.writing_bytes = self.writing_bytes;
        });
        metrics::sink_open(all.open_batches, all.open_bytes, all.writing_bytes);
    }

    /// Removes in the background what a crash left half written.
    fn tidy(&mut self, stop: CancellationToken) {
        let warehouse = self.warehouse.clone();
        self.uploads.push(Box::pin(async move {
            match warehouse.remove_temporary(move || !stop.is_cancelled()).await {
                Ok(0) => {}
                Ok(files) => warn!(files, "temporary files of an earlier run removed"),
                Err(error) => warn!(%error, "temporary files not removed"),
            }
            Uploaded { file_bytes: 0, result: Ok(()) }
        }));
    }
}

/// Waits for the future in `slot` and takes it out when it is done; forever when there is none.
async fn next<T>(slot: &mut Option<Boxed<T>>) -> T {
    let Some(future) = slot else { return pending().await };
    let done = future.await;
    *slot = None;
    done
}
