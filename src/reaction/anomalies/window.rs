//! Counts events over a sliding window in constant space.
//!
//! The window is divided into [`BUCKETS`] equal buckets, which is also its precision. Time is the bus's
//! `published_at_ms`, passed by the caller: events published within one minute count as one minute however late they
//! are read.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Buckets of a window.
const BUCKETS: usize = 60;

/// Counts by bucket; serializes to a small JSON object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Window {
    /// The length of one bucket.
    bucket_ms: i64,
    /// The number of the newest bucket since the epoch; the last of `counts`.
    newest: i64,
    counts: VecDeque<u64>,
    #[serde(skip)]
    total: u64,
}

impl Window {
    pub(super) fn new(window_ms: i64) -> Self {
        Self { bucket_ms: bucket_ms(window_ms), newest: 0, counts: VecDeque::new(), total: 0 }
    }

    /// Reads the output of [`Window::to_json`]. `None` for anything else, including another window length.
    pub(super) fn from_json(value: &Value, window_ms: i64) -> Option<Self> {
        let mut window = Self::deserialize(value).ok()?;
        window.total = window.counts.iter().try_fold(0u64, |sum, count| sum.checked_add(*count))?;
        (window.bucket_ms == bucket_ms(window_ms) && window.counts.len() <= BUCKETS).then_some(window)
    }

    pub(super) fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// Counts one event and returns the count of the window that ends with the newest event. An event older than that
    /// window is not counted.
    pub(super) fn add(&mut self, at_ms: i64) -> u64 {
        let bucket = at_ms.div_euclid(self.bucket_ms);
        if self.counts.is_empty() {
            self.newest = bucket;
        }
        if bucket >= self.newest {
            self.advance(bucket);
        }
        let age = usize::try_from(self.newest.saturating_sub(bucket)).unwrap_or(usize::MAX);
        if age < BUCKETS {
            while self.counts.len() <= age {
                self.counts.push_front(0);
            }
            let position = self.counts.len() - 1 - age;
            self.counts[position] += 1;
            self.total += 1;
        }
        self.total
    }

    /// Whether a time is before the whole window.
    pub(super) fn is_past(&self, at_ms: i64) -> bool {
        let bucket = at_ms.div_euclid(self.bucket_ms);
        !self.counts.is_empty() && self.newest.saturating_sub(bucket) >= BUCKETS as i64
    }

    fn advance(&mut self, bucket: i64) {
        let step = bucket.saturating_sub(self.newest);
        if step >= BUCKETS as i64 {
            self.counts.clear();
            self.total = 0;
        } else {
            self.counts.extend(std::iter::repeat_n(0, step as usize));
            while self.counts.len() > BUCKETS {
                self.total -= self.counts.pop_front().unwrap_or(0);
            }
        }
        self.newest = bucket;
    }
}

fn bucket_ms(window_ms: i64) -> i64 {
    (window_ms.max(1) + BUCKETS as i64 - 1) / BUCKETS as i64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_slide_out_of_the_window() {
        let mut window = Window::new(60_000);
        assert_eq!(window.add(1_000_000), 1);
        assert_eq!(window.add(1_030_000), 2);
        assert_eq!(window.add(1_059_999), 3);
        assert_eq!(window.add(1_060_000), 3);
        assert_eq!(window.add(1_090_000), 3);
        assert_eq!(window.add(9_000_000), 1);
    }

    #[test]
    fn a_late_event_counts_where_it_belongs() {
        let mut window = Window::new(60_000);
        assert_eq!(window.add(1_030_000), 1);
        assert_eq!(window.add(1_000_000), 2);
        assert_eq!(window.add(100_000), 2);
        assert_eq!(window.add(1_061_000), 2);
    }

    #[test]
    fn only_its_own_form_is_read_back() {
        let mut window = Window::new(10_000);
        for n in 0..7 {
            window.add(n * 1_500);
        }
        let stored = window.to_json();
        let mut read = Window::from_json(&stored, 10_000).unwrap();
        assert_eq!(read, window);
        assert_eq!(read.add(9_500), window.add(9_500));
        assert_eq!(Window::from_json(&stored, 60_000), None);
        for broken in [json!(null), json!({}), json!({"bucket_ms": 167, "newest": 1, "counts": vec![1; BUCKETS + 1]})] {
            assert_eq!(Window::from_json(&broken, 10_000), None);
        }
        let overflow = json!({"bucket_ms": 167, "newest": 1, "counts": [u64::MAX, 1]});
        assert_eq!(Window::from_json(&overflow, 10_000), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_times(times in proptest::collection::vec(0i64..200_000, 1..200)) {
            let mut window = Window::new(60_000);
            let mut seen: Vec<i64> = Vec::new();
            for at in times {
                let newest = seen.iter().map(|t| t / 1_000).max().unwrap_or(at / 1_000).max(at / 1_000);
                let total = window.add(at);
                if newest - at / 1_000 < BUCKETS as i64 {
                    seen.push(at);
                }
                seen.retain(|t| newest - t / 1_000 < BUCKETS as i64);
                prop_assert_eq!(total, seen.len() as u64);
            }
        }
    }
}
