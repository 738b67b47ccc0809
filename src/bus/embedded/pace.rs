//! How long publishers wait: for consumers that fall behind, and for one another.
//!
//! Publishers that send as fast as they are answered take all of the processor, and a consumer that falls out of
//! the tail then reads from the file what it could have had from memory: it falls behind for good. So while a
//! consumer is about to, publishers rest after each commit, the longer the more commits that lasts. They come in
//! larger groups then; acknowledgements do not wait.
//!
//! A commit of one batch costs about as much beside its bytes as one of fifty, and publishers that send as fast as
//! they are answered come again soon: so a commit waits for as many batches as the one before it had.
//!
//! Invariant: both waits are bounded by the time of the commit before them; there is none for a consumer that stands
//! still, and none where batches come one by one. Knows positions and times, nothing of threads or files.

use std::time::{Duration, Instant};

/// A consumer that has not moved for so long is not waited for: it has another reason.
const STILL_AFTER: Duration = Duration::from_millis(500);
/// The longest rest, in eighths of the time of the commit before it.
const REST_EIGHTHS_MAX: u32 = 12;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(20);

/// The longest wait for as many batches as the last commit had, in commits of its length.
const GATHER_COMMITS: u32 = 4;
/// The longest such wait.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// When the batches of the next commit are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opening {
    /// Not before then: consumers come first.
    pub(super) from: Instant,
    /// Nor before then, unless so many batches wait.
    gather_until: Instant,
    pub(super) batches: usize,
}

/// Where a consumer is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The next sequence that it looks at.
    pub(super) next: u64,
    /// It will soon have to read from the file.
    pub(super) behind: bool,
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Where each consumer was last, and since when.
    seen: Vec<(u64, Instant)>,
    /// In eighths of the time of a commit.
    rest: u32,
}

impl Opening {
    /// Of the first commit.
    pub(super) fn at_once() -> Self {
        let now = Instant::now();
        Self { from: now, gather_until: now, batches: 1 }
    }

    /// When it is, while so many batches wait.
    pub(super) fn at(&self, batches: usize) -> Instant {
        if batches >= self.batches { self.from } else { self.from.max(self.gather_until) }
    }
}

impl Pace {
    /// When publishers are next served, after a commit of so many batches that took `busy`.
    pub(super) fn opening(
        &mut self,
        busy: Duration,
        batches: usize,
        now: Instant,
        consumers: impl Iterator<Item = Standing>,
    ) -> Opening {
        let gather_until = now + (busy * GATHER_COMMITS).min(GATHER_MAX);
        Opening { from: now + self.rest(busy, now, consumers), gather_until, batches }
    }

    /// How long to rest after a commit that took `busy`; nothing once nobody is behind, since to rest longer would leave
    /// the processor idle. `consumers` are in the same order each time.
    fn rest(&mut self, busy: Duration, now: Instant, consumers: impl Iterator<Item = Standing>) -> Duration {
        let mut waits = false;
        for (index, position) in consumers.enumerate() {
            if index == self.seen.len() {
                self.seen.push((position.next, now));
            }
            let (next, since) = &mut self.seen[index];
            if *next != position.next {
                (*next, *since) = (position.next, now);
            }
            waits |= position.behind && now.saturating_duration_since(*since) < STILL_AFTER;
        }
        self.rest = if waits { (self.rest + 1).min(REST_EIGHTHS_MAX) } else { 0 };
        (busy * self.rest / 8).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_millis(8);

    fn rest_ms(pace: &mut Pace, now: Instant, positions: &[(u64, bool)]) -> u128 {
        let positions = positions.iter().map(|(next, behind)| Standing { next: *next, behind: *behind });
        pace.rest(BUSY, now, positions).as_millis()
    }

    #[test]
    fn rests_the_longer_the_longer_a_consumer_is_behind() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        for (position, expected_ms) in
            [((10, false), 0), ((11, true), 1), ((12, true), 2), ((12, true), 3), ((20, false), 0), ((20, true), 1)]
        {
            assert_eq!(rest_ms(&mut pace, now, &[(90, false), position]), expected_ms, "{position:?}");
        }
    }

    #[test]
    fn a_commit_waits_for_as_many_batches_as_the_last_one_had() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        let mut wait_ms = |busy_ms, batches, waiting| {
            let opening = pace.opening(Duration::from_millis(busy_ms), batches, now, [].into_iter());
            (opening.at(waiting) - now).as_millis()
        };
        assert_eq!(wait_ms(1, 4, 3), 4);
        assert_eq!(wait_ms(1, 4, 4), 0);
        assert_eq!(wait_ms(100, 4, 3), 10);
        assert_eq!(wait_ms(100, 1, 1), 0, "batches come one by one");
    }

    #[test]
    fn a_rest_is_bounded() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        let longest = (0..100).map(|next| rest_ms(&mut pace, now, &[(next, true)])).max();
        assert_eq!(longest, Some(12));
        let long = pace.rest(Duration::from_secs(1), now, [Standing { next: 100, behind: true }].into_iter());
        assert_eq!(long, REST_MAX);
    }

    #[test]
    fn nobody_waits_for_a_consumer_that_stands_still() {
        let (now, mut pace) = (Instant::now(), Pace::default());
        assert_eq!(rest_ms(&mut pace, now, &[(10, true)]), 1);
        assert_eq!(rest_ms(&mut pace, now + STILL_AFTER, &[(10, true)]), 0);
        assert_eq!(rest_ms(&mut pace, now + STILL_AFTER, &[(11, true)]), 1);
    }
}
