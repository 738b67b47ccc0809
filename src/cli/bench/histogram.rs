//! A latency histogram with buckets that grow with the value, for a relative error of at most 1.6 %.
//!
//! The layout of HdrHistogram (http://hdrhistogram.org): 64 equal buckets per doubling.

use std::time::Duration;

const SUB_BITS: u32 = 6;
const SUB_BUCKETS: usize = 1 << SUB_BITS;
/// For `u64` nanoseconds: the first 64 values exactly, then 64 buckets for each of the other doublings.
const BUCKETS: usize = (64 - SUB_BITS as usize + 1) * SUB_BUCKETS;

#[derive(Clone, Debug)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max_ns: 0 }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    pub(super) fn len(&self) -> u64 {
        self.total
    }

    pub(super) fn max(&self) -> Duration {
        Duration::from_nanos(self.max_ns)
    }

    /// The smallest bound of `percent` of the values; zero if there are none.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        let rank = ((self.total as f64 * percent / 100.0).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(bucket_end(index).min(self.max_ns));
            }
        }
        Duration::ZERO
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB_BUCKETS as u64 {
        return ns as usize;
    }
    let doubling = 63 - ns.leading_zeros();
    let sub = (ns >> (doubling - SUB_BITS)) as usize & (SUB_BUCKETS - 1);
    (doubling - SUB_BITS + 1) as usize * SUB_BUCKETS + sub
}

/// The largest value of a bucket.
fn bucket_end(index: usize) -> u64 {
    if index < SUB_BUCKETS {
        return index as u64;
    }
    let shift = (index / SUB_BUCKETS - 1) as u32;
    let first = (SUB_BUCKETS + index % SUB_BUCKETS) as u64;
    (first << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        let mut value = 0u64;
        while value < u64::MAX / 3 {
            let index = bucket(value);
            assert!(value <= bucket_end(index), "{value}");
            assert!(index == 0 || value > bucket_end(index - 1), "{value}");
            assert!((bucket_end(index) - value) as f64 <= value as f64 / 64.0, "{value}");
            value += 1 + value / 7;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(bucket_end(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn percentiles_of_known_values() {
        let mut low = Histogram::default();
        let mut high = Histogram::default();
        assert_eq!((low.percentile(99.0), low.max(), low.len()), (Duration::ZERO, Duration::ZERO, 0));
        for microsecond in 1..=1_000u64 {
            let half = if microsecond <= 500 { &mut low } else { &mut high };
            half.record(Duration::from_micros(microsecond));
        }
        low.merge(&high);
        for (percent, expected_us) in [(50.0, 500.0), (99.0, 990.0), (99.9, 999.0), (100.0, 1000.0)] {
            let us = low.percentile(percent).as_secs_f64() * 1e6;
            assert!((us / expected_us - 1.0).abs() < 0.016, "p{percent} = {us}");
        }
        assert_eq!((low.max(), low.len()), (Duration::from_millis(1), 1_000));
    }
}
