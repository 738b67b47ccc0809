//! One closed file: stores it, commits it to the warehouse's log if there is one, then acknowledges its messages.
//!
//! Invariant: messages are acknowledged only after their file is durable and committed. No file is made visible once
//! the leases of its messages may have lapsed; one that becomes visible late all the same, because
//! the process stalled, is a fenced write and is reconciled with the files that others stored meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::Semaphore;
use tracing::{debug, error, warn};

use super::fenced_writes;
use super::flush::Part;
use super::lease::{DOUBT_PAUSE, Lapsed};
use super::open::ClosedFile;
use super::retry::RETRY;
use super::status::WorkerStatus;
use crate::base::backoff::random_unit;
use crate::base::{clock, faults};
use crate::bus::{Acker, BusErrorKind, LeaseState};
use crate::metrics;
use crate::warehouse::{FencedWrite, Warehouse, WarehouseError, WarehouseErrorKind};

/// Attempts to acknowledge stored messages. After that, they are redelivered and found in the warehouse.
const ACK_ATTEMPTS_MAX: u32 = 16;

/// Memory of an upload in addition to the bytes of its file.
pub(super) const UPLOAD_BYTES: usize = 4 * 1024;

/// The outcome of one upload.
pub(super) struct UploadOutcome {
    pub(super) file_bytes: usize,
    pub(super) result: Result<(), WarehouseError>,
}

/// Stores the file and acknowledges its messages, retrying for as long as the warehouse fails. Returns only
/// errors that a retry would hide.
pub(super) async fn upload(
    closed: ClosedFile,
    part: Part,
    warehouse: Warehouse,
    acker: Acker,
    writers: Arc<Semaphore>,
    status: WorkerStatus,
) -> UploadOutcome {
    let file_bytes = closed.file.len();
    let name = Warehouse::new_file_name();
    let begun = Arc::new(AtomicBool::new(false));
    let mut storing = pin!(store(&closed, &warehouse, &name, &begun, &writers, &status));
    let kept = match closed.lease.keep(&acker, &closed.receipts, &mut storing).await {
        // A request in flight cannot be cancelled, so wait for its outcome.
        Err(Lapsed) if begun.load(Ordering::Acquire) => Ok(storing.await),
        kept => kept,
    };
    let fenced = begun.load(Ordering::Acquire) && !closed.lease.holds(clock::now());
    let part = (!fenced).then_some(part);
    if fenced {
        reconcile_fenced_write(&closed, &warehouse, &name).await;
    }
    let kept = match (kept, part) {
        // Reconciling has updated the log for a fenced write.
        (Ok(Ok(true)), Some(part)) if warehouse.has_log() => {
            commit(&closed, part, &warehouse, &name, &acker, &status).await
        }
        (kept, _) => kept,
    };
    let result = match kept {
        Ok(Ok(true)) => {
            faults::end_process_at("committed");
            // In a new stream, these sequences belong to other messages.
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
    UploadOutcome { file_bytes, result }
}

/// Commits the stored file together with the others of its flush, retrying for as long as the warehouse fails. Leases may
/// lapse meanwhile: the process that then receives the messages finds them in the file, and commits it.
async fn commit(
    closed: &ClosedFile,
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

/// Stores the file. Returns false if the leases lapsed first. Waits while it is unknown whether the messages will be
/// redelivered.
async fn store(
    closed: &ClosedFile,
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
            Ok(false) if closed.lease.must_keep(clock::now()) => {}
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

/// A process that stalled between checking the lease and the end of the request may have stored messages that were
/// delivered to another process meanwhile, which has stored them too. That process either looked before our file
/// existed, or found it and left the rows to us. After a lease's time its files are visible, and ours drops the rows
/// that they hold.
async fn reconcile_fenced_write(closed: &ClosedFile, warehouse: &Warehouse, name: &str) {
    warn!(rows = closed.receipts.len(), name, "file was perhaps stored late, looking for others with the same rows");
    let write = FencedWrite { partition: closed.partition.clone(), name: name.to_owned(), bytes: closed.file.clone() };
    let mut attempt = 0;
    while let Err(error) = warehouse.mark_fenced_write(&write).await {
        attempt += 1;
        warn!(%error, attempt, "late file could not be marked, trying again");
        tokio::time::sleep(RETRY.delay(attempt, random_unit())).await;
    }
    tokio::time::sleep(closed.lease.ack_wait()).await;
    fenced_writes::reconcile(&write, warehouse).await;
}

fn report(closed: &ClosedFile, began: Instant) {
    let (rows, bytes) = (closed.receipts.len(), closed.file.len());
    metrics::sink_file_stored(closed.reason.name(), rows as u64, bytes as u64, began.elapsed());
    debug!(rows, bytes, reason = closed.reason.name(), partition = %closed.partition, "file stored");
}

async fn acknowledge(closed: &ClosedFile, acker: &Acker) {
    let began = Instant::now();
    for attempt in 1..=ACK_ATTEMPTS_MAX {
        match acker.ack(&closed.receipts).await {
            Ok(()) => return metrics::sink_file_acknowledged(began.elapsed(), closed.opened_at.elapsed()),
            // They are redelivered, and found in the file.
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
