//! The open files, one per partition, and when each of them closes. When there are more partitions than files may be
//! open, rows of the other partitions are gathered first.
//!
//! Invariant: every message taken is either gathered, in exactly one open batch, in one closed file,
//! or reported by [`OpenBatches::take`]. Knows nothing of disks and awaits
//! nothing: the work here is CPU-bound.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::batch::Batch;
use super::cold::{ColdPartitions, ColdRows};
use super::in_doubt::InDoubt;
use crate::base::{clock, faults};
use crate::bus::{Delivery, LeaseGrant, LeaseState, Receipt};
use crate::event::EventRef;
use crate::sink::lease::Lease;
use crate::warehouse::{Encoder, Origin, Partition, WarehouseError, hour_of, is_path_safe};

/// Gathered rows and bytes at which a partition gets an open file.
const COLD_ROWS_MAX: usize = 1_000;
const COLD_BYTES_MAX: usize = 256 * 1024;
/// Flush intervals that gathered rows wait when their partitions outnumber the files that may be open.
const COLD_INTERVALS: u32 = 6;
/// Files and bytes of gathered rows that one job closes. Many small files are larger than the rows they are made of.
const COLD_FILES_MAX: usize = 256;
const COLD_FILES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// When files close.
#[derive(Clone, Debug)]
pub(in crate::sink) struct Limits {
    pub(in crate::sink) rows_max: usize,
    pub(in crate::sink) file_bytes_max: usize,
    pub(in crate::sink) age_max: Duration,
    pub(in crate::sink) open_bytes_max: usize,
    pub(in crate::sink) open_partitions_max: usize,
    pub(in crate::sink) ack_wait: Duration,
}

/// The limit that closed a file; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sink) enum Reason {
    Rows,
    Bytes,
    Age,
    Memory,
    Partitions,
    Stop,
    /// The stream of the messages is gone.
    StreamLost,
}

impl Reason {
    pub(in crate::sink) fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Bytes => "bytes",
            Self::Age => "age",
            Self::Memory => "memory",
            Self::Partitions => "partitions",
            Self::Stop => "stop",
            Self::StreamLost => "stream_lost",
        }
    }
}

/// A finished file and the messages to acknowledge once it is stored.
pub(in crate::sink) struct ClosedFile {
    pub(in crate::sink) partition: Partition,
    pub(in crate::sink) file: Bytes,
    pub(in crate::sink) receipts: Vec<Receipt>,
    pub(in crate::sink) lease: Lease,
    pub(in crate::sink) reason: Reason,
    pub(in crate::sink) opened_at: Instant,
}

/// The result of a job.
#[derive(Default)]
pub(in crate::sink) struct JobOutcome {
    pub(in crate::sink) closed: Vec<ClosedFile>,
    /// Messages that can never be stored, and why.
    pub(in crate::sink) unreadable: Vec<(Receipt, String)>,
    /// Rows of batches that were dropped because their leases had lapsed.
    pub(in crate::sink) lapsed_rows: usize,
    /// Rows that were set aside until it is known whether their messages will be redelivered.
    pub(in crate::sink) in_doubt_rows: usize,
    /// Rows in `closed` whose messages will never be redelivered.
    pub(in crate::sink) orphaned_rows: usize,
}

pub(in crate::sink) struct OpenBatches {
    limits: Limits,
    encoder: Encoder,
    slots: Vec<Option<Batch>>,
    free: Vec<usize>,
    /// The open hours of each app and their slots.
    apps: HashMap<String, Vec<(i64, usize)>>,
    open: usize,
    /// Memory of the open files.
    memory_bytes: usize,
    cold: ColdPartitions,
    in_doubt: InDoubt,
}

impl OpenBatches {
    pub(in crate::sink) fn new(limits: Limits, encoder: Encoder) -> Self {
        Self {
            limits,
            encoder,
            slots: Vec::new(),
            free: Vec::new(),
            apps: HashMap::new(),
            open: 0,
            memory_bytes: 0,
            cold: ColdPartitions::default(),
            in_doubt: InDoubt::default(),
        }
    }

    /// Whether nothing is open or gathered. Ignores rows in doubt.
    pub(in crate::sink) fn is_empty(&self) -> bool {
        self.open == 0 && self.cold.rows() == 0
    }

    pub(in crate::sink) fn len(&self) -> usize {
        self.open
    }

