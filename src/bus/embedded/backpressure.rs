//! How long publishers wait: for consumers that fall behind, and for each other.
//!
//! Publishers that send as fast as they are answered use the whole processor. A consumer that falls out of the tail
//! then reads from the file what it could have read from memory, and falls behind for good. So while a consumer is
//! about to fall out, publishers rest after each commit, longer with each commit for which that lasts. They then arrive
//! in larger groups; acknowledgements do not wait.
//!
//! A commit of one batch costs about as much, apart from its bytes, as a commit of fifty, and publishers that send as
//! fast as they are answered come back soon. So a commit waits for as many batches as the one before it had. The
//! processor is idle during such a commit, and the disk between two. Where commits of half the batches store more in
//! the same time, with one half answered and returning while the other half is stored, commits take halves. Which mode
//! is faster depends on the disk, the processor and the batch size, so both are tried from time to time, and the faster
//! one is kept.
//!
//! Invariant: both waits are bounded by the duration of the previous commit. There is no wait for a stalled consumer,
//! and none when batches arrive one at a time. Knows positions and times, nothing of threads or files.

use std::time::{Duration, Instant};

use crate::base::sqlite::CommitSchedule;

/// A consumer that has not advanced for this long is not waited for: it is slow for another reason.
const STALLED_AFTER: Duration = Duration::from_millis(500);
/// The longest rest, in eighths of the duration of the previous commit.
const REST_EIGHTHS_MAX: u32 = 12;
/// The longest rest.
const REST_MAX: Duration = Duration::from_millis(20);

/// The longest wait for as many batches as the last commit had, in durations of that commit.
const GATHER_COMMITS: u32 = 4;
/// The upper bound of that wait.
const GATHER_MAX: Duration = Duration::from_millis(10);

/// Fewer publishers than this are not halved.
const HALVED_MIN: usize = 8;
/// Commits over which the two modes are compared, and those before them in which publishers synchronize.
const TRIAL_COMMITS: u32 = 24;
const SETTLING_COMMITS: u32 = 6;
/// Throughput, in percent of the current mode, that the other mode needs to be kept.
const BETTER_PERCENT: u128 = 103;
/// Commits before the other mode is tried: initially and after a change, and after many trials without improvement.
const UNTIL_TRIAL_MIN: u32 = 96;
const UNTIL_TRIAL_MAX: u32 = 3_072;

/// The position of a consumer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConsumerProgress {
    /// The next sequence it looks at.
    pub(super) next: u64,
    /// It will soon have to read from the file.
    pub(super) behind: bool,
}

/// Measurements of one commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitStats {
    pub(super) batches: usize,
    /// How long its batches were waited for, from the time publishers could be served.
    pub(super) gathered: Duration,
    /// The duration of the commit.
    pub(super) busy: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Backpressure {
    /// The last position of each consumer, and the time it was reached.
    seen: Vec<(u64, Instant)>,
    /// In eighths of the duration of a commit.
    rest: u32,
    gathering: Gathering,
}

/// Decides how many batches a commit waits for.
#[derive(Debug)]
struct Gathering {
    halved: bool,
    /// The batches of the second-last commit.
    before: usize,
    /// Commits since the last change of mode.
    commits: u32,
    /// The last of them, up to `TRIAL_COMMITS`.
    measured: Measured,
    /// The measurements of the previous mode while this one is on trial.
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
    /// Whether the difference is large enough not to be chance.
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
    /// How many batches the next commit waits for, and the most it takes.
    fn wanted(&mut self, stats: CommitStats) -> (usize, usize) {
        let before = std::mem::replace(&mut self.before, stats.batches);
        let publishers = if self.halved { stats.batches + before } else { stats.batches };
        if publishers < HALVED_MIN {
            *self = Self { before: stats.batches, ..Self::default() };
            return (stats.batches, usize::MAX);
        }
        let half = publishers / 2;
        self.measure(stats);
        if self.changes() {
            self.halved = !self.halved;
            (self.commits, self.measured, self.before) = (0, Measured::default(), half);
        }
        // Slightly more than half, so that additional publishers can be halved, too.
        if self.halved { (half, half + half / 4 + 1) } else { (publishers, usize::MAX) }
    }

    fn measure(&mut self, stats: CommitStats) {
        // Publishers that were away say nothing about either mode.
        if stats.gathered > GATHER_MAX {
            return;
        }
        self.commits += 1;
        if self.measured.commits == TRIAL_COMMITS {
            self.measured = Measured::default();
        }
        if self.commits > SETTLING_COMMITS {
            let Measured { commits, batches, time } = self.measured;
            let time = time + stats.gathered + stats.busy;
            self.measured = Measured { commits: commits + 1, batches: batches + stats.batches, time };
        }
    }

