//! The open files, one a partition, and when each of them closes.
//!
//! Invariant: every message that was taken is in exactly one open batch or one closed file,
//! or is named in what [`OpenBatches::take`] returns. Knows nothing of disks and awaits
//! nothing: the work here is the processor's.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bus::{Delivery, Leased, Receipt};
use crate::event::EventRef;
use crate::warehouse::{EncodeSettings, Encoder, OpenFile, Origin, Partition, WarehouseError, hour_of, is_path_safe};

use super::lease::Lease;

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
}

struct Batch {
    partition: Partition,
    file: OpenFile,
    receipts: Vec<Receipt>,
    lease: Lease,
    opened_at: Instant,
    memory_bytes: usize,
    /// Rows came since `memory_bytes` was measured.
    grown: bool,
}

pub(super) struct OpenBatches {
    limits: Limits,
    encoder: Encoder,
    slots: Vec<Option<Batch>>,
    free: Vec<usize>,
    /// The open hours of each app, with their slots.
    apps: HashMap<String, Vec<(i64, usize)>>,
    open: usize,
    memory_bytes: usize,
}

impl OpenBatches {
    pub(super) fn new(limits: Limits, settings: EncodeSettings) -> Result<Self, WarehouseError> {
        Ok(Self {
            limits,
            encoder: Encoder::new(settings)?,
            slots: Vec::new(),
            free: Vec::new(),
            apps: HashMap::new(),
            open: 0,
            memory_bytes: 0,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.open
    }

    pub(super) fn rows(&self) -> usize {
        self.batches().map(|batch| batch.file.rows()).sum()
    }

    /// Memory that the open files take, as of the last call of `take`.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches().map(|batch| batch.opened_at).min()
    }

    /// The next moment at which a batch is too old or a lease wants renewal.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let wake = |batch: &Batch| {
            let closes_at = batch.opened_at + self.limits.age_max;
            batch.lease.renew_at().map_or(closes_at, |renew_at| renew_at.min(closes_at))
        };
        self.batches().map(wake).min()
    }

    /// Adds the deliveries, which are ours by `leased`, leaving out those in `stored`.
    pub(super) fn take(
        &mut self,
        deliveries: &[Delivery],
        leased: &Leased,
        stored: &HashSet<u64>,
    ) -> Result<Taken, WarehouseError> {
        let mut taken = Taken::default();
        self.give_up_lapsed(leased.at.max(Instant::now()), deliveries, &mut taken);
        for delivery in deliveries.iter().filter(|delivery| !stored.contains(&delivery.sequence())) {
            match read(delivery) {
                Ok(event) => self.add(delivery, &event, leased, &mut taken)?,
                Err(reason) => taken.unreadable.push((delivery.receipt, reason)),
            }
        }
        self.close_large(&mut taken)?;
        Ok(taken)
    }

    /// Closes what is too old by `now`.
    pub(super) fn close_old(&mut self, now: Instant) -> Result<Taken, WarehouseError> {
        let old = |batch: &Batch| now.saturating_duration_since(batch.opened_at) >= self.limits.age_max;
        let old: Vec<usize> = self.slots_where(old);
        let mut taken = Taken::default();
        for slot in old {
            self.close(slot, Reason::Age, &mut taken)?;
        }
        Ok(taken)
    }

    pub(super) fn close_all(&mut self) -> Result<Taken, WarehouseError> {
        let mut taken = Taken::default();
        for slot in 0..self.slots.len() {
            self.close(slot, Reason::Stop, &mut taken)?;
        }
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

    /// Forgets a batch whose messages will come again. Returns its rows.
    pub(super) fn give_up(&mut self, slot: usize) -> usize {
        self.remove(slot).map_or(0, |batch| batch.file.rows())
    }

    fn add(
        &mut self,
        delivery: &Delivery,
        event: &EventRef<'_>,
        leased: &Leased,
        taken: &mut Taken,
    ) -> Result<(), WarehouseError> {
        let received_at_ms = delivery.published_at_ms;
        let hour = hour_of(event.timestamp_ms, received_at_ms);
        let slot = match self.slot_of(event.app_id, hour) {
            Some(slot) => slot,
            None => self.open(event.app_id, hour, leased, taken)?,
        };
        let Some(batch) = &mut self.slots[slot] else { return Ok(()) };
        let origin = Origin { sequence: delivery.sequence(), received_at_ms };
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

    fn open(&mut self, app_id: &str, hour: i64, leased: &Leased, taken: &mut Taken) -> Result<usize, WarehouseError> {
        if self.open >= self.limits.open_partitions_max {
            let age = |slot: &usize| self.slots[*slot].as_ref().map(|batch| batch.opened_at);
            if let Some(oldest) = self.slots_where(|_| true).into_iter().min_by_key(age) {
                self.close(oldest, Reason::Partitions, taken)?;
            }
        }
        let batch = Batch {
            partition: Partition { app_id: app_id.to_owned(), hour },
            file: self.encoder.open(),
            receipts: Vec::new(),
            lease: Lease::new(leased.clone(), self.limits.ack_wait),
            opened_at: Instant::now(),
            memory_bytes: 0,
            grown: false,
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(batch);
        self.apps.entry(app_id.to_owned()).or_default().push((hour, slot));
        self.open += 1;
        Ok(slot)
    }

    /// Measures what has grown and closes what is too large, the largest first.
    fn close_large(&mut self, taken: &mut Taken) -> Result<(), WarehouseError> {
        let mut full = Vec::new();
        for (slot, batch) in self.slots.iter_mut().enumerate() {
            let Some(batch) = batch.as_mut().filter(|batch| batch.grown) else { continue };
            batch.grown = false;
            let bytes = batch.file.memory_bytes() + batch.receipts.capacity() * size_of::<Receipt>();
            self.memory_bytes = self.memory_bytes + bytes - batch.memory_bytes;
            batch.memory_bytes = bytes;
            if batch.file.encoded_bytes() >= self.limits.file_bytes_max {
                full.push(slot);
            }
        }
        for slot in full {
            self.close(slot, Reason::Bytes, taken)?;
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
        if !batch.lease.holds(Instant::now()) {
            taken.lapsed_rows += batch.file.rows();
            return Ok(());
        }
        let Batch { partition, file, receipts, lease, .. } = batch;
        let file = self.encoder.finish(file, receipts.iter().map(|receipt| receipt.sequence))?;
        taken.closed.push(Closed { partition, file, receipts, lease, reason });
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
