//! Exponential backoff with jitter over the upper half of each wait. Pure functions: no clock, no sleeping.

use std::time::Duration;

/// How retries spread out: `initial * multiplier^n`, capped at `max`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    pub initial: Duration,
    pub multiplier: f64,
    pub max: Duration,
}

impl Backoff {
    /// The upper bound of the wait before attempt `attempt + 1`, where `attempt` counts from 1.
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let exponent = attempt.saturating_sub(1).min(1_000) as i32;
        let seconds = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        if seconds.is_finite() { Duration::from_secs_f64(seconds.min(self.max.as_secs_f64())) } else { self.max }
    }

    /// The wait with jitter: between half the ceiling and the ceiling. `random` is uniform in `[0, 1)`.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        self.ceiling(attempt).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }
}

/// A uniform number in `[0, 1)` for jitter; not for secrets.
pub fn random_unit() -> f64 {
    (uuid::Uuid::now_v7().as_u128() as u64 & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const B: Backoff = Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(300) };

    #[test]
    fn doubles_up_to_the_cap() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 4_000_000_000].iter().map(|n| B.ceiling(*n).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300]);
    }

    #[test]
    fn jitter_stays_between_half_and_whole() {
        for _ in 0..1_000 {
            let delay = B.delay(3, random_unit());
            assert!(delay >= Duration::from_secs(2) && delay <= Duration::from_secs(4), "{delay:?}");
        }
    }
}
