//! Which events the table has, of the partitions that the import is at, in bounded memory.
//!
//! Invariant: what is said to be there is there: 128 bits of two keyed hashes, which nobody outside can make meet.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use crate::warehouse::{Partition, Warehouse, WarehouseError};

/// Ids and keys that are remembered, about 32 bytes each. The partitions that were used longest ago are forgotten, and
/// read again when they are needed.
const REMEMBERED_MAX: usize = 8_000_000;

#[derive(Clone, Default)]
pub(super) struct Keys(RandomState, RandomState);

impl Keys {
    pub(super) fn of_id(&self, id: &str) -> u128 {
        self.hash(0, id)
    }

    pub(super) fn of_key(&self, key: &str) -> u128 {
        self.hash(1, key)
    }

    fn hash(&self, kind: u8, text: &str) -> u128 {
        u128::from(self.0.hash_one((kind, text))) << 64 | u128::from(self.1.hash_one((kind, text)))
    }
}

#[derive(Default)]
pub(super) struct Identities {
    keys: Keys,
    partitions: HashMap<Partition, Known>,
    remembered: usize,
    clock: u64,
}

#[derive(Default)]
struct Known {
    identities: HashSet<u128>,
    used_at: u64,
}

impl Identities {
    pub(super) fn keys(&self) -> Keys {
        self.keys.clone()
    }

    /// What the partition has, to be added to.
    pub(super) fn of(
        &mut self,
        warehouse: &Warehouse,
        partition: &Partition,
    ) -> Result<&mut HashSet<u128>, WarehouseError> {
        self.clock += 1;
        if !self.partitions.contains_key(partition) {
            let (mut identities, keys) = (HashSet::new(), self.keys.clone());
            warehouse.each_identity(partition, |id, key| {
                identities.insert(keys.of_id(id));
                if !key.is_empty() {
                    identities.insert(keys.of_key(key));
                }
            })?;
            self.partitions.insert(partition.clone(), Known { identities, used_at: 0 });
        }
        let known = self.partitions.entry(partition.clone()).or_default();
        known.used_at = self.clock;
        Ok(&mut known.identities)
    }

    /// Forgets what is too much. To be called between chunks: rows of one may not be in the table yet.
    pub(super) fn relieve(&mut self) {
        self.remembered = self.partitions.values().map(|known| known.identities.len()).sum();
        if self.remembered <= REMEMBERED_MAX {
            return;
        }
        let mut by_use: Vec<(u64, Partition)> =
            self.partitions.iter().map(|(partition, known)| (known.used_at, partition.clone())).collect();
        by_use.sort_by_key(|(used_at, _)| *used_at);
        for (_, partition) in by_use {
            if self.remembered <= REMEMBERED_MAX / 2 {
                return;
            }
            self.remembered -= self.partitions.remove(&partition).map_or(0, |known| known.identities.len());
        }
    }
}
