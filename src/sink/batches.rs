//! The open files, one a partition, and when each of them closes; with more partitions than files may be open, the
//! rows of the others are gathered first.
//!
//! Invariant: every message that was taken is gathered, in exactly one open batch or in one closed file,
//! or is named in what [`OpenBatches::take`] returns. Knows nothing of disks and awaits
//! nothing: the work here is the processor's.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::clock;
use crate::base::faults;
use crate::bus::{Delivery, LeaseGrant, LeaseState, Receipt};
use crate::event::EventRef;
use crate::warehouse::{Encoder, Origin, Partition, WarehouseError, hour_of, is_path_safe};

use super::batch::Batch;
use super::cold::{Cold, ColdRows};
use super::kept::Kept;
use super::lease::Lease;

/// Rows and bytes of a partition without an open file at which it gets one.
const COLD_ROWS_MAX: usize = 1_000;
const COLD_BYTES_MAX: usize = 256 * 1024;
/// Flush intervals that gathered rows wait, when they are of more partitions than files may be open.
const COLD_INTERVALS: u32 = 6;
/// Files and bytes of gathered rows that one job closes: many small files are larger than what they are made of.
const COLD_FILES_MAX: usize = 256;
const COLD_FILES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// When files close.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    pub(super) rows_max: usize,
    pub(super) file_bytes_max: usize,
    pub(super) age_max: Duration,
    pub(super) open_bytes_max: usize,
    pub(super) open_partitions_max: usize,
    pub(super) ack_wait: Duration,
}

/// Which limit closed a file; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Rows,
    Bytes,
    Age,
    Memory,
    Partitions,
    Stop,
    /// The stream that had the messages is gone.
    StreamLost,
}

impl Reason {
    pub(super) fn name(self) -> &'static str {
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

/// A finished file with what has to be acknowledged when it is stored.
pub(super) struct Closed {
    pub(super) partition: Partition,
    pub(super) file: Bytes,
    pub(super) receipts: Vec<Receipt>,
    pub(super) lease: Lease,
    pub(super) reason: Reason,
}

/// What came of taking some deliveries.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) closed: Vec<Closed>,
    /// Messages that no attempt will ever store, and why.
    pub(super) unreadable: Vec<(Receipt, String)>,
    /// Rows of batches that were given up because their leases had lapsed.
    pub(super) lapsed_rows: usize,
    /// Rows that are kept from now on, until it is known whether their messages come again.
    pub(super) kept_rows: usize,
    /// Rows in `closed` whose messages never come again.
    pub(super) orphaned_rows: usize,
}

pub(super) struct OpenBatches {
    limits: Limits,
    encoder: Encoder,
    slots: Vec<Option<Batch>>,
    free: Vec<usize>,
    /// The open hours of each app, with their slots.
    apps: HashMap<String, Vec<(i64, usize)>>,
    open: usize,
    /// Of the open files.
    memory_bytes: usize,
    cold: Cold,
    kept: Kept,
}

impl OpenBatches {
    pub(super) fn new(limits: Limits, encoder: Encoder) -> Self {
        Self {
            limits,
            encoder,
            slots: Vec::new(),
            free: Vec::new(),
            apps: HashMap::new(),
            open: 0,
            memory_bytes: 0,
            cold: Cold::default(),
            kept: Kept::default(),
        }
    }

    /// What is kept in doubt apart.
    pub(super) fn is_empty(&self) -> bool {
        self.open == 0 && self.cold.rows() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn rows(&self) -> usize {
        self.batches().map(|batch| batch.file.rows()).sum::<usize>() + self.cold.rows() + self.kept.rows()
    }

    /// Memory that the open files take, as of the last call of `take`, and the gathered rows.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes + self.cold.memory_bytes() + self.kept.memory_bytes()
    }

    /// Rows of messages of which it is not known whether they come again.
    pub(super) fn kept_rows(&self) -> usize {
        self.kept.rows()
    }

    /// Partitions whose rows are gathered.
    #[cfg(test)]
    pub(super) fn cold_partitions(&self) -> usize {
        self.cold.partitions()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches().map(|batch| batch.opened_at).chain(self.cold.oldest()).min()
    }

