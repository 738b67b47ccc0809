//! Rows of partitions without an open file, gathered unencoded until there are enough for one.
//!
//! An open file takes tens of kilobytes even with few rows, and each closed file costs a write. A stream whose
//! rows are spread over thousands of partitions must not produce a file for each of them every few seconds.
//!
//! Invariant: `memory_bytes` is the memory of the rows, including spare capacity. Knows nothing of files.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use crate::bus::{Delivery, LeaseGrant, Receipt};
use crate::sink::lease::Lease;
use crate::warehouse::Partition;

/// Memory of a partition in addition to its rows: map entries and buffer headers.
const PARTITION_BYTES: usize = 256;

#[derive(Default)]
pub(super) struct ColdPartitions {
    apps: HashMap<String, HashMap<i64, ColdRows>>,
    partitions: usize,
    rows: usize,
    memory_bytes: usize,
    /// The lease of all rows.
    lease: Option<Lease>,
    /// A lower bound of the arrival of the oldest row.
    oldest: Option<Instant>,
}

/// The rows of one partition.
pub(super) struct ColdRows {
    payloads: Vec<u8>,
    rows: Vec<ColdRow>,
    pub(super) since: Instant,
}

struct ColdRow {
    /// The end of its payload in the buffer.
    end: usize,
    published_at_ms: i64,
    receipt: Receipt,
}

impl ColdPartitions {
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

    /// Adds a row. Returns the rows and bytes of its partition.
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

    /// The partitions whose first row arrived at or before `since`.
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

    /// All partitions, largest first.
    pub(super) fn largest(&self) -> Vec<Partition> {
        let mut all: Vec<_> = self.each().map(|(partition, rows)| (rows.payloads.len(), partition)).collect();
        all.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        all.into_iter().map(|(_, partition)| partition).collect()
    }

    pub(super) fn receipts(&self) -> Vec<Receipt> {
        self.apps.values().flat_map(HashMap::values).flat_map(ColdRows::receipts).collect()
    }

    /// Drops rows whose messages will be redelivered: all of them if their lease no longer holds, otherwise the partitions
    /// with one of the `repeats`. Returns the number of rows.
    pub(super) fn drop_lapsed(&mut self, now: Instant, repeats: Option<&HashSet<u64>>) -> usize {
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

    /// The payload, publish time and receipt of each row.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], i64, Receipt)> {
        let starts = std::iter::once(0).chain(self.rows.iter().map(|row| row.end));
        starts.zip(&self.rows).map(|(start, row)| (&self.payloads[start..row.end], row.published_at_ms, row.receipt))
    }

    fn memory_bytes(&self) -> usize {
        self.payloads.capacity() + self.rows.capacity() * size_of::<ColdRow>()
    }
}

/// Grows by half where a vector would double, because thousands of buffers are partly empty at the same time.
fn reserve<T>(vector: &mut Vec<T>, more: usize) {
    if vector.capacity() - vector.len() < more {
        vector.reserve_exact(more.max(vector.len() / 2));
    }
}
