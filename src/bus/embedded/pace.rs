//! How long publishers wait: for consumers that fall behind, and for one another.
//!
//! Publishers that send as fast as they are answered take all of the processor, and a consumer that falls out of
//! the tail then reads from the file what it could have had from memory: it falls behind for good. So while a
//! consumer is about to, publishers rest after each commit, the longer the more commits that lasts. They come in
//! larger groups then; acknowledgements do not wait.
//!
//! A commit of one batch costs about as much beside its bytes as one of fifty, and publishers that send as fast as
//! they are answered come again soon: so a commit waits for as many batches as the one before it had. The processor is
//! idle during such a commit, and the disk between two: where commits of half of them, with one half answered and coming
//! again while the other is stored, store more in the same time, commits are of halves. Which is faster depends on the
//! disk, the processor and the size of the batches, so both ways are tried now and then, and the faster one is kept.
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
/// Commits over which the two ways are compared, and those before them in which publishers fall into step.
const TRIAL_COMMITS: u32 = 24;
const SETTLING_COMMITS: u32 = 6;
/// How much more, in percent, the other way has to store to be kept.
const BETTER_PERCENT: u128 = 103;
/// Commits until the other way is tried: at first and after a change, and after many trials that were no better.
const UNTIL_TRIAL_MIN: u32 = 96;
const UNTIL_TRIAL_MAX: u32 = 3_072;

/// When the batches of the next commit are taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening {
    /// Not before then: consumers come first.
    pub(super) from: Instant,
    /// Nor before then, unless so many batches wait.
    gather_until: Instant,
    pub(super) batches: usize,
    /// No more than that are taken.
    pub(super) batches_max: usize,
}

/// Where a consumer is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// The next sequence that it looks at.
    pub(super) next: u64,
    /// It will soon have to read from the file.
    pub(super) behind: bool,
}

/// What a commit was like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(super) batches: usize,
    /// How long its batches were waited for, once publishers could be served.
    pub(super) gathered: Duration,
    /// How long it took.
    pub(super) busy: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Where each consumer was last, and since when.
    seen: Vec<(u64, Instant)>,
    /// In eighths of the time of a commit.
    rest: u32,
    gathering: Gathering,
}

/// How many batches a commit waits for.
#[derive(Debug)]
struct Gathering {
    halved: bool,
    /// The batches of the commit before the last.
    before: usize,
    /// Commits since the way was changed.
    commits: u32,
    /// What the last of them, up to `TRIAL_COMMITS`, have stored, and in what time.
    measured: Measured,
    /// Of the way before this one, while this one is on trial.
    challenged: Option<Measured>,
    until_trial: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    commits: u32,
    batches: usize,
    time: Duration,
}

impl Measured {
    /// Whether it is better than `other` by so much that it can be no accident.
    fn is_better_than(&self, other: &Self) -> bool {
        let (own, others) = (self.batches as u128, other.batches as u128);
        own * other.time.as_nanos() * 100 > others * self.time.as_nanos() * BETTER_PERCENT
    }
}

impl Default for Gathering {
    fn default() -> Self {
        let measured = Measured::default();
        Self { halved: false, before: 0, commits: 0, measured, challenged: None, until_trial: UNTIL_TRIAL_MIN }
    }
}

impl Gathering {
    /// How many batches the next commit waits for, and how many it takes at most.
    fn wanted(&mut self, round: Round) -> (usize, usize) {
        let before = std::mem::replace(&mut self.before, round.batches);
        let publishers = if self.halved { round.batches + before } else { round.batches };
        if publishers < HALVED_MIN {
            *self = Self { before: round.batches, ..Self::default() };
            return (round.batches, usize::MAX);
        }
        let half = publishers / 2;
        self.measure(round);
        if self.changes() {
            self.halved = !self.halved;
            (self.commits, self.measured, self.before) = (0, Measured::default(), half);
        }
        // Some more than a half, so that more publishers can be halved, too.
        if self.halved { (half, half + half / 4 + 1) } else { (publishers, usize::MAX) }
    }

    fn measure(&mut self, round: Round) {
        // Publishers that were away say nothing of either way.
        if round.gathered > GATHER_MAX {
            return;
        }
        self.commits += 1;
        if self.measured.commits == TRIAL_COMMITS {
            self.measured = Measured::default();
        }
        if self.commits > SETTLING_COMMITS {
            let Measured { commits, batches, time } = self.measured;
            let time = time + round.gathered + round.busy;
            self.measured = Measured { commits: commits + 1, batches: batches + round.batches, time };
        }
    }

    /// Ends a trial, or begins one, when it is time; answers whether the other way is the next.
    fn changes(&mut self) -> bool {
        if self.measured.commits < TRIAL_COMMITS {
            return false;
        }
        match self.challenged.take() {
            Some(other) if self.measured.is_better_than(&other) => {
                self.until_trial = UNTIL_TRIAL_MIN;
                false
            }
            Some(_) => {
                self.until_trial = (self.until_trial * 2).min(UNTIL_TRIAL_MAX);
                true
            }
            None if self.commits >= self.until_trial => {
                self.challenged = Some(self.measured);
                true
            }
            None => false,
        }
    }
}

impl Opening {
    /// Of the first commit.
    pub(super) fn at_once() -> Self {
        let now = Instant::now();
        Self { from: now, gather_until: now, batches: 1, batches_max: usize::MAX }
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
        let (batches, batches_max) = self.gathering.wanted(round);
        Opening { from, gather_until, batches, batches_max }
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

    /// So many commits of what 64 publishers send, of which `per_ms` are stored in a millisecond, whole and halved. How
    /// many of the commits were of halves.
    fn halved_of(gathering: &mut Gathering, commits: usize, (whole, halved): (u32, u32)) -> usize {
        let mut batches = 64;
        let sizes = (0..commits).map(|_| {
            let per_ms = if gathering.halved { halved } else { whole };
            let busy = Duration::from_millis(1) * batches as u32 / per_ms;
            let (wanted, _) = gathering.wanted(Round { batches, gathered: Duration::ZERO, busy });
            batches = wanted;
            usize::from(wanted <= 32)
        });
        sizes.sum()
    }

    #[test]
    fn publishers_are_halved_where_that_is_faster_and_joined_where_it_is_not() {
        let mut gathering = Gathering::default();
        let trial = (TRIAL_COMMITS + SETTLING_COMMITS) as usize;
        assert_eq!(halved_of(&mut gathering, UNTIL_TRIAL_MIN as usize - 1, (32, 40)), 0);
        assert!(halved_of(&mut gathering, 1_000, (32, 40)) > 900, "halves are faster");
        let halved = halved_of(&mut gathering, 10_000, (40, 32));
        assert!(halved < 2_000, "whole is faster again: {halved} of 10,000 commits were of halves");
        // The wait between trials grows: what is no better costs next to nothing.
        assert!(halved_of(&mut gathering, 10_000, (40, 40)) <= 4 * trial);
    }

    #[test]
    fn halves_take_in_more_publishers_and_fewer() {
        let mut gathering = Gathering { halved: true, before: 32, ..Gathering::default() };
        let round = |batches| Round { batches, gathered: Duration::ZERO, busy: BUSY };
        assert_eq!(gathering.wanted(round(32)), (32, 41));
        assert_eq!(gathering.wanted(round(41)), (36, 46));
        assert_eq!(gathering.wanted(round(5)), (23, 29));
        assert_eq!(gathering.wanted(round(2)), (2, usize::MAX), "too few to be halved");
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