    pub(in crate::sink) fn rows(&self) -> usize {
        self.batches().map(|batch| batch.file.rows()).sum::<usize>() + self.cold.rows() + self.in_doubt.rows()
    }

    /// Memory of the open files, as of the last job, and of the gathered rows and those in doubt.
    pub(in crate::sink) fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.cold.memory_bytes() + self.in_doubt.memory_bytes()
    }

    /// Rows of messages whose redelivery is in doubt.
    pub(in crate::sink) fn in_doubt_rows(&self) -> usize {
        self.in_doubt.rows()
    }

    /// Partitions with gathered rows.
    #[cfg(test)]
    pub(in crate::sink) fn cold_partitions(&self) -> usize {
        self.cold.partitions()
    }

    pub(in crate::sink) fn oldest(&self) -> Option<Instant> {
        self.batches().map(|batch| batch.opened_at).chain(self.cold.oldest()).min()
    }

    /// The next time at which a batch is too old or a lease needs renewal.
    pub(in crate::sink) fn wake_at(&self) -> Option<Instant> {
        let wake = |batch: &Batch| {
            let closes_at = batch.opened_at + self.limits.age_max;
            batch.lease.renew_at().map_or(closes_at, |renew_at| renew_at.min(closes_at))
        };
        let cold_closes_at = self.cold.oldest().map(|oldest| oldest + self.cold_age_max());
        let cold_renews_at = self.cold.lease().and_then(Lease::renew_at);
        self.batches().map(wake).chain(cold_closes_at).chain(cold_renews_at).chain(self.in_doubt.look_at()).min()
    }

    /// The age at which gathered rows are closed into files.
    fn cold_age_max(&self) -> Duration {
        let many = self.cold.partitions() > self.limits.open_partitions_max;
        self.limits.age_max * if many { COLD_INTERVALS } else { 1 }
    }

    /// Adds the deliveries, leased by `leased`, except for those in `stored`.
    pub(in crate::sink) fn take(
        &mut self,
        deliveries: &[Delivery],
        leased: &LeaseGrant,
        stored: &HashSet<u64>,
    ) -> Result<JobOutcome, WarehouseError> {
        let mut outcome = JobOutcome::default();
        self.resolve_doubts(&mut outcome)?;
        self.drop_lapsed(leased.at.max(clock::now()), deliveries, &mut outcome);
        for delivery in deliveries.iter().filter(|delivery| !stored.contains(&delivery.sequence())) {
            match read(delivery) {
                Ok(event) => self.add(delivery, &event, leased, &mut outcome)?,
                Err(reason) => outcome.unreadable.push((delivery.receipt, reason)),
            }
        }
        self.close_large(&mut outcome)?;
        Ok(outcome)
    }

    /// Closes batches that are too old at `now`, and as many gathered partitions as one job closes if there is `room`.
    pub(in crate::sink) fn close_old(&mut self, now: Instant, room: bool) -> Result<JobOutcome, WarehouseError> {
        let mut outcome = JobOutcome::default();
        self.resolve_doubts(&mut outcome)?;
        let old = |batch: &Batch| now.saturating_duration_since(batch.opened_at) >= self.limits.age_max;
        let old: Vec<usize> = self.slots_where(old);
        for slot in old {
            self.close(slot, Reason::Age, &mut outcome)?;
        }
        if room
            && let Some(since) = now.checked_sub(self.cold_age_max())
            && self.cold.oldest().is_some_and(|oldest| oldest <= since)
        {
            let due = self.cold.since(since);
            self.close_cold(due, Reason::Age, &mut outcome, |_| true)?;
        }
        Ok(outcome)
    }

    /// Closes all batches, and as many gathered partitions as one job closes.
    pub(in crate::sink) fn close_all(&mut self) -> Result<JobOutcome, WarehouseError> {
        let mut outcome = JobOutcome::default();
        self.resolve_doubts(&mut outcome)?;
        for slot in 0..self.slots.len() {
            self.close(slot, Reason::Stop, &mut outcome)?;
        }
        self.close_cold(self.cold.largest(), Reason::Stop, &mut outcome, |_| true)?;
        Ok(outcome)
    }

    /// The leases that need renewal at `now`, with their messages.
    pub(in crate::sink) fn leases_due(&self, now: Instant) -> impl Iterator<Item = (usize, &Lease, &[Receipt])> {
        self.slots.iter().enumerate().filter_map(move |(slot, batch)| {
            let batch = batch.as_ref()?;
            let due = batch.lease.renew_at().is_none_or(|renew_at| renew_at <= now);
            due.then_some((slot, &batch.lease, batch.receipts.as_slice()))
        })
    }

    /// The lease of the gathered rows if it needs renewal at `now`, with their messages.
    pub(in crate::sink) fn cold_lease_due(&self, now: Instant) -> Option<(&Lease, Vec<Receipt>)> {
        let lease = self.cold.lease()?;
        let due = lease.renew_at().is_none_or(|renew_at| renew_at <= now);
        due.then(|| (lease, self.cold.receipts()))
    }

    /// Drops the gathered rows if their messages will be redelivered. Returns how many there were.
    pub(in crate::sink) fn drop_cold(&mut self) -> usize {
        self.cold.drop_lapsed(clock::now(), None)
    }

    /// Drops a batch whose messages will be redelivered. Returns the number of its rows.
    pub(in crate::sink) fn drop_batch(&mut self, slot: usize) -> usize {
        self.remove(slot).map_or(0, |batch| batch.file.rows())
    }

    fn add(
        &mut self,
        delivery: &Delivery,
        event: &EventRef<'_>,
        leased: &LeaseGrant,
        outcome: &mut JobOutcome,
    ) -> Result<(), WarehouseError> {
        let received_at_ms = delivery.published_at_ms;
        let hour = hour_of(event.timestamp_ms, received_at_ms);
        let slot = match self.slot_of(event.app_id, hour) {
            Some(slot) => slot,
            None if self.open >= self.limits.open_partitions_max => {
                return self.gather(delivery, (event.app_id, hour), leased, outcome);
            }
            None if self.cold.holds(event.app_id, hour) => match self.warm_up(event.app_id, hour, outcome)? {
                Some(slot) => slot,
                None => self.open(event.app_id, hour, leased),
            },
            None => self.open(event.app_id, hour, leased),
        };
        let Some(batch) = &mut self.slots[slot] else { return Ok(()) };
        let origin = Origin { sequence: delivery.sequence(), received_at_ms };
        faults::end_process_on("CAUSALITY_FAULT_SINK", delivery.payload());
        self.encoder.push(&mut batch.file, event, origin)?;
        batch.receipts.push(delivery.receipt);
        if !batch.grown {
            batch.grown = true;
            batch.lease.include(leased.at);
        }
        if batch.receipts.len() >= self.limits.rows_max {
            self.close(slot, Reason::Rows, outcome)?;
        }
        Ok(())
    }

    fn slot_of(&self, app_id: &str, hour: i64) -> Option<usize> {
        let hours = self.apps.get(app_id)?;
        hours.iter().find(|(open, _)| *open == hour).map(|(_, slot)| *slot)
    }

    /// Gathers a row. Once its partition has enough rows, it gets a file in place of the smallest open one.
    fn gather(
        &mut self,
        delivery: &Delivery,
        (app_id, hour): (&str, i64),
        leased: &LeaseGrant,
        outcome: &mut JobOutcome,
    ) -> Result<(), WarehouseError> {
        let (rows, bytes) = self.cold.push((app_id, hour), delivery, leased, self.limits.ack_wait);
        if rows < COLD_ROWS_MAX.min(self.limits.rows_max) && bytes < COLD_BYTES_MAX {
            return Ok(());
        }
        let rows_of = |slot: &usize| self.slots[*slot].as_ref().map(|batch| batch.file.rows());
        if let Some(smallest) = self.slots_where(|_| true).into_iter().min_by_key(rows_of) {
            self.close(smallest, Reason::Partitions, outcome)?;
        }
        self.warm_up(app_id, hour, outcome).map(drop)
    }

    /// Opens a file with the gathered rows of a partition. Returns `None` if none of them are still leased.
    fn warm_up(&mut self, app_id: &str, hour: i64, outcome: &mut JobOutcome) -> Result<Option<usize>, WarehouseError> {
        if self.cold.lease().is_some_and(|lease| lease.must_keep(clock::now())) {
            // The next job handles them.
            return Ok(None);
        }
        let leased = self.cold.lease().filter(|lease| lease.holds(clock::now())).and_then(Lease::leased);
        let Some(rows) = self.cold.take(app_id, hour) else { return Ok(None) };
        let Some(leased) = leased else {
            outcome.lapsed_rows += rows.len();
            return Ok(None);
        };
        let slot = self.open(app_id, hour, &leased);
        self.fill(slot, &rows, outcome)?;
        Ok(Some(slot))
    }

    fn fill(&mut self, slot: usize, rows: &ColdRows, outcome: &mut JobOutcome) -> Result<(), WarehouseError> {
        let Some(batch) = &mut self.slots[slot] else { return Ok(()) };
        batch.fill(&mut self.encoder, rows, &mut outcome.unreadable)?;
        batch.grown = true;
        Ok(())
    }

    /// Closes gathered partitions, as many as one job closes and while `wanted` returns true.
    fn close_cold(
        &mut self,
        partitions: Vec<Partition>,
        reason: Reason,
        outcome: &mut JobOutcome,
        wanted: impl Fn(&Self) -> bool,
    ) -> Result<(), WarehouseError> {
        let (mut files, mut bytes) = (0, 0);
        for Partition { app_id, hour } in partitions {
            if files == COLD_FILES_MAX || bytes >= COLD_FILES_BYTES_MAX || !wanted(self) {
                break;
            }
            let closed = outcome.closed.len();
            if let Some(slot) = self.warm_up(&app_id, hour, outcome)? {
                self.close(slot, reason, outcome)?;
            }
            files += 1;
            bytes += outcome.closed[closed..].iter().map(|closed| closed.file.len()).sum::<usize>();
        }
        Ok(())
    }

    fn open(&mut self, app_id: &str, hour: i64, leased: &LeaseGrant) -> usize {
        let lease = Lease::new(leased.clone(), self.limits.ack_wait);
        let batch = Batch::new(&self.encoder, Partition { app_id: app_id.to_owned(), hour }, lease);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(batch);
        self.apps.entry(app_id.to_owned()).or_default().push((hour, slot));
        self.open += 1;
        slot
    }

    /// Measures batches that have grown and closes those that are too large, largest first.
    fn close_large(&mut self, outcome: &mut JobOutcome) -> Result<(), WarehouseError> {
        let mut full = Vec::new();
        for (slot, batch) in self.slots.iter_mut().enumerate() {
            let Some(batch) = batch.as_mut().filter(|batch| batch.grown) else { continue };
            batch.grown = false;
            let bytes =
                size_of::<Batch>() + batch.file.memory_bytes() + batch.receipts.capacity() * size_of::<Receipt>();
            self.memory_bytes = self.memory_bytes + bytes - batch.memory_bytes;
            batch.memory_bytes = bytes;
            if batch.file.encoded_bytes() >= self.limits.file_bytes_max {
                full.push(slot);
            }
        }
        for slot in full {
            self.close(slot, Reason::Bytes, outcome)?;
        }
        // Close gathered rows first if they take much memory, and a few more than needed to spare the next job.
        if self.memory_bytes() > self.limits.open_bytes_max && self.cold.memory_bytes() > self.limits.open_bytes_max / 4
        {
            let enough = self.limits.open_bytes_max - self.limits.open_bytes_max / 8;
            self.close_cold(self.cold.largest(), Reason::Memory, outcome, |batches| batches.memory_bytes() > enough)?;
        }
        if self.memory_bytes > self.limits.open_bytes_max {
            let mut largest = self.slots_where(|_| true);
            largest.sort_unstable_by_key(|slot| self.slots[*slot].as_ref().map_or(0, |batch| batch.memory_bytes));
            while self.memory_bytes > self.limits.open_bytes_max
                && let Some(slot) = largest.pop()
            {
                self.close(slot, Reason::Memory, outcome)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, slot: usize, reason: Reason, outcome: &mut JobOutcome) -> Result<(), WarehouseError> {
        let Some(batch) = self.remove(slot) else { return Ok(()) };
        match batch.lease.state(clock::now()) {
            LeaseState::Active => {}
            LeaseState::Lost => {
                outcome.lapsed_rows += batch.file.rows();
                return Ok(());
            }
            LeaseState::InDoubt | LeaseState::StreamGone => {
                outcome.in_doubt_rows += self.in_doubt.add(batch);
                return Ok(());
            }
        }
        let Batch { partition, file, receipts, lease, opened_at, .. } = batch;
        let file = self.encoder.finish(file, receipts.iter().map(|receipt| receipt.sequence))?;
        outcome.closed.push(ClosedFile { partition, file, receipts, lease, reason, opened_at });
        Ok(())
    }

    /// Sets aside rows whose leases the bus may have lost. Resolves rows set aside earlier once it is known whether their
    /// messages will be redelivered: if so they are dropped, if not they are closed, as many as one job closes.
    fn resolve_doubts(&mut self, outcome: &mut JobOutcome) -> Result<(), WarehouseError> {
        let now = clock::now();
        for slot in self.slots_where(|batch| batch.lease.must_keep(now)) {
            if let Some(batch) = self.remove(slot) {
                outcome.in_doubt_rows += self.in_doubt.add(batch);
            }
        }
        if self.cold.lease().is_some_and(|lease| lease.must_keep(now)) {
            outcome.in_doubt_rows += self.in_doubt.add_cold(std::mem::take(&mut self.cold));
        }
        outcome.lapsed_rows += self.in_doubt.drop_redelivered(now);
        let (mut files, mut bytes) = (0, 0);
        while files < COLD_FILES_MAX
            && bytes < COLD_FILES_BYTES_MAX
            && let Some(orphans) = self.in_doubt.orphans(&mut self.encoder, now, &mut outcome.unreadable)?
        {
            let Batch { partition, file, receipts, lease, opened_at, .. } = orphans;
            let reason = Reason::StreamLost;
            outcome.orphaned_rows += receipts.len();
            let file = self.encoder.finish(file, receipts.iter().map(|receipt| receipt.sequence))?;
            (files, bytes) = (files + 1, bytes + file.len());
            outcome.closed.push(ClosedFile { partition, file, receipts, lease, reason, opened_at });
        }
        Ok(())
    }

    /// Drops batches whose messages the bus may have redelivered: those that lapsed by
    /// the clock, and those with a message that is delivered here again.
    fn drop_lapsed(&mut self, now: Instant, deliveries: &[Delivery], outcome: &mut JobOutcome) {
        let again: HashSet<u64> =
            deliveries.iter().filter(|delivery| delivery.delivery_count > 1).map(Delivery::sequence).collect();
        // New messages mostly follow those in open batches, so the range check decides nearly all.
        let range = again.iter().min().zip(again.iter().max()).map(|(first, last)| *first..=*last);
        let repeats =
            |sequence| range.as_ref().is_some_and(|range| range.contains(&sequence)) && again.contains(&sequence);
        let lapsed = self.slots_where(|batch| {
            let repeated = || batch.receipts.iter().any(|receipt| repeats(receipt.sequence));
            !batch.lease.holds(now) || (!again.is_empty() && repeated())
        });
        outcome.lapsed_rows += lapsed.into_iter().map(|slot| self.drop_batch(slot)).sum::<usize>();
        outcome.lapsed_rows += self.cold.drop_lapsed(now, (!again.is_empty()).then_some(&again));
    }

    fn remove(&mut self, slot: usize) -> Option<Batch> {
        let batch = self.slots.get_mut(slot)?.take()?;
        let app_id = &batch.partition.app_id;
        if let Some(hours) = self.apps.get_mut(app_id) {
            hours.retain(|(_, open)| *open != slot);
            if hours.is_empty() {
                self.apps.remove(app_id);
            }
        }
        self.free.push(slot);
        self.open -= 1;
        self.memory_bytes -= batch.memory_bytes;
        Some(batch)
    }

    fn slots_where(&self, is: impl Fn(&Batch) -> bool) -> Vec<usize> {
        let filled = self.slots.iter().enumerate().filter_map(|(slot, batch)| Some((slot, batch.as_ref()?)));
        filled.filter(|(_, batch)| is(batch)).map(|(slot, _)| slot).collect()
    }

    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.slots.iter().flatten()
    }
}

/// Decodes a message's event, or returns why it is unreadable.
pub(in crate::sink) fn read(delivery: &Delivery) -> Result<EventRef<'_>, String> {
    let event = EventRef::decode_admitted(delivery.payload()).map_err(|error| error.to_string())?;
    if !is_path_safe(event.app_id) {
        return Err("the event's app_id cannot name a directory".to_owned());
    }
    Ok(event)
}
