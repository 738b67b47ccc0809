//! Knows which events the table has in the partitions that the import writes to, in bounded memory.
//!
//! Invariant: no false positives. Identities are 128 bits of two keyed hashes, for which no outsider can construct a
//! collision.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::warehouse::{Partition, Warehouse, WarehouseError};

/// Cached ids and keys, about 32 bytes each. The least recently used partitions are evicted and read again when they are
/// needed.
const CACHED_MAX: usize = 8_000_000;

#[derive(Clone, Default)]
pub(super) struct IdentityHasher(RandomState, RandomState);

impl IdentityHasher {
    pub(super) fn hash_id(&self, id: &str) -> u128 {
        self.hash(0, id)
    }

    pub(super) fn hash_key(&self, key: &str) -> u128 {
        self.hash(1, key)
    }

    fn hash(&self, kind: u8, text: &str) -> u128 {
        u128::from(self.0.hash_one((kind, text))) << 64 | u128::from(self.1.hash_one((kind, text)))
    }
}

#[derive(Default)]
pub(super) struct KnownIdentities {
    hasher: IdentityHasher,
    partitions: HashMap<Partition, PartitionIdentities>,
    cached: usize,
    clock: u64,
}

#[derive(Default)]
struct PartitionIdentities {
    identities: HashSet<u128>,
    used_at: u64,
}

impl KnownIdentities {
    pub(super) fn hasher(&self) -> IdentityHasher {
        self.hasher.clone()
    }

    /// The identities of the partition. The caller adds those it writes.
    pub(super) fn of_partition(
        &mut self,
        warehouse: &Warehouse,
        partition: &Partition,
    ) -> Result<&mut HashSet<u128>, WarehouseError> {
        self.clock += 1;
        if !self.partitions.contains_key(partition) {
            let (mut identities, hasher) = (HashSet::new(), self.hasher.clone());
            warehouse.each_identity(partition, |id, key| {
                identities.insert(hasher.hash_id(id));
                if !key.is_empty() {
                    identities.insert(hasher.hash_key(key));
                }
            })?;
            self.partitions.insert(partition.clone(), PartitionIdentities { identities, used_at: 0 });
        }
        let known = self.partitions.entry(partition.clone()).or_default();
        known.used_at = self.clock;
        Ok(&mut known.identities)
    }

    /// Evicts partitions beyond the bound. Call it between chunks only: the rows of the current one may not be in the table
    /// yet.
    pub(super) fn evict(&mut self) {
        self.cached = self.partitions.values().map(|known| known.identities.len()).sum();
        if self.cached <= CACHED_MAX {
            return;
        }
        let mut by_use: Vec<(u64, Partition)> =
            self.partitions.iter().map(|(partition, known)| (known.used_at, partition.clone())).collect();
        by_use.sort_by_key(|(used_at, _)| *used_at);
        for (_, partition) in by_use {
            if self.cached <= CACHED_MAX / 2 {
                return;
            }
            self.cached -= self.partitions.remove(&partition).map_or(0, |known| known.identities.len());
        }
    }
}
