//! Token buckets.
//!
//! The `leaky-bucket` crate adds whole tokens at whole milliseconds and loses the fraction of a millisecond at each
//! refill, at most one percent at an interval of 100 ms. Intervals are therefore at least that long if the burst allows
//! it.

use std::time::Duration;

use leaky_bucket::RateLimiter;

/// Tokens per second, and the capacity of the bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    pub per_second: u32,
    pub burst: u32,
}

const INTERVAL_MS: u64 = 100;
const INTERVAL_MS_MIN: u64 = 10;
const INTERVAL_MS_MAX: u64 = 1_000;
/// Acceptable deviation from the rate, in parts per thousand.
const ERROR_MAX: u64 = 1;

impl Quota {
    /// The number of tokens per refill and the interval in milliseconds: the shortest interval within the acceptable
    /// deviation, or else the one with the smallest deviation.
    fn refill(self) -> (u64, u64) {
        let (rate, burst) = (u64::from(self.per_second), u64::from(self.burst));
        let tokens = |interval: u64| ((rate * interval + 500) / 1_000).max(1);
        let error = |interval: u64| (tokens(interval) * 1_000).abs_diff(rate * interval) * 1_000 / (rate * interval);
        // Tokens beyond the burst would be lost.
        let longest = (burst * 1_000 / rate.max(1)).clamp(INTERVAL_MS_MIN, INTERVAL_MS_MAX);
        let intervals = INTERVAL_MS.min(longest)..=longest;
        let near = intervals.clone().find(|interval| error(*interval) < ERROR_MAX);
        let interval = near.or_else(|| intervals.min_by_key(|interval| error(*interval))).unwrap_or(INTERVAL_MS_MAX);
        (tokens(interval), interval)
    }

    /// Seconds to refill an empty bucket.
    pub(crate) fn window_seconds(self) -> u32 {
        self.burst.div_ceil(self.per_second.max(1)).max(1)
    }
}

/// The tokens of one caller, or of all callers together.
#[derive(Debug)]
pub(crate) struct Bucket {
    limiter: RateLimiter,
    per_second: u32,
}

impl Bucket {
    pub(crate) fn full(quota: Quota) -> Self {
        let quota = Quota { per_second: quota.per_second.max(1), burst: quota.burst.max(1) };
        let (refill, interval_ms) = quota.refill();
        let limiter = RateLimiter::builder()
            .refill(refill as usize)
            .interval(Duration::from_millis(interval_ms))
            .max(quota.burst as usize)
            .initial(quota.burst as usize)
            .build();
        Self { limiter, per_second: quota.per_second }
    }

    pub(crate) fn quota(&self) -> Quota {
        Quota { per_second: self.per_second, burst: self.limiter.max() as u32 }
    }

    pub(crate) fn take(&self, tokens: usize) -> bool {
        self.limiter.try_acquire(tokens)
    }

    /// Whether no token is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.refresh();
        self.left() == 0
    }

    /// The tokens left at the last [`Bucket::take`].
    pub(crate) fn left(&self) -> usize {
        self.limiter.balance()
    }

    /// Approximate time in milliseconds until the bucket is full.
    pub(crate) fn full_in_ms(&self) -> u64 {
        self.refresh();
        let missing = self.limiter.max().saturating_sub(self.limiter.balance());
        missing as u64 * 1_000 / u64::from(self.per_second)
    }

    /// Adds the tokens that are due. The crate does so on each attempt to acquire, and this many are never acquired.
    fn refresh(&self) {
        self.limiter.try_acquire(usize::MAX);
    }

    /// Seconds until `tokens` tokens are available, at least one. The bucket must have that capacity.
    pub(crate) fn wait_seconds(&self, tokens: usize) -> u32 {
        let missing = tokens.saturating_sub(self.limiter.balance()).max(1);
        let intervals = missing.div_ceil(self.limiter.refill()) as u64;
        let wait_ms = intervals.saturating_mul(self.limiter.interval().as_millis() as u64);
        u32::try_from(wait_ms.div_ceil(1_000)).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn the_refill_approximates_the_rate() {
        for (per_second, burst, expected) in [
            (1_000, 2_000, (100, 100)),
            (1, 1, (1, 1_000)),
            (1, 5, (1, 1_000)),
            (5, 10, (1, 200)),
            (10, 10, (1, 100)),
            (1_000, 50, (50, 50)),
            (1_000, 1, (10, 10)),
            (1_000_000_000, 2_000_000_000, (100_000_000, 100)),
        ] {
            assert_eq!(Quota { per_second, burst }.refill(), expected, "{per_second} {burst}");
        }
        for per_second in (1..2_000).chain([3_333, 77_777, 999_999]) {
            let (tokens, interval) = Quota { per_second, burst: per_second }.refill();
            let rate = tokens as f64 * 1_000.0 / interval as f64;
            let error = (rate - f64::from(per_second)).abs() / f64::from(per_second);
            assert!(error <= 0.001, "{per_second}: {tokens} every {interval} ms");
            assert!(tokens <= u64::from(per_second), "{per_second}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_refills_at_its_rate() {
        let quota = Quota { per_second: 1_000, burst: 2_000 };
        let bucket = Bucket::full(quota);
        assert_eq!((bucket.quota(), bucket.full_in_ms()), (quota, 0));
        assert!(bucket.take(2_000) && !bucket.take(1));
        assert_eq!((bucket.left(), bucket.full_in_ms(), bucket.wait_seconds(1)), (0, 2_000, 1));
        assert_eq!(bucket.wait_seconds(1_500), 2);
        let take_every = async |step_us: u64| {
            let mut taken = 0;
            for _ in 0..10_000 {
                tokio::time::advance(Duration::from_micros(step_us)).await;
                taken += usize::from(bucket.take(1));
            }
            taken
        };
        // Slower than the rate: everything except the events before the first refill.
        let slow = take_every(1_300).await;
        assert!((9_900..=10_000).contains(&slow), "{slow}");
        // Twice the rate, for five seconds: the burst plus the rate.
        let fast = take_every(500).await;
        assert!((6_850..=7_100).contains(&fast), "{fast}");
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(bucket.full_in_ms(), 0);
    }

    #[test]
    fn refreshing_a_bucket_is_cheap() {
        let bucket = Bucket::full(Quota { per_second: 1_000_000_000, burst: 2_000_000_000 });
        let start = Instant::now();
        for _ in 0..10_000 {
            assert!(bucket.take(1));
        }
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
