//! The loop of a worker: fetches, looks up, encodes, uploads and acknowledges concurrently.

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

use super::error::SinkError;
use super::fetch::{self, Chunk, Fetched};
use super::flush;
use super::isolated::Isolated;
use super::open::{JobOutcome, Limits, OpenBatches};
use super::settings::Settings;
use super::status::WorkerStatus;
use super::upload::{self, UPLOAD_BYTES, UploadOutcome};
use crate::base::clock::sleep_until;
use crate::bus::{Acker, Receipt, Subscription};
use crate::metrics;
use crate::warehouse::{EncodeSettings, Encoder, Warehouse, WarehouseError};

/// Chunks that no job has taken yet, including the one being fetched: enough to keep the encoder busy while look-ups
/// in a remote warehouse take some tens of milliseconds.
pub(super) const CHUNKS_MAX: usize = 6;
/// Chunks that wait for the encoder. More would only take memory.
const WAITING_MAX: usize = 2;
/// A stopping sink considers the stream drained when nothing has arrived for this long.
const DRAINED_AFTER: Duration = Duration::from_millis(100);
/// The minimum interval between checks of ages and leases, so that a bus that cannot renew is not called in a busy loop.
const WAKE_PAUSE: Duration = Duration::from_millis(50);

/// The batches returned by a job, with its result.
type JobResult = Result<(OpenBatches, Result<JobOutcome, WarehouseError>), tokio::task::JoinError>;
pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One worker's messages, from the fetch to the acknowledgement.
pub(super) struct Sink {
    pub(super) settings: Settings,
    pub(super) acker: Acker,
    pub(super) warehouse: Warehouse,
    pub(super) status: WorkerStatus,
    /// Absent while a fetch owns it.
    subscription: Option<Subscription>,
    fetch: Option<Boxed<Fetched>>,
    /// Ends the fetch in flight.
    ended: CancellationToken,
    /// Fetched chunks that are being looked up; they complete in the order of the fetches.
    pub(super) look_ups: FuturesOrdered<Boxed<Result<Chunk, SinkError>>>,
    /// Chunks looked up while a job was running, oldest first.
    waiting: VecDeque<Chunk>,
    /// Messages to be tried in isolation; nothing is fetched meanwhile.
    pub(super) isolated: Option<Isolated>,
    /// Messages in the last fetch.
    last_fetched: usize,
    /// Absent while a job owns them.
    pub(super) batches: Option<OpenBatches>,
    pub(super) job: Option<Boxed<JobResult>>,
    open_bytes: usize,
    /// When ages and leases were last checked.
    pub(super) woke_at: Option<Instant>,
    pub(super) uploads: FuturesUnordered<Boxed<UploadOutcome>>,
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
    pub(super) fn new(
        settings: Settings,
        warehouse: Warehouse,
        status: WorkerStatus,
        writers: Arc<Semaphore>,
        subscription: Subscription,
    ) -> Result<Self, SinkError> {
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
            look_ups: FuturesOrdered::new(),
            waiting: VecDeque::new(),
            isolated: None,
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

    pub(super) async fn run(&mut self, stop: &CancellationToken) -> Result<(), SinkError> {
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
        self.release().await;
        Ok(())
    }

    /// Returns messages that were read ahead, so that other consumers need not wait for them. Called only when no upload is
    /// in flight, since those consumers look for its file.
    async fn release(&mut self) {
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

    /// Takes the remaining messages from the bus until `gather_until`, then stores everything.
    async fn drain(&mut self, gather_until: Instant) -> Result<(), SinkError> {
        loop {
            let mut gathered = false;
            while Instant::now() < gather_until {
                match tokio::time::timeout(DRAINED_AFTER, self.step(true)).await {
                    Ok(step) => gathered |= step? == Step::Fetched,
                    Err(_) if self.is_idle() && self.has_room() => break,
                    // Still looking up, encoding, or waiting for uploads to free memory.
                    Err(_) => {}
                }
            }
            gathered |= self.flush().await?;
            if !gathered {
                return Ok(());
            }
        }
    }

    /// Stores everything that was fetched. Returns true if the fetch in flight returned more.
    async fn flush(&mut self) -> Result<bool, SinkError> {
        let mut gathered = false;
        while self.job.is_some() || self.chunks() > 0 || self.isolated.is_some() {
            gathered |= self.step(false).await? == Step::Fetched;
        }
        loop {
            self.start_job(OpenBatches::close_all);
            while self.job.is_some() || !self.uploads.is_empty() {
                gathered |= self.step(false).await? == Step::Fetched;
            }
            if self.chunks() > 0 || self.batches.as_ref().is_none_or(OpenBatches::is_empty) {
                let in_doubt = self.batches.as_ref().map_or(0, OpenBatches::in_doubt_rows);
                if in_doubt > 0 && self.chunks() == 0 {
                    warn!(
                        rows = in_doubt,
                        "rows given up: the sink stops before the bus says whether it has their messages"
                    );
                }
                return Ok(gathered);
            }
        }
    }

    /// Starts whatever can start, then waits for one thing to complete. Cancel safe.
    async fn step(&mut self, fetching: bool) -> Result<Step, SinkError> {
        if self.job.is_none()
            && let Some(chunk) = self.waiting.pop_front()
        {
            self.start_job(move |batches| batches.take(&chunk.deliveries, &chunk.leased, &chunk.stored));
        }
        self.advance_isolated();
        let fetching = fetching && self.isolated.is_none();
        if fetching && self.chunks() < CHUNKS_MAX && self.waiting.len() < WAITING_MAX && self.has_room() {
            self.start_fetch();
        }
        let pause_to = self.woke_at.map(|woke_at| woke_at + WAKE_PAUSE);
        let wakes =
            [self.batches.as_ref().and_then(OpenBatches::wake_at), self.isolated.as_ref().and_then(Isolated::renew_at)];
        let wake_at = wakes.into_iter().flatten().min().map(|at| pause_to.map_or(at, |to| at.max(to)));
        let step = tokio::select! {
            fetched = next(&mut self.fetch) => {
                self.fetched(fetched)?;
                Step::Fetched
            }
            Some(chunk) = self.look_ups.next(), if !self.look_ups.is_empty() => {
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

    pub(super) fn acker(&self) -> &Acker {
        &self.acker
    }

    fn has_room(&self) -> bool {
        self.open_bytes + self.writing_bytes < self.settings.memory_bytes_max
    }

    /// Whether small files may be closed: encoded, they can be larger than the rows they were made of.
    pub(super) fn has_room_to_write(&self) -> bool {
        self.writing_bytes < self.settings.memory_bytes_max / 4
    }

    fn is_idle(&self) -> bool {
        self.job.is_none() && self.chunks() == 0 && self.isolated.is_none()
    }

    /// Chunks that no job has taken yet.
    pub(super) fn chunks(&self) -> usize {
        self.look_ups.len() + self.waiting.len()
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
            self.isolated = Some(Isolated::new(deliveries, leased, self.settings.ack_wait));
            return Ok(());
        }
        let stored_in = (self.warehouse.clone(), self.status.clone());
        let look_up = fetch::look_up(deliveries, leased, self.settings.ack_wait, self.acker.clone(), stored_in);
        self.look_ups.push_back(Box::pin(look_up));
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
                UploadOutcome { file_bytes: 0, result: Ok(()) }
            }));
        }
        self.waiting.push_back(chunk);
    }

