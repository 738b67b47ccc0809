//! Split-block Bloom filters, sized for the actual rows of a row group.
//!
//! They follow the Parquet format specification, "Bloom Filter". The filter is built from
//! hashes when the row group closes, because only then is its size known.

use parquet::bloom_filter::Sbbf;
use twox_hash::XxHash64;

use crate::base::bloom::{BLOCK_BYTES, Filter};

/// The specification's seed for xxHash64.
const SEED: u64 = 0;
/// Ten bits per value give about one false positive in a hundred.
const BITS_PER_VALUE: usize = 10;
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The hashes of a column's values, until its row group closes.
#[derive(Default)]
pub(crate) struct Hashes(Vec<u64>);

impl Hashes {
    pub(crate) fn push(&mut self, value: &[u8]) {
        let hash = XxHash64::oneshot(SEED, value);
        // Keeps the filter minimal when a column has the same value in all rows, such as an empty user id.
        if self.0.last() != Some(&hash) {
            self.0.push(hash);
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<u64>()
    }

    /// Builds the filter.
    pub(crate) fn filter(&self) -> Sbbf {
        let Self(hashes) = self;
        let bytes = (hashes.len() * BITS_PER_VALUE / 8).next_power_of_two().clamp(BLOCK_BYTES, BYTES_MAX);
        let mut filter = Filter::new(bytes / BLOCK_BYTES);
        hashes.iter().for_each(|hash| filter.insert(*hash));
        Sbbf::new(&filter.to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_finds_every_value_and_few_others() {
        let name = |i: usize| format!("device-{i}");
        let mut hashes = Hashes::default();
        (0..10_000).for_each(|i| hashes.push(name(i).as_bytes()));
        let filter = hashes.filter();
        assert!((0..10_000).all(|i| filter.check(name(i).as_str())));
        let wrong = (10_000..20_000).filter(|i| filter.check(name(*i).as_str())).count();
        assert!(wrong < 200, "{wrong} false positives in 10,000");
    }
}