    /// Begins or ends a trial when it is time. Returns whether to change the mode.
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

impl Backpressure {
    /// When publishers are served next, after a commit.
    pub(super) fn schedule(
        &mut self,
        stats: CommitStats,
        now: Instant,
        consumers: impl Iterator<Item = ConsumerProgress>,
    ) -> CommitSchedule {
        let gather_until = now + (stats.busy * GATHER_COMMITS).min(GATHER_MAX);
        let from = now + self.rest(stats.busy, now, consumers);
        let (batches, batches_max) = self.gathering.wanted(stats);
        CommitSchedule { from, gather_until, batches, batches_max }
    }

    /// How long to rest after a commit that took `busy`. Zero once no consumer is behind, since resting longer would
    /// leave the processor idle. `consumers` come in the same order each time.
    fn rest(&mut self, busy: Duration, now: Instant, consumers: impl Iterator<Item = ConsumerProgress>) -> Duration {
        let mut waits = false;
        for (index, position) in consumers.enumerate() {
            if index == self.seen.len() {
                self.seen.push((position.next, now));
            }
            let (next, since) = &mut self.seen[index];
            if *next != position.next {
                (*next, *since) = (position.next, now);
            }
            waits |= position.behind && now.saturating_duration_since(*since) < STALLED_AFTER;
        }
        self.rest = if waits { (self.rest + 1).min(REST_EIGHTHS_MAX) } else { 0 };
        (busy * self.rest / 8).min(REST_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_millis(8);

    fn rest_ms(backpressure: &mut Backpressure, now: Instant, positions: &[(u64, bool)]) -> u128 {
        let positions = positions.iter().map(|(next, behind)| ConsumerProgress { next: *next, behind: *behind });
        backpressure.rest(BUSY, now, positions).as_millis()
    }

    #[test]
    fn rests_grow_while_a_consumer_is_behind() {
        let (now, mut backpressure) = (Instant::now(), Backpressure::default());
        for (position, expected_ms) in
            [((10, false), 0), ((11, true), 1), ((12, true), 2), ((12, true), 3), ((20, false), 0), ((20, true), 1)]
        {
            assert_eq!(rest_ms(&mut backpressure, now, &[(90, false), position]), expected_ms, "{position:?}");
        }
    }

    #[test]
    fn a_commit_waits_for_as_many_batches_as_the_last_one_had() {
        let (now, mut backpressure) = (Instant::now(), Backpressure::default());
        let mut wait_ms = |busy_ms, batches, waiting| {
            let (gathered, busy) = (Duration::ZERO, Duration::from_millis(busy_ms));
            let schedule = backpressure.schedule(CommitStats { batches, gathered, busy }, now, [].into_iter());
            (schedule.at(waiting) - now).as_millis()
        };
        assert_eq!(wait_ms(1, 4, 3), 4);
        assert_eq!(wait_ms(1, 4, 4), 0);
        assert_eq!(wait_ms(100, 4, 3), 10);
        assert_eq!(wait_ms(100, 1, 1), 0, "batches come one by one");
    }

    /// Runs `commits` commits of 64 publishers, storing `per_ms` batches per millisecond, whole and halved. Returns how
    /// many of the commits took halves.
    fn halved_of(gathering: &mut Gathering, commits: usize, (whole, halved): (u32, u32)) -> usize {
        let mut batches = 64;
        let sizes = (0..commits).map(|_| {
            let per_ms = if gathering.halved { halved } else { whole };
            let busy = Duration::from_millis(1) * batches as u32 / per_ms;
            let (wanted, _) = gathering.wanted(CommitStats { batches, gathered: Duration::ZERO, busy });
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
        // The wait between trials grows: a mode that is no better costs next to nothing.
        assert!(halved_of(&mut gathering, 10_000, (40, 40)) <= 4 * trial);
    }

    #[test]
    fn halves_adapt_to_the_number_of_publishers() {
        let mut gathering = Gathering { halved: true, before: 32, ..Gathering::default() };
        let stats = |batches| CommitStats { batches, gathered: Duration::ZERO, busy: BUSY };
        assert_eq!(gathering.wanted(stats(32)), (32, 41));
        assert_eq!(gathering.wanted(stats(41)), (36, 46));
        assert_eq!(gathering.wanted(stats(5)), (23, 29));
        assert_eq!(gathering.wanted(stats(2)), (2, usize::MAX), "too few to be halved");
    }

    #[test]
    fn a_rest_is_bounded() {
        let (now, mut backpressure) = (Instant::now(), Backpressure::default());
        let longest = (0..100).map(|next| rest_ms(&mut backpressure, now, &[(next, true)])).max();
        assert_eq!(longest, Some(12));
        let long =
            backpressure.rest(Duration::from_secs(1), now, [ConsumerProgress { next: 100, behind: true }].into_iter());
        assert_eq!(long, REST_MAX);
    }

    #[test]
    fn nothing_waits_for_a_stalled_consumer() {
        let (now, mut backpressure) = (Instant::now(), Backpressure::default());
        assert_eq!(rest_ms(&mut backpressure, now, &[(10, true)]), 1);
        assert_eq!(rest_ms(&mut backpressure, now + STALLED_AFTER, &[(10, true)]), 0);
        assert_eq!(rest_ms(&mut backpressure, now + STALLED_AFTER, &[(11, true)]), 1);
    }
}
