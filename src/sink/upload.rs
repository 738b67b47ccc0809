//! One closed file on its way: stored, then committed to the warehouse's log where one is kept, then acknowledged.
//!
//! Invariant: nothing is acknowledged before its file is durable and committed; no file is made visible once
//! the leases of its messages may have lapsed, and one that became visible later all the same
//! (the process stood still) is compared with what others stored meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tracing::{debug, error, warn};

use crate::base::backoff::{Backoff, random_unit};
use crate::base::clock;
use crate::base::faults;
use crate::bus::{Acker, BusErrorKind, LeaseState};
use crate::metrics;
use crate::warehouse::{LateFile, Warehouse, WarehouseError, WarehouseErrorKind};

use super::batches::Closed;
use super::flush::Part;
use super::late_files;
use super::lease::{DOUBT_PAUSE, Lapsed};
use super::status::WorkerStatus;

/// How a warehouse that refuses is asked again. The longest wait and the longest silence of a request together are
/// less than the ten seconds in which work resumes after a fault.
pub(super) const RETRY: Backoff =
    Backoff { initial: Duration::from_millis(200), multiplier: 2.0, max: Duration::from_secs(1) };
/// Attempts to acknowledge what is stored; after that the messages come again and are found.
const ACK_ATTEMPTS_MAX: u32 = 16;

/// What a file on its way takes beside its bytes.
pub(super) const UPLOAD_BYTES: usize = 4 * 1024;

/// What became of one file.
pub(super) struct Uploaded {
    pub(super) file_bytes: usize,
    pub(super) result: Result<(), WarehouseError>,
}

/// Stores the file and acknowledges its messages, however long the warehouse refuses. An
/// error is one that another attempt would only hide.
pub(super) async fn upload(
    closed: Closed,
    part: Part,
    warehouse: Warehouse,
    acker: Acker,
    writers: Arc<Semaphore>,
    status: WorkerStatus,
) -> Uploaded {
    let file_bytes = closed.file.len();
    let name = Warehouse::new_file_name();
    let begun = Arc::new(AtomicBool::new(false));
    let mut storing = pin!(store(&closed, &warehouse, &name, &begun, &writers, &status));
    let kept = match closed.lease.keep(&acker, &closed.receipts, &mut storing).await {
        // A request that is on its way cannot be called back: what becomes of it is waited for.
        Err(Lapsed) if begun.load(Ordering::Acquire) => Ok(storing.await),
        kept => kept,
    };
    let late = begun.load(Ordering::Acquire) && !closed.lease.holds(clock::now());
    let part = (!late).then_some(part);
    if late {
        settle_late_file(&closed, &warehouse, &name).await;
    }
    let kept = match (kept, part) {
        // Of a late file, settling has seen to the log.
        (Ok(Ok(true)), Some(part)) if warehouse.has_log() => {
            commit(&closed, part, &warehouse, &name, &acker, &status).await
        }
        (kept, _) => kept,
    };
    let result = match kept {
        Ok(Ok(true)) => {
            faults::end_process_at("committed");
            // Another stream has given the sequences to other messages.
            if closed.lease.state(clock::now()) != LeaseState::StreamGone {
                acknowledge(&closed, &acker).await;
            }
            status.update(|figures| {
                figures.stored_files += 1;
                figures.stored_rows += closed.receipts.len() as u64;
                figures.stored_bytes += file_bytes as u64;
            });
            Ok(())
        }
        Ok(Err(error)) => Err(error),
        Ok(Ok(false)) | Err(_) => {
            let rows = closed.receipts.len();
            warn!(rows, partition = %closed.partition, "file given up: the leases of its messages lapsed");
            metrics::sink_lapsed_rows(rows as u64);
            Ok(())
        }
    };
    Uploaded { file_bytes, result }
}