    /// Hands the batches to a blocking thread, unless a job owns them.
    pub(super) fn start_job(
        &mut self,
        work: impl FnOnce(&mut OpenBatches) -> Result<JobOutcome, WarehouseError> + Send + 'static,
    ) {
        if let Some(mut batches) = self.batches.take() {
            self.job = Some(Box::pin(tokio::task::spawn_blocking(move || {
                let outcome = work(&mut batches);
                (batches, outcome)
            })));
        }
    }

    fn worked(&mut self, done: JobResult) -> Result<(), SinkError> {
        let (batches, outcome) = done.map_err(|error| {
            error!(%error, "encoding failed");
            SinkError::Defect
        })?;
        self.open_bytes = batches.memory_bytes();
        self.batches = Some(batches);
        let outcome = outcome?;
        if outcome.lapsed_rows > 0 {
            warn!(rows = outcome.lapsed_rows, "rows given up: the leases of their messages lapsed");
            metrics::sink_lapsed_rows(outcome.lapsed_rows as u64);
        }
        if outcome.in_doubt_rows > 0 {
            warn!(
                rows = outcome.in_doubt_rows,
                "rows are kept until it is known whether the bus still has their messages"
            );
        }
        if outcome.orphaned_rows > 0 {
            let (rows, files) = (outcome.orphaned_rows, outcome.closed.len());
            warn!(rows, files, "the stream that had them is gone: rows that were kept are written");
        }
        if !outcome.unreadable.is_empty() {
            self.dead_letter(outcome.unreadable);
        }
        let parts = flush::flush(outcome.closed.len());
        for (closed, part) in outcome.closed.into_iter().zip(parts) {
            self.writing_files += 1;
            self.writing_bytes += closed.file.len() + UPLOAD_BYTES;
            let (warehouse, acker) = (self.warehouse.clone(), self.acker.clone());
            let upload = upload::upload(closed, part, warehouse, acker, self.writers.clone(), self.status.clone());
            self.uploads.push(Box::pin(upload));
        }
        Ok(())
    }

    /// Moves unreadable messages to the dead letters.
    fn dead_letter(&mut self, unreadable: Vec<(Receipt, String)>) {
        metrics::sink_unreadable(unreadable.len() as u64);
        let acker = self.acker.clone();
        self.uploads.push(Box::pin(async move {
            for (receipt, reason) in unreadable {
                if let Err(error) = acker.dead_letter(receipt, &reason).await {
                    warn!(%error, sequence = receipt.sequence, "message not moved to the dead letters");
                }
            }
            UploadOutcome { file_bytes: 0, result: Ok(()) }
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

    /// Removes in the background the temporary files that a crash left.
    pub(super) fn tidy(&mut self, stop: CancellationToken) {
        let warehouse = self.warehouse.clone();
        self.uploads.push(Box::pin(async move {
            match warehouse.remove_temporary(move || !stop.is_cancelled()).await {
                Ok(0) => {}
                Ok(files) => warn!(files, "temporary files of an earlier run removed"),
                Err(error) => warn!(%error, "temporary files not removed"),
            }
            UploadOutcome { file_bytes: 0, result: Ok(()) }
        }));
    }
}

/// Waits for the future in `slot` and removes it when it completes. Pends forever if there is none.
async fn next<T>(slot: &mut Option<Boxed<T>>) -> T {
    let Some(future) = slot else { return pending().await };
    let done = future.await;
    *slot = None;
    done
}
