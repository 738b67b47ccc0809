//! A bounded table with the buckets of recently active callers.
//!
//! Invariant: a full bucket equals no bucket. Full buckets are evicted first, a few at each insert, so that the table
//! holds roughly the active callers. Only if a part of the table has no full bucket is the fullest one evicted: to
//! reset its own bucket that way, a caller would have to drain thousands of others further than its own.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use hashbrown::HashTable;
use parking_lot::Mutex;

use super::rate::{Bucket, Quota};

/// Buckets in all parts together.
pub(crate) const CALLERS_MAX: usize = 1 << 20;
const PARTS: usize = 64;
const PART_CALLERS_MAX: usize = CALLERS_MAX / PARTS;
/// Buckets probed at each insert, and at an insert into a full part.
const PROBES: usize = 2;
const PROBES_WHEN_FULL: usize = 32;
/// A part shrinks when it uses less than this fraction of its capacity.
const SHRINK_SHARE: usize = 8;
const ROOM_MIN: usize = 64;

/// A compact caller id: a key id or an address.
pub(crate) type CallerId = [u8; 17];

/// The buckets of one caller.
pub(crate) struct Caller {
    id: CallerId,
    pub(crate) requests: Bucket,
    pub(crate) events: Option<Box<Bucket>>,
}

/// The quotas of one caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quotas {
    pub(crate) requests: Quota,
    pub(crate) events: Option<Quota>,
}

pub(crate) struct Table {
    hasher: RandomState,
    parts: Box<[Mutex<Part>]>,
}

#[derive(Default)]
struct Part {
    /// The position of each caller in `callers`, by hash.
    index: HashTable<u32>,
    callers: Vec<Caller>,
    /// Position of the next probe.
    hand: usize,
}

impl Default for Table {
    fn default() -> Self {
        Self::of(PARTS)
    }
}

impl Table {
    fn of(parts: usize) -> Self {
        Self { hasher: RandomState::new(), parts: (0..parts).map(|_| Mutex::default()).collect() }
    }

    /// Calls `use_buckets` with the caller's buckets, which are new if the caller was not active recently.
    pub(crate) fn with<T>(&self, id: CallerId, quotas: Quotas, use_buckets: impl FnOnce(&Caller) -> T) -> T {
        let hash = self.hasher.hash_one(id);
        // The hash tables of the parts use the lowest and the highest bits.
        let part = &self.parts[(hash >> 32) as usize % self.parts.len()];
        let mut part = part.lock();
        let at = match part.find(&id, hash) {
            Some(at) => at,
            None => part.insert(Caller::new(id, quotas), hash, &self.hasher),
        };
        let caller = &mut part.callers[at];
        caller.update_quotas(quotas);
        use_buckets(caller)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().callers.len()).sum()
    }
}

impl Part {
    fn find(&self, id: &CallerId, hash: u64) -> Option<usize> {
        self.index.find(hash, |at| self.callers[*at as usize].id == *id).map(|at| *at as usize)
    }

    fn insert(&mut self, caller: Caller, hash: u64, hasher: &RandomState) -> usize {
        self.make_room(hasher);
        let at = self.callers.len();
        self.callers.push(caller);
        let callers = &self.callers;
        self.index.insert_unique(hash, at as u32, |at| hasher.hash_one(callers[*at as usize].id));
        at
    }

    fn make_room(&mut self, hasher: &RandomState) {
        let full = self.callers.len() >= PART_CALLERS_MAX;
        let probes = if full { PROBES_WHEN_FULL } else { PROBES };
        let mut nearest = None;
        for _ in 0..probes.min(self.callers.len()) {
            self.hand %= self.callers.len().max(1);
            let Some(caller) = self.callers.get(self.hand) else { break };
            match caller.full_in_ms() {
                0 => {
                    self.remove(self.hand, hasher);
                    // Positions have changed, so the remaining probes are left to the next insert.
                    if full {
                        return;
                    }
                }
                wait_ms => {
                    if nearest.is_none_or(|(least_ms, _)| wait_ms < least_ms) {
                        nearest = Some((wait_ms, self.hand));
                    }
                    self.hand += 1;
                }
            }
        }
        if full && let Some((_, at)) = nearest {
            self.remove(at, hasher);
        }
        self.shrink(hasher);
    }

    fn remove(&mut self, at: usize, hasher: &RandomState) {
        let last = self.callers.len() - 1;
        self.unlist(at, hasher);
        if at != last {
            let moved = hasher.hash_one(self.callers[last].id);
            if let Some(place) = self.index.find_mut(moved, |place| *place as usize == last) {
                *place = at as u32;
            }
        }
        self.callers.swap_remove(at);
    }

    fn unlist(&mut self, at: usize, hasher: &RandomState) {
        let hash = hasher.hash_one(self.callers[at].id);
        if let Ok(entry) = self.index.find_entry(hash, |place| *place as usize == at) {
            entry.remove();
        }
    }

    fn shrink(&mut self, hasher: &RandomState) {
        let used = self.callers.len().max(ROOM_MIN);
        if self.callers.capacity() / SHRINK_SHARE > used {
            self.callers.shrink_to(2 * used);
            let callers = &self.callers;
            self.index.shrink_to(2 * used, |at| hasher.hash_one(callers[*at as usize].id));
        }
    }
}