/// Commits the stored file together with the others of its flush, however long the warehouse refuses. Leases may lapse
/// meanwhile: whoever gets the messages then finds them in the file, and commits it.
async fn commit(
    closed: &Closed,
    part: Part,
    warehouse: &Warehouse,
    name: &str,
    acker: &Acker,
    status: &WorkerStatus,
) -> Result<Result<bool, WarehouseError>, Lapsed> {
    faults::end_process_at("stored");
    let file = (closed.partition.clone(), name.to_owned(), closed.file.clone());
    let mut committing = pin!(async {
        let committing = part.commit(warehouse, file).await;
        let mut attempt = 0;
        while let Err(error) = committing.attempt().await {
            attempt += 1;
            metrics::sink_store_failures(error.kind.name());
            if matches!(error.kind, WarehouseErrorKind::Fsync | WarehouseErrorKind::Encode) {
                error!(%error, "file could not be committed");
                return Err(error);
            }
            if attempt == 1 {
                warn!(%error, rows = closed.receipts.len(), name, "file could not be committed, trying again");
            }
            status.update(|figures| figures.trouble = Some(error.to_string()));
            tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
        }
        if attempt > 0 {
            status.recovered();
        }
        Ok(true)
    });
    match closed.lease.keep(acker, &closed.receipts, &mut committing).await {
        Err(Lapsed) => Ok(committing.await),
        kept => kept,
    }
}

/// False when the leases lapsed first. While it is in doubt whether the messages come again nothing is stored.
async fn store(
    closed: &Closed,
    warehouse: &Warehouse,
    name: &str,
    begun: &Arc<AtomicBool>,
    writers: &Semaphore,
    status: &WorkerStatus,
) -> Result<bool, WarehouseError> {
    // The semaphore is never closed.
    let _writer = writers.acquire().await;
    let mut attempt = 0;
    loop {
        while closed.lease.state(clock::now()) == LeaseState::InDoubt {
            tokio::time::sleep(DOUBT_PAUSE).await;
        }
        let began = Instant::now();
        let (lease, begun) = (closed.lease.clone(), begun.clone());
        let commit = move || {
            let ours = matches!(lease.state(clock::now()), LeaseState::Active | LeaseState::StreamGone);
            begun.fetch_or(ours, Ordering::AcqRel);
            ours
        };
        match warehouse.store(&closed.partition, name, closed.file.clone(), commit).await {
            Ok(false) if closed.lease.is_kept(clock::now()) => {}
            Ok(stored) => {
                if stored {
                    report(closed, began);
                    status.recovered();
                }
                return Ok(stored);
            }
            Err(error) => {
                attempt += 1;
                metrics::sink_store_failures(error.kind.name());
                if matches!(error.kind, WarehouseErrorKind::Fsync | WarehouseErrorKind::Encode) {
                    error!(%error, "file could not be stored");
                    return Err(error);
                }
                if attempt == 1 {
                    warn!(%error, rows = closed.receipts.len(), "file could not be stored, trying again");
                }
                status.update(|figures| figures.trouble = Some(error.to_string()));
                tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
            }
        }
    }
}

/// A process that stood still between asking for the lease and the end of the request may have stored what somebody
/// else was given meanwhile, and has stored as well. Whoever that is looked for our file before, or found it and left
/// the rows to us: after a lease's time its files are there too, and ours gives up what they hold.
async fn settle_late_file(closed: &Closed, warehouse: &Warehouse, name: &str) {
    warn!(rows = closed.receipts.len(), name, "file was perhaps stored late, looking for others with the same rows");
    let late = LateFile { partition: closed.partition.clone(), name: name.to_owned(), bytes: closed.file.clone() };
    let mut attempt = 0;
    while let Err(error) = warehouse.mark_late_file(&late).await {
        attempt += 1;
        warn!(%error, attempt, "late file could not be marked, trying again");
        tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
    }
    tokio::time::sleep(closed.lease.ack_wait()).await;
    late_files::settle(&late, warehouse).await;
}

fn report(closed: &Closed, began: Instant) {
    let (rows, bytes) = (closed.receipts.len(), closed.file.len());
    metrics::sink_file_stored(closed.reason.name(), rows as u64, bytes as u64, began.elapsed());
    debug!(rows, bytes, reason = closed.reason.name(), partition = %closed.partition, "file stored");
}

async fn acknowledge(closed: &Closed, acker: &Acker) {
    for attempt in 1..=ACK_ATTEMPTS_MAX {
        match acker.ack(&closed.receipts).await {
            Ok(()) => return,
            // They come again, and are found in the file.
            Err(error) if matches!(error.kind, BusErrorKind::LeaseLost | BusErrorKind::Closed) => {
                warn!(%error, rows = closed.receipts.len(), "rows are stored but not all acknowledged");
                return;
            }
            Err(error) if attempt == ACK_ATTEMPTS_MAX => {
                warn!(%error, rows = closed.receipts.len(), "rows are stored but not acknowledged");
            }
            Err(_) => tokio::time::sleep(RETRY.delay(attempt, random_unit())).await,
        }
    }
}
