//! A sorted, immutable run of deduplication keys: its bytes, its index keys and its filter.
//!
//! A run consists of blocks that are stored as rows. In memory it has the first key of each block and a split-block
//! Bloom filter. The layout of a block is
//!
//! ```text
//! u8 2 | per key: 16 bytes key | u32 second | u64 first sequence of its group
//! ```
//!
//! all little endian. Blocks of the first version have neither the leading byte nor the sequences. Their lengths are
//! even, those of this version are odd. The filter only saves reads: a key counts as seen when its block contains it.
//! Invariant: keys are unique and ascend over the whole run. Knows nothing of time or SQLite.

use super::key::{DedupEntry, DedupKey};
use crate::base::bloom::{self, Filter};

/// A key, its time in seconds and the first sequence of its group.
const ENTRY_BYTES: usize = 28;
/// In the first version: a key and its time.
const ENTRY_BYTES_V1: usize = 20;
const BLOCK_VERSION: u8 = 2;
/// Entries of a block; together 3,921 bytes.
pub(crate) const BLOCK_ENTRIES: usize = 140;
pub(crate) const BLOCK_BYTES: usize = 1 + BLOCK_ENTRIES * ENTRY_BYTES;

const FILTER_BITS_PER_KEY: usize = 16;

/// Finds the block of a key.
#[derive(Debug, PartialEq)]
pub(crate) struct RunIndex {
    /// The first key of each block.
    index_keys: Vec<DedupKey>,
    filter: Filter,
}

/// A run built from its keys.
#[derive(Debug)]
pub(crate) struct BuiltRun {
    pub(crate) index: RunIndex,
    /// The concatenated blocks.
    bytes: Vec<u8>,
}

impl BuiltRun {
    pub(crate) fn new(keys: impl Iterator<Item = (DedupKey, DedupEntry)>) -> Self {
        let mut sorted: Vec<(DedupKey, DedupEntry)> = keys.collect();
        sorted.sort_unstable_by_key(|(key, _)| *key);
        let mut filter = Filter::new((sorted.len() * FILTER_BITS_PER_KEY).div_ceil(bloom::BLOCK_BYTES * 8));
        let mut bytes = Vec::with_capacity(sorted.len().div_ceil(BLOCK_ENTRIES) * BLOCK_BYTES);
        for (index, (key, seen)) in sorted.iter().enumerate() {
            if index % BLOCK_ENTRIES == 0 {
                bytes.push(BLOCK_VERSION);
            }
            filter.insert(hash(key));
            bytes.extend_from_slice(&key.0);
            bytes.extend_from_slice(&seen.published_s.to_le_bytes());
            bytes.extend_from_slice(&seen.group().to_le_bytes());
        }
        let index_keys = sorted.iter().step_by(BLOCK_ENTRIES).map(|(key, _)| *key).collect();
        Self { index: RunIndex { index_keys, filter }, bytes }
    }

    pub(crate) fn blocks(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.chunks(BLOCK_BYTES)
    }
}

impl RunIndex {
    /// The block that may contain the key; `None` when the run does not contain it.
    #[inline]
    pub(crate) fn candidate(&self, key: &DedupKey) -> Option<usize> {
        if !self.filter.may_contain(hash(key)) {
            return None;
        }
        self.index_keys.partition_point(|index_key| index_key <= key).checked_sub(1)
    }

    /// Index keys and filter as stored.
    pub(crate) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let index_keys = self.index_keys.iter().flat_map(|key| key.0).collect();
        (index_keys, self.filter.to_bytes())
    }

    /// `None` when the bytes are not an index.
    pub(crate) fn decode(index_keys: &[u8], filter: &[u8]) -> Option<Self> {
        let (keys, no_rest) = index_keys.as_chunks::<16>();
        let index_keys = keys.iter().map(|key| DedupKey(*key)).collect();
        let filter = Filter::from_bytes(filter)?;
        (no_rest.is_empty() && keys.is_sorted()).then_some(Self { index_keys, filter })
    }
}

/// The entry of a key in the block that may contain it.
pub(crate) fn find_in_block(block: &[u8], key: &DedupKey) -> Option<DedupEntry> {
    if block.len().is_multiple_of(2) {
        let (entries, _) = block.as_chunks::<ENTRY_BYTES_V1>();
        let at = entries.binary_search_by(|entry| entry[..16].cmp(&key.0)).ok()?;
        return entries[at].last_chunk().map(|seconds| DedupEntry::new(u32::from_le_bytes(*seconds), 0));
    }
    let (entries, _) = block[1..].as_chunks::<ENTRY_BYTES>();
    let at = entries.binary_search_by(|entry| entry[..16].cmp(&key.0)).ok()?;
    let (seconds, group) = entries[at][16..].split_first_chunk()?;
    Some(DedupEntry::new(u32::from_le_bytes(*seconds), u64::from_le_bytes(*group.first_chunk()?)))
}

/// The end of a key, which is a hash itself.
#[inline]
fn hash(key: &DedupKey) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = key.0;
    u64::from(u32::from_le_bytes([a, b, c, d])) << 32 | u64::from(u32::from_le_bytes([e, f, g, h]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(range: std::ops::Range<u32>) -> impl Iterator<Item = (DedupKey, DedupEntry)> {
        range.map(|n| (DedupKey::of(&n.to_le_bytes()), DedupEntry::new(n, u64::from(n) << 20)))
    }

    /// The format before groups were stored.
    #[test]
    fn blocks_of_the_first_version_are_still_read() {
        for count in [1_u32, 3, 200] {
            let mut all: Vec<DedupKey> = (0..count).map(|n| DedupKey::of(&n.to_le_bytes())).collect();
            all.sort();
            let block: Vec<u8> = all.iter().flat_map(|key| [&key.0[..], &7_u32.to_le_bytes()].concat()).collect();
            for key in &all {
                assert_eq!(find_in_block(&block, key), Some(DedupEntry::new(7, 0)));
            }
            assert_eq!(find_in_block(&block, &DedupKey::of(b"another")), None);
        }
    }

    #[test]
    fn finds_every_key_and_hardly_any_other() {
        let run = BuiltRun::new(keys(0..50_000));
        let blocks: Vec<&[u8]> = run.blocks().collect();
        assert_eq!(blocks.len(), run.index.index_keys.len());
        let find = |key: &DedupKey| run.index.candidate(key).and_then(|block| find_in_block(blocks[block], key));
        for (key, seen) in keys(0..50_000) {
            assert_eq!(find(&key), Some(seen));
        }
        let mut passed = 0;
        for (key, _) in keys(50_000..150_000) {
            passed += usize::from(run.index.candidate(&key).is_some());
            assert_eq!(find(&key), None);
        }
        assert!(passed < 500, "{passed} of 100,000 unknown keys pass the filter");
    }

    #[test]
    fn the_index_is_read_back_and_damage_is_detected() {
        let run = BuiltRun::new(keys(0..1_000));
        let (index_keys, filter) = run.index.encode();
        assert_eq!(RunIndex::decode(&index_keys, &filter).as_ref(), Some(&run.index));
        assert_eq!(RunIndex::decode(&index_keys[1..], &filter), None);
        assert_eq!(RunIndex::decode(&index_keys, &filter[4..]), None);
        assert_eq!(RunIndex::decode(&index_keys, &[]), None);
        let empty = BuiltRun::new(keys(0..0));
        assert_eq!(empty.index.candidate(&DedupKey::of(b"x")), None);
    }
}