    /// The next moment at which a batch is too old or a lease wants renewal.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let wake = |batch: &Batch| {
            let closes_at = batch.opened_at + self.limits.age_max;
            batch.lease.renew_at().map_or(closes_at, |renew_at| renew_at.min(closes_at))
        };
        let cold_closes_at = self.cold.oldest().map(|oldest| oldest + self.cold_age_max());
        let cold_renews_at = self.cold.lease().and_then(Lease::renew_at);
        self.batches().map(wake).chain(cold_closes_at).chain(cold_renews_at).chain(self.kept.look_at()).min()
    }

    /// The age at which gathered rows are written.
    fn cold_age_max(&self) -> Duration {
        let many = self.cold.partitions() > self.limits.open_partitions_max;
        self.limits.age_max * if many { COLD_INTERVALS } else { 1 }
    }

    /// Adds the deliveries, which are ours by `leased`, leaving out those in `stored`.
    pub(super) fn take(
        &mut self,
        deliveries: &[Delivery],
        leased: &LeaseGrant,
        stored: &HashSet<u64>,
    ) -> Result<Taken, WarehouseError> {
        let mut taken = Taken::default();
        self.settle_doubts(&mut taken)?;
        self.give_up_lapsed(leased.at.max(clock::now()), deliveries, &mut taken);
        for delivery in deliveries.iter().filter(|delivery| !stored.contains(&delivery.sequence())) {
            match read(delivery) {
                Ok(event) => self.add(delivery, &event, leased, &mut taken)?,
                Err(reason) => taken.unreadable.push((delivery.receipt, reason)),
            }
        }
        self.close_large(&mut taken)?;
        Ok(taken)
    }

    /// Closes what is too old by `now`; of what is gathered as much as one job closes, if there is `room` for it.
    pub(super) fn close_old(&mut self, now: Instant, room: bool) -> Result<Taken, WarehouseError> {
        let mut taken = Taken::default();
        self.settle_doubts(&mut taken)?;
        let old = |batch: &Batch| now.saturating_duration_since(batch.opened_at) >= self.limits.age_max;
        let old: Vec<usize> = self.slots_where(old);
        for slot in old {
            self.close(slot, Reason::Age, &mut taken)?;
        }
        if room
            && let Some(since) = now.checked_sub(self.cold_age_max())
            && self.cold.oldest().is_some_and(|oldest| oldest <= since)
        {
            let due = self.cold.since(since);
            self.close_cold(due, Reason::Age, &mut taken, |_| true)?;
        }
        Ok(taken)
    }

    /// All that is open, and as much of what is gathered as one job closes.
    pub(super) fn close_all(&mut self) -> Result<Taken, WarehouseError> {
        let mut taken = Taken::default();
        self.settle_doubts(&mut taken)?;
        for slot in 0..self.slots.len() {
            self.close(slot, Reason::Stop, &mut taken)?;
        }
        self.close_cold(self.cold.largest(), Reason::Stop, &mut taken, |_| true)?;
        Ok(taken)
    }

    /// The leases that want renewal by `now`, with their messages.
    pub(super) fn leases_due(&self, now: Instant) -> impl Iterator<Item = (usize, &Lease, &[Receipt])> {
        self.slots.iter().enumerate().filter_map(move |(slot, batch)| {
            let batch = batch.as_ref()?;
            let due = batch.lease.renew_at().is_none_or(|renew_at| renew_at <= now);
            due.then_some((slot, &batch.lease, batch.receipts.as_slice()))
        })
    }

    /// The lease of the gathered rows, when it wants renewal by `now`, with their messages.
    pub(super) fn cold_lease_due(&self, now: Instant) -> Option<(&Lease, Vec<Receipt>)> {
        let lease = self.cold.lease()?;
        let due = lease.renew_at().is_none_or(|renew_at| renew_at <= now);
        due.then(|| (lease, self.cold.receipts()))
    }

    /// Forgets the gathered rows when their messages will come again. Returns how many there were.
    pub(super) fn give_up_cold(&mut self) -> usize {
        self.cold.give_up_lapsed(clock::now(), None)
    }

    /// Forgets a batch whose messages will come again. Returns its rows.
    pub(super) fn give_up(&mut self, slot: usize) -> usize {
        self.remove(slot).map_or(0, |batch| batch.file.rows())
    }

    fn add(
        &mut self,
        delivery: &Delivery,
        event: &EventRef<'_>,
        leased: &LeaseGrant,
        taken: &mut Taken,
    ) -> Result<(), WarehouseError> {
        let received_at_ms = delivery.published_at_ms;
        let hour = hour_of(event.timestamp_ms, received_at_ms);
        let slot = match self.slot_of(event.app_id, hour) {
            Some(slot) => slot,
            None if self.open >= self.limits.open_partitions_max => {
                return self.gather(delivery, (event.app_id, hour), leased, taken);
            }
            None if self.cold.holds(event.app_id, hour) => match self.warm_up(event.app_id, hour, taken)? {
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
            self.close(slot, Reason::Rows, taken)?;
        }
        Ok(())
    }

    fn slot_of(&self, app_id: &str, hour: i64) -> Option<usize> {
        let hours = self.apps.get(app_id)?;
        hours.iter().find(|(open, _)| *open == hour).map(|(_, slot)| *slot)
    }

    /// Keeps a row for later; its partition gets a file in place of the smallest open one when it has enough.
    fn gather(
        &mut self,
        delivery: &Delivery,
        (app_id, hour): (&str, i64),
        leased: &LeaseGrant,
        taken: &mut Taken,
    ) -> Result<(), WarehouseError> {
        let (rows, bytes) = self.cold.push((app_id, hour), delivery, leased, self.limits.ack_wait);
        if rows < COLD_ROWS_MAX.min(self.limits.rows_max) && bytes < COLD_BYTES_MAX {
            return Ok(());
        }
        let rows_of = |slot: &usize| self.slots[*slot].as_ref().map(|batch| batch.file.rows());
        if let Some(smallest) = self.slots_where(|_| true).into_iter().min_by_key(rows_of) {
            self.close(smallest, Reason::Partitions, taken)?;
        }
        self.warm_up(app_id, hour, taken).map(drop)
    }

    /// Opens a file with the gathered rows of a partition. None when there are none that are still ours.
    fn warm_up(&mut self, app_id: &str, hour: i64, taken: &mut Taken) -> Result<Option<usize>, WarehouseError> {
        if self.cold.lease().is_some_and(|lease| lease.is_kept(clock::now())) {
            // The next job sees to them.
            return Ok(None);
        }
        let leased = self.cold.lease().filter(|lease| lease.holds(clock::now())).and_then(Lease::leased);
        let Some(rows) = self.cold.take(app_id, hour) else { return Ok(None) };
        let Some(leased) = leased else {
            taken.lapsed_rows += rows.len();
            return Ok(None);
        };
        let slot = self.open(app_id, hour, &leased);
        self.fill(slot, &rows, taken)?;
        Ok(Some(slot))
    }

    fn fill(&mut self, slot: usize, rows: &ColdRows, taken: &mut Taken) -> Result<(), WarehouseError> {
        let Some(batch) = &mut self.slots[slot] else { return Ok(()) };
        batch.fill(&mut self.encoder, rows, &mut taken.unreadable)?;
        batch.grown = true;
        Ok(())
    }

    /// Writes gathered partitions, as many as one job closes and `wanted` asks for.
    fn close_cold(
        &mut self,
        partitions: Vec<Partition>,
        reason: Reason,
        taken: &mut Taken,
        wanted: impl Fn(&Self) -> bool,
    ) -> Result<(), WarehouseError> {
        let (mut files, mut bytes) = (0, 0);
        for Partition { app_id, hour } in partitions {
            if files == COLD_FILES_MAX || bytes >= COLD_FILES_BYTES_MAX || !wanted(self) {
                break;
            }
            let closed = taken.closed.len();
            if let Some(slot) = self.warm_up(&app_id, hour, taken)? {
                self.close(slot, reason, taken)?;
            }
            files += 1;
            bytes += taken.closed[closed..].iter().map(|closed| closed.file.len()).sum::<usize>();
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

    /// Measures what has grown and closes what is too large, the largest first.
    fn close_large(&mut self, taken: &mut Taken) -> Result<(), WarehouseError> {
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
            self.close(slot, Reason::Bytes, taken)?;
        }
        // Gathered rows go first where they take much, some more than must, so that the next job need not look again.
        if self.memory_bytes() > self.limits.open_bytes_max && self.cold.memory_bytes() > self.limits.open_bytes_max / 4
        {
            let enough = self.limits.open_bytes_max - self.limits.open_bytes_max / 8;
            self.close_cold(self.cold.largest(), Reason::Memory, taken, |batches| batches.memory_bytes() > enough)?;
        }
        if self.memory_bytes > self.limits.open_bytes_max {
            let mut largest = self.slots_where(|_| true);
            largest.sort_unstable_by_key(|slot| self.slots[*slot].as_ref().map_or(0, |batch| batch.memory_bytes));
            while self.memory_bytes > self.limits.open_bytes_max
                && let Some(slot) = largest.pop()
            {
                self.close(slot, Reason::Memory, taken)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, slot: usize, reason: Reason, taken: &mut Taken) -> Result<(), WarehouseError> {
        let Some(batch) = self.remove(slot) else { return Ok(()) };
        match batch.lease.state(clock::now()) {
            LeaseState::Active => {}
            LeaseState::Lost => {
                taken.lapsed_rows += batch.file.rows();
                return Ok(());
            }
            LeaseState::InDoubt | LeaseState::StreamGone => {
                taken.kept_rows += self.kept.keep(batch);
                return Ok(());
            }
        }
        let Batch { partition, file, receipts, lease, .. } = batch;
        let file = self.encoder.finish(file, receipts.iter().map(|receipt| receipt.sequence))?;
        taken.closed.push(Closed { partition, file, receipts, lease, reason });
        Ok(())
    }

    /// Sets aside what the bus may have forgotten, and settles what was set aside as soon as it is known whether it comes
    /// again: what does is given up, what never does is closed, as much as one job closes.
    fn settle_doubts(&mut self, taken: &mut Taken) -> Result<(), WarehouseError> {
        let now = clock::now();
        for slot in self.slots_where(|batch| batch.lease.is_kept(now)) {
            if let Some(batch) = self.remove(slot) {
                taken.kept_rows += self.kept.keep(batch);
            }
        }
        if self.cold.lease().is_some_and(|lease| lease.is_kept(now)) {
            taken.kept_rows += self.kept.keep_cold(std::mem::take(&mut self.cold));
        }
        taken.lapsed_rows += self.kept.give_up_what_comes_again(now);
        let (mut files, mut bytes) = (0, 0);
        while files < COLD_FILES_MAX
            && bytes < COLD_FILES_BYTES_MAX
            && let Some(orphans) = self.kept.orphans(&mut self.encoder, now, &mut taken.unreadable)?
        {
            let Batch { partition, file, receipts, lease, .. } = orphans;
            taken.orphaned_rows += receipts.len();
            let file = self.encoder.finish(file, receipts.iter().map(|receipt| receipt.sequence))?;
            (files, bytes) = (files + 1, bytes + file.len());
            taken.closed.push(Closed { partition, file, receipts, lease, reason: Reason::StreamLost });
        }
        Ok(())
    }

    /// Gives up batches whose messages the bus may have delivered again: those that lapsed by
    /// the clock, and those that hold a message that is here a second time.
    fn give_up_lapsed(&mut self, now: Instant, deliveries: &[Delivery], taken: &mut Taken) {
        let again: HashSet<u64> =
            deliveries.iter().filter(|delivery| delivery.delivery_count > 1).map(Delivery::sequence).collect();
        // New messages mostly come after those that are held, so the range settles nearly all.
        let range = again.iter().min().zip(again.iter().max()).map(|(first, last)| *first..=*last);
        let repeats =
            |sequence| range.as_ref().is_some_and(|range| range.contains(&sequence)) && again.contains(&sequence);
        let lapsed = self.slots_where(|batch| {
            let repeated = || batch.receipts.iter().any(|receipt| repeats(receipt.sequence));
            !batch.lease.holds(now) || (!again.is_empty() && repeated())
        });
        taken.lapsed_rows += lapsed.into_iter().map(|slot| self.give_up(slot)).sum::<usize>();
        taken.lapsed_rows += self.cold.give_up_lapsed(now, (!again.is_empty()).then_some(&again));
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

/// Reads a message's event, or says why nobody can.
pub(super) fn read(delivery: &Delivery) -> Result<EventRef<'_>, String> {
    let event = EventRef::decode_admitted(delivery.payload()).map_err(|error| error.to_string())?;
    if !is_path_safe(event.app_id) {
        return Err("the event's app_id cannot name a directory".to_owned());
    }
    Ok(event)
}
