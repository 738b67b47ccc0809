//! A histogram of latencies with a relative error of at most 1 %, and their exact maximum.

use std::time::Duration;

const SIGNIFICANT_DIGITS: u8 = 2;

#[derive(Clone, Debug)]
pub(super) struct Histogram {
    nanoseconds: hdrhistogram::Histogram<u64>,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        // Fails only for more digits than five.
        let nanoseconds = hdrhistogram::Histogram::new(SIGNIFICANT_DIGITS).unwrap();
        Self { nanoseconds, max: Duration::ZERO }
    }
}

impl Histogram {
    pub(super) fn record(&mut self, latency: Duration) {
        self.nanoseconds += latency.as_nanos() as u64;
        self.max = self.max.max(latency);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.nanoseconds += &other.nanoseconds;
        self.max = self.max.max(other.max);
    }

    pub(super) fn len(&self) -> u64 {
        self.nanoseconds.len()
    }

    pub(super) fn max(&self) -> Duration {
        self.max
    }

    /// The smallest bound of `percent` of the values; zero if there are none.
    pub(super) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.nanoseconds.value_at_percentile(percent)).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
