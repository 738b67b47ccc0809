//! Rows of partitions that have no open file: kept as the bus brought them until there are enough for one.
//!
//! An open file takes tens of kilobytes however few its rows are, and each closed one costs a write, so a stream whose
//! rows are spread over thousands of partitions must not have a file for each of them every few seconds.
//!
//! Invariant: `memory_bytes` is what the rows take, the room in their buffers included. Knows nothing of files.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::bus::{Delivery, LeaseGrant, Receipt};
use crate::warehouse::Partition;

use super::lease::Lease;

/// What a partition takes beside its rows: its places in the maps and the ends of its buffers.
const PARTITION_BYTES: usize = 256;

#[derive(Default)]
pub(super) struct Cold {
    apps: HashMap<String, HashMap<i64, ColdRows>>,
    partitions: usize,
    rows: usize,
    memory_bytes: usize,
    /// Of all rows.
    lease: Option<Lease>,
    /// No partition's first row came before.
    oldest: Option<Instant>,
}

/// The rows of one partition.
pub(super) struct ColdRows {
    payloads: Vec<u8>,
    rows: Vec<ColdRow>,
    pub(super) since: Instant,
}

struct ColdRow {
    /// Where its payload ends.
    end: usize,
    published_at_ms: i64,
    receipt: Receipt,
}

impl Cold {
    pub(super) fn partitions(&self) -> usize {
        self.partitions
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.oldest
    }

    pub(super) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Adds a row; answers how many rows and bytes its partition has.
    pub(super) fn push(
        &mut self,
        (app_id, hour): (&str, i64),
        delivery: &Delivery,
        leased: &LeaseGrant,
        ack_wait: Duration,
    ) -> (usize, usize) {
        match &self.lease {
            Some(lease) => lease.include(leased.at),
            None => self.lease = Some(Lease::new(leased.clone(), ack_wait)),
        }
        if !self.apps.contains_key(app_id) {
            self.apps.insert(app_id.to_owned(), HashMap::new());
        }
        let Some(hours) = self.apps.get_mut(app_id) else { return (0, 0) };
        let rows = hours.entry(hour).or_insert_with(|| {
            let since = Instant::now();
            self.partitions += 1;
            self.memory_bytes += PARTITION_BYTES;
            self.oldest.get_or_insert(since);
            ColdRows { payloads: Vec::new(), rows: Vec::new(), since }
        });
        let before = rows.memory_bytes();
        rows.push(delivery);
        self.memory_bytes += rows.memory_bytes() - before;
        self.rows += 1;
        (rows.rows.len(), rows.payloads.len())
    }

    pub(super) fn holds(&self, app_id: &str, hour: i64) -> bool {
        self.rows > 0 && self.apps.get(app_id).is_some_and(|hours| hours.contains_key(&hour))
    }

    pub(super) fn take(&mut self, app_id: &str, hour: i64) -> Option<ColdRows> {
        let hours = self.apps.get_mut(app_id)?;
        let rows = hours.remove(&hour)?;
        if hours.is_empty() {
            self.apps.remove(app_id);
        }
        self.partitions -= 1;
        self.rows -= rows.len();
        self.memory_bytes -= PARTITION_BYTES + rows.memory_bytes();
        if self.rows == 0 {
            *self = Self::default();
        }
        Some(rows)
    }

    /// The partitions whose first row came at `since` or before.
    pub(super) fn since(&mut self, since: Instant) -> Vec<Partition> {
        let (mut due, mut oldest) = (Vec::new(), None);
        for (partition, rows) in self.each() {
            if rows.since <= since {
                due.push((rows.since, partition));
            } else {
                oldest = Some(oldest.map_or(rows.since, |oldest: Instant| oldest.min(rows.since)));
            }
        }
        due.sort_by_key(|(since, _)| *since);
        self.oldest = due.first().map(|(since, _)| *since).or(oldest);
        due.into_iter().map(|(_, partition)| partition).collect()
    }

    /// All partitions, those with the most bytes first.
    pub(super) fn largest(&self) -> Vec<Partition> {
        let mut all: Vec<_> = self.each().map(|(partition, rows)| (rows.payloads.len(), partition)).collect();
        all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        all.into_iter().map(|(_, partition)| partition).collect()
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.apps.values().flat_map(HashMap::values).flat_map(ColdRows::receipts).collect()
    }

    /// Forgets rows that will come again: all when their lease does not hold any more, else the partitions with one of
    /// these messages. Answers how many.
    pub(super) fn give_up_lapsed(&mut self, now: Instant, repeats: Option<&HashSet<u64>>) -> usize {
        let before = self.rows;
        if self.lease.as_ref().is_some_and(|lease| !lease.holds(now)) {
            *self = Self::default();
            return before;
        }
        let Some(repeats) = repeats.filter(|_| self.rows > 0) else { return 0 };
        let repeated = |rows: &ColdRows| rows.rows.iter().any(|row| repeats.contains(&row.receipt.sequence));
        let lost: Vec<Partition> = self.each().filter(|(_, rows)| repeated(rows)).map(|(lost, _)| lost).collect();
        for partition in lost {
            self.take(&partition.app_id, partition.hour);
        }
        before - self.rows
    }

    fn each(&self) -> impl Iterator<Item = (Partition, &ColdRows)> {
        self.apps.iter().flat_map(|(app_id, hours)| {
            hours.iter().map(|(hour, rows)| (Partition { app_id: app_id.clone(), hour: *hour }, rows))
        })
    }
}

impl ColdRows {
    fn push(&mut self, delivery: &Delivery) {
        let payload = delivery.payload();
        reserve(&mut self.payloads, payload.len());
        reserve(&mut self.rows, 1);
        self.payloads.extend_from_slice(payload);
        let (end, published_at_ms) = (self.payloads.len(), delivery.published_at_ms);
        self.rows.push(ColdRow { end, published_at_ms, receipt: delivery.receipt });
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn receipts(&self) -> impl Iterator<Item = Receipt> {
        self.rows.iter().map(|row| row.receipt)
    }

    /// Payload, time at which the bus got it, and receipt of each row.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], i64, Receipt)> {
        let starts = std::iter::once(0).chain(self.rows.iter().map(|row| row.end));
        starts.zip(&self.rows).map(|(start, row)| (&self.payloads[start..row.end], row.published_at_ms, row.receipt))
    }

    fn memory_bytes(&self) -> usize {
        self.payloads.capacity() + self.rows.capacity() * size_of::<ColdRow>()
    }
}

/// Grows by a half where a vector would double: thousands of them are half empty at the same time.
fn reserve<T>(vector: &mut Vec<T>, more: usize) {
    if vector.capacity() - vector.len() < more {
        vector.reserve_exact(more.max(vector.len() / 2));
    }
}
