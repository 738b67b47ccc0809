//! How long publishers wait: for consumers that fall behind, and for one another.
//!
//! Publishers that send as fast as they are answered take all of the processor, and a consumer that falls out of
//! the tail then reads from the file what it could have had from memory: it falls behind for good. So while a
//! consumer is about to, publishers rest after each commit, the longer the more commits that lasts. They come in
//! larger groups then; acknowledgements do not wait.
//!
//! A commit of one batch costs about as much beside its bytes as one of fifty, and publishers that send as fast as
//! they are answered come again soon: so a commit waits for as many batches as the one before it had. Where they take
//! longer to come again than a commit takes, the processor would be idle during the commit and the disk between two:
//! there a commit waits for half of them, so that one half is answered and comes again while the other is stored.
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

/// Fewer publishers than this are not halved.
const HALVED_MIN: usize = 8;
/// Commits in a row that it takes to halve publishers, and to join the halves again.
const HALVE_AFTER: u32 = 4;
const JOIN_AFTER: u32 = 32;

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

/// What a commit was like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    pub(super) batches: usize,
    /// How long its batches were waited for, once publishers could be served.
    pub(super) gathered: Duration,
    /// How long it took.
    pub(super) busy: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Where each consumer was last, and since when.
    seen: Vec<(u64, Instant)>,
    /// In eighths of the time of a commit.
    rest: u32,
    gathering: Gathering,
}

/// How many batches a commit waits for.
#[derive(Debug, Default)]
struct Gathering {
    /// The batches of the commit before, while publishers are in two halves.
    other_half: Option<usize>,
    /// Commits in a row after which the other way would have been better.
    doubts: u32,
}

impl Gathering {
    fn wanted(&mut self, round: Round) -> usize {
        let Round { batches, gathered, busy } = round;
        let (doubted, doubts_max) = match self.other_half {
            None => (batches >= HALVED_MIN && gathered > busy, HALVE_AFTER),
            // All of the other half was there as soon as this one was stored: the disk is what they wait for.
            Some(_) => (gathered < busy / 4, JOIN_AFTER),
        };
        self.doubts = if doubted { self.doubts + 1 } else { 0 };
        let changes = self.doubts == doubts_max;
        if changes {
            self.doubts = 0;
        }
        let (other_half, wanted) = match (self.other_half, changes) {
            (None, false) => (None, batches),
            (None, true) => (Some(batches / 2), batches / 2),
            (Some(other), false) => (Some(batches), usize::midpoint(batches, other)),
            (Some(other), true) => (None, batches + other),
        };
        self.other_half = other_half;
        wanted
    }
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
    /// When publishers are next served, after a commit.
    pub(super) fn opening(&mut self, round: Round, now: Instant, consumers: impl Iterator<Item = Standing>) -> Opening {
        let gather_until = now + (round.busy * GATHER_COMMITS).min(GATHER_MAX);
        let from = now + self.rest(round.busy, now, consumers);
        Opening { from, gather_until, batches: self.gathering.wanted(round) }
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
            let (gathered, busy) = (Duration::ZERO, Duration::from_millis(busy_ms));
            let opening = pace.opening(Round { batches, gathered, busy }, now, [].into_iter());
            (opening.at(waiting) - now).as_millis()
        };
        assert_eq!(wait_ms(1, 4, 3), 4);
        assert_eq!(wait_ms(1, 4, 4), 0);
        assert_eq!(wait_ms(100, 4, 3), 10);
        assert_eq!(wait_ms(100, 1, 1), 0, "batches come one by one");
    }

    #[test]
    fn publishers_that_take_longer_than_a_commit_are_halved_and_joined_again() {
        let (mut gathering, ms) = (Gathering::default(), Duration::from_millis);
        let mut rounds = |count, batches, gathered_ms| -> usize {
            let round = Round { batches, gathered: ms(gathered_ms), busy: ms(4) };
            (0..count).map(|_| gathering.wanted(round)).last().unwrap()
        };
        assert_eq!(rounds(HALVE_AFTER - 1, 64, 5), 64);
        assert_eq!(rounds(1, 64, 5), 32, "the disk is idle for longer than it is busy");
        assert_eq!(rounds(1, 36, 2), 34, "halves of one size");
        assert_eq!(rounds(JOIN_AFTER, 32, 2), 32);
        assert_eq!(rounds(JOIN_AFTER - 1, 32, 0), 32);
        assert_eq!(rounds(1, 32, 0), 64, "nobody has to be waited for");
        assert_eq!(rounds(100, 64, 3), 64, "the disk is busy most of the time");
        assert_eq!(rounds(100, HALVED_MIN - 1, 5), HALVED_MIN - 1);
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