impl Caller {
    fn new(id: CallerId, quotas: Quotas) -> Self {
        Self { id, requests: Bucket::full(quotas.requests), events: quotas.events.map(Bucket::full).map(Box::new) }
    }

    /// Applies changed quotas by replacing the buckets with full ones.
    fn update_quotas(&mut self, quotas: Quotas) {
        if self.requests.quota() != quotas.requests {
            self.requests = Bucket::full(quotas.requests);
        }
        if self.events.as_ref().map(|bucket| bucket.quota()) != quotas.events {
            self.events = quotas.events.map(Bucket::full).map(Box::new);
        }
    }

    fn full_in_ms(&self) -> u64 {
        self.requests.full_in_ms().max(self.events.as_ref().map_or(0, |events| events.full_in_ms()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A caller is evicted a hundred seconds after its last request.
    const SLOW: Quotas = Quotas { requests: Quota { per_second: 1, burst: 100 }, events: None };
    const WITH_EVENTS: Quotas = Quotas { events: Some(Quota { per_second: 10, burst: 1_000 }), ..SLOW };

    fn id(number: usize) -> CallerId {
        let mut id = [1; 17];
        id[..8].copy_from_slice(&number.to_le_bytes());
        id
    }

    fn take(table: &Table, number: usize, quotas: Quotas, tokens: usize) -> bool {
        table.with(id(number), quotas, |caller| caller.requests.take(tokens))
    }

    #[tokio::test(start_paused = true)]
    async fn callers_with_full_buckets_are_evicted() {
        let table = Table::default();
        let quick = Quotas { requests: Quota { per_second: 10, burst: 10 }, events: None };
        for second in 0..20 {
            for number in 0..1_000 {
                assert!(take(&table, second * 1_000 + number, quick, 1));
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(table.len() < 3_000, "{} of 20,000 callers are kept", table.len());
        let room: usize = table.parts.iter().map(|part| part.lock().callers.capacity()).sum();
        assert!(room < 64 * 256, "{room}");
    }

    #[tokio::test(start_paused = true)]
    async fn partly_used_buckets_survive() {
        let table = Table::default();
        assert!(take(&table, 0, SLOW, 100));
        for number in 1..10_000 {
            assert!(take(&table, number, SLOW, 1));
        }
        assert!(!take(&table, 0, SLOW, 1));
        tokio::time::advance(Duration::from_secs(5)).await;
        for number in 1..10_000 {
            assert!(take(&table, number, SLOW, 2));
        }
        assert!(take(&table, 0, SLOW, 5) && !take(&table, 0, SLOW, 1));
    }

    #[test]
    fn changed_quotas_are_applied() {
        let table = Table::default();
        assert!(take(&table, 1, SLOW, 100) && !take(&table, 1, SLOW, 1));
        let more = Quotas { requests: Quota { per_second: 7, burst: 200 }, events: None };
        assert!(take(&table, 1, more, 200) && !take(&table, 1, more, 1));
        assert!(table.with(id(1), WITH_EVENTS, |caller| caller.events.as_ref().unwrap().take(1_000)));
        assert!(!table.with(id(1), WITH_EVENTS, |caller| caller.events.as_ref().unwrap().take(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_table_is_bounded_and_buckets_are_not_reset_cheaply() {
        let table = Table::of(1);
        let exhausted = 20;
        for number in 0..exhausted {
            assert!(take(&table, number, SLOW, 100));
        }
        for number in exhausted..PART_CALLERS_MAX + 1_000 {
            assert!(take(&table, number, SLOW, 50));
        }
        assert_eq!(table.len(), PART_CALLERS_MAX);
        let reset = (0..exhausted).filter(|number| take(&table, *number, SLOW, 1)).count();
        assert_eq!(reset, 0, "who emptied his own bucket further than others did keeps it");
    }

    /// Overhead of the allocator per block.
    const BLOCK_BYTES: usize = 16;

    #[tokio::test(start_paused = true)]
    async fn the_maximum_number_of_buckets_fits_in_300_megabytes() {
        let table = Table::of(1);
        for number in 0..PART_CALLERS_MAX {
            // With both buckets.
            assert!(take(&table, number, WITH_EVENTS, 1));
        }
        let part = table.parts[0].lock();
        assert_eq!(part.callers.len(), PART_CALLERS_MAX);
        let callers = part.callers.capacity() * size_of::<Caller>();
        let events = part.callers.len() * (size_of::<Bucket>() + BLOCK_BYTES);
        let bytes = PARTS * (callers + events + part.index.allocation_size());
        assert!(bytes < 270_000_000, "{} MB for {CALLERS_MAX} callers", bytes / 1_000_000);
    }

    /// Measures the same through the operating system. Takes minutes without optimization, and needs a process of its
    /// own: `just callers`.
    #[cfg(all(target_os = "linux", not(debug_assertions)))]
    #[tokio::test(start_paused = true)]
    async fn a_million_callers_fit_in_300_megabytes() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
            line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1_024
        };
        let (table, before) = (Table::default(), resident());
        for number in 0..1_000_000 {
            assert!(take(&table, number, WITH_EVENTS, 1));
        }
        let bytes = resident() - before;
        println!("a million callers: {} MB", bytes / 1_000_000);
        assert_eq!(table.len(), 1_000_000);
        assert!(bytes < 300_000_000, "{bytes}");
    }
}
