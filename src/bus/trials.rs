//! Finds the messages that end the process handling them, by trying them apart from others.
//!
//! A delivery that ends without an answer says nothing about its message: the process may have been killed, or another
//! message may have ended it. After [`ISOLATED_AFTER`] such deliveries a message is isolated. Isolated messages are
//! handed out on their own, as a *trial* that is recorded before it begins and struck out once the process has survived
//! it. A trial that is still recorded when one of its messages is due again has failed:
//!
//! ```text
//!   all isolated ──survived──► none is isolated any more
//!        │ failed
//!        ▼
//!   first half, then the rest, halved again ... ──failed──► one message alone ── failed 3 times ──► dead letter
//! ```
//!
//! So 10,000 messages that were in flight when the process was killed three times cost one trial, and a message among
//! them that ends the process costs about 14 more. Knows nothing of where the log is stored or how messages are
//! delivered.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::base::backoff::random_unit;

/// Deliveries without an answer after which a message is isolated.
pub(super) const ISOLATED_AFTER: u32 = 3;
/// Attempts with a single message, all of which ended the process, after which it is dead-lettered.
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// The reason given for such a dead letter.
pub(super) const FATAL: &str =
    "the process ended, or did not answer, in each of 3 attempts to handle this message alone";
/// The longest rest of a message before its second and its third attempt alone. Rests are random, so that something
/// that kills the process on a schedule does not hit the same message three times.
const REST_MAX: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];
/// How long a trial waits for other trials of the same process before it begins anyway.
pub(super) const TURN_MAX: Duration = Duration::from_secs(10);
/// Recorded trials and failures; the oldest are dropped.
const TRIALS_MAX: usize = 1_000;
const FAILURES_MAX: usize = 10_000;

/// The recorded trials and failures of one consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TrialLog {
    /// Trials that began and are not known to have been survived. No message is in two of them.
    #[serde(default)]
    trials: Vec<Trial>,
    /// How often a consumer reported a message as failed, by sequence.
    #[serde(default)]
    failures: BTreeMap<u64, u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trial {
    /// First and last sequences of runs, ascending.
    messages: Vec<(u64, u64)>,
    /// Messages that failed together with these before. If this trial is survived, the culprit is among them.
    #[serde(default)]
    rest: Vec<(u64, u64)>,
    /// Attempts with its only message alone.
    attempts: u32,
}

/// How a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrialOutcome {
    /// The process has handled the messages.
    Survived,
    /// Abandoned for a reason unrelated to the messages; it does not count.
    Withdrawn,
}

/// What to do with isolated messages that are due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// To try next, ascending.
    pub(super) next: Vec<u64>,
    /// To dead-letter.
    pub(super) fatal: Vec<u64>,
    /// To rest for this long before they are tried again.
    pub(super) resting: Vec<(u64, Duration)>,
}

impl TrialLog {
    /// `None` when the bytes are not a trial log.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(super) fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.trials.is_empty() && self.failures.is_empty()
    }

    /// Chooses among isolated messages that are due, in ascending order. `rested` holds those that have rested in this
    /// process.
    pub(super) fn choose(&self, candidates: &[u64], rested: &HashSet<u64>) -> Choice {
        let mut choice = Choice::default();
        let mut untried = Vec::new();
        let mut by_trial: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
        let runs = self.runs();
        for candidate in candidates {
            match trial_of(&runs, *candidate) {
                Some(trial) => by_trial.entry(trial).or_default().push(*candidate),
                None => untried.push(*candidate),
            }
        }
        let mut rest_over = Vec::new();
        let mut halves = Vec::new();
        for (trial, members) in by_trial {
            match self.trials[trial].attempts {
                0 => halves.push(members),
                ATTEMPTS_MAX.. => choice.fatal.extend(members),
                _ if rested.contains(&members[0]) => rest_over.push(members[0]),
                attempts => {
                    let longest = REST_MAX[(attempts as usize - 1).min(REST_MAX.len() - 1)];
                    choice.resting.extend(members.iter().map(|member| (*member, longest.mul_f64(random_unit()))));
                }
            }
        }
        // Messages that have not been tried yet come first: most likely nothing is wrong with them.
        choice.next = if !untried.is_empty() {
            untried
        } else if let Some(half) = halves.into_iter().next() {
            let count = half.len().div_ceil(2);
            half.into_iter().take(count).collect()
        } else {
            rest_over.into_iter().take(1).collect()
        };
        choice
    }

    /// Records that a trial of these messages is about to begin.
    pub(super) fn begin(&mut self, messages: &[u64]) {
        let attempts = match messages {
            [one] => self.trials.iter().find(|trial| trial.is_of(*one)).map_or(0, |trial| trial.attempts) + 1,
            _ => 0,
        };
        let parent = messages.first().and_then(|first| trial_of(&self.runs(), *first)).map(|at| self.trials.remove(at));
        let tried: BTreeSet<u64> = messages.iter().copied().collect();
        let rest = parent.map(|parent| without(&parent.messages, &tried)).unwrap_or_default();
        self.remove(messages);
        if self.trials.len() >= TRIALS_MAX {
            self.trials.remove(0);
        }
        self.trials.push(Trial { messages: runs_of(messages), rest, attempts });
    }

    pub(super) fn end(&mut self, messages: &[u64], end: TrialOutcome) {
        let runs = runs_of(messages);
        let Some(trial) = self.trials.iter_mut().find(|trial| trial.messages == runs) else {
            return if end == TrialOutcome::Survived {
                self.remove(messages)
            };
        };
        let rest = std::mem::take(&mut trial.rest);
        match end {
            TrialOutcome::Survived => (trial.messages, trial.attempts) = (rest, 0),
            TrialOutcome::Withdrawn if trial.attempts > 1 => trial.attempts -= 1,
            TrialOutcome::Withdrawn if rest.is_empty() => trial.messages.clear(),
            TrialOutcome::Withdrawn => {
                let all: BTreeSet<u64> = trial.messages.iter().chain(&rest).flat_map(|run| run.0..=run.1).collect();
                (trial.messages, trial.attempts) = (runs_of(&all.into_iter().collect::<Vec<_>>()), 0);
            }
        }
        self.trials.retain(|trial| !trial.messages.is_empty());
    }

    /// Records a failure reported by a consumer. Returns how often the message has failed.
    pub(super) fn failed(&mut self, message: u64) -> u32 {
        let failures = self.failures.entry(message).or_default();
        *failures = failures.saturating_add(1);
        let failures = *failures;
        if self.failures.len() > FAILURES_MAX {
            self.failures.pop_first();
        }
        failures
    }

    /// Forgets resolved messages: all up to `floor`, and those in `resolved`.
    pub(super) fn forget(&mut self, floor: u64, resolved: &[u64]) {
        self.failures = self.failures.split_off(&floor.saturating_add(1));
        resolved.iter().for_each(|message| {
            self.failures.remove(message);
        });
        self.trials.retain(|trial| trial.messages.last().max(trial.rest.last()).is_some_and(|run| run.1 > floor));
        self.remove(resolved);
    }

    fn remove(&mut self, messages: &[u64]) {
        if self.trials.is_empty() {
            return;
        }
        let gone: BTreeSet<u64> = messages.iter().copied().collect();
        let Some((first, last)) = gone.first().zip(gone.last()) else { return };
        for runs in self.trials.iter_mut().flat_map(|trial| [&mut trial.messages, &mut trial.rest]) {
            if runs.iter().any(|run| run.0 <= *last && *first <= run.1) {
                *runs = without(runs, &gone);
            }
        }
        for trial in self.trials.iter_mut().filter(|trial| trial.messages.is_empty()) {
            // The dead-lettered message is the culprit that the others were isolated with.
            let rest = if trial.attempts < ATTEMPTS_MAX { std::mem::take(&mut trial.rest) } else { Vec::new() };
            (trial.messages, trial.attempts) = (rest, 0);
        }
        self.trials.retain(|trial| !trial.messages.is_empty());
    }

    /// The runs of all trials with the index of their trial, ascending.
    fn runs(&self) -> Vec<(u64, u64, usize)> {
        let of_trial =
            |(at, trial): (usize, &Trial)| trial.messages.iter().map(|run| (run.0, run.1, at)).collect::<Vec<_>>();
        let mut runs: Vec<_> = self.trials.iter().enumerate().flat_map(of_trial).collect();
        runs.sort_unstable();
        runs
    }
}

impl Trial {
    fn is_of(&self, message: u64) -> bool {
        self.messages == [(message, message)]
    }
}

fn trial_of(runs: &[(u64, u64, usize)], message: u64) -> Option<usize> {
    let run = runs.partition_point(|run| run.0 <= message).checked_sub(1)?;
    (message <= runs[run].1).then_some(runs[run].2)
}

fn without(runs: &[(u64, u64)], gone: &BTreeSet<u64>) -> Vec<(u64, u64)> {
    let left: Vec<u64> = runs.iter().flat_map(|run| run.0..=run.1).filter(|left| !gone.contains(left)).collect();
    runs_of(&left)
}

fn runs_of(messages: &[u64]) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for message in messages {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == *message => run.1 = *message,
            _ => runs.push((*message, *message)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Simulates lives of a process that die of `fatal` messages, and of kills during the trials in `killed`. Returns
    /// the dead-lettered messages, and the numbers of trials and deaths.
    fn live(candidates: &[u64], fatal: &[u64], killed: &[usize]) -> (Vec<u64>, usize, usize) {
        let mut log = TrialLog::default();
        let mut due: Vec<u64> = candidates.to_vec();
        let (mut dead_lettered, mut trials, mut deaths) = (Vec::new(), 0, 0);
        let mut rested = HashSet::new();
        while !due.is_empty() {
            assert!(trials < 10_000, "{log:?}");
            let choice = log.choose(&due, &rested);
            for message in &choice.fatal {
                assert!(fatal.contains(message) || killed.len() > 2, "{message} never failed");
                log.forget(0, &[*message]);
                dead_lettered.push(*message);
            }
            due.retain(|message| !choice.fatal.contains(message));
            rested.extend(choice.resting.iter().map(|(message, _)| *message));
            if choice.next.is_empty() {
                continue;
            }
            log.begin(&choice.next);
            log = TrialLog::read(&log.write()).unwrap();
            trials += 1;
            if choice.next.iter().any(|message| fatal.contains(message)) || killed.contains(&trials) {
                deaths += 1;
                rested.clear();
                continue;
            }
            log.end(&choice.next, TrialOutcome::Survived);
            due.retain(|message| !choice.next.contains(message));
        }
        assert!(log.is_empty(), "{log:?}");
        (dead_lettered, trials, deaths)
    }

    #[test]
    fn thousands_of_isolated_messages_cost_few_trials() {
        let many: Vec<u64> = (1..=10_000).collect();
        assert_eq!(live(&many, &[], &[]), (vec![], 1, 0));
        let (dead_lettered, trials, _) = live(&many, &[], &[1, 2]);
        assert!(dead_lettered.is_empty() && trials < 30, "{trials}");
        let (dead_lettered, trials, deaths) = live(&many, &[7_777], &[]);
        assert_eq!(dead_lettered, [7_777]);
        assert!(trials < 35 && deaths < 20, "{trials} trials, {deaths} deaths");
    }

    #[test]
    fn a_withdrawn_attempt_does_not_count_and_a_survived_one_clears() {
        let mut log = TrialLog::default();
        for _ in 0..10 {
            log.begin(&[5]);
            log.end(&[5], TrialOutcome::Withdrawn);
        }
        assert!(log.is_empty());
        log.begin(&[5]);
        log.begin(&[5]);
        log.begin(&[5]);
        log.end(&[5], TrialOutcome::Withdrawn);
        assert_eq!(log.choose(&[5], &HashSet::from([5])).next, [5], "two attempts count");
        log.begin(&[5]);
        assert_eq!(log.choose(&[5], &HashSet::new()).fatal, [5]);
        log.end(&[5], TrialOutcome::Survived);
        assert!(log.is_empty());
    }

    #[test]
    fn further_attempts_come_after_a_rest() {
        let mut log = TrialLog::default();
        log.begin(&[5]);
        let choice = log.choose(&[5], &HashSet::new());
        assert!(choice.next.is_empty() && choice.resting[0].0 == 5 && choice.resting[0].1 <= REST_MAX[0]);
        assert_eq!(log.choose(&[5], &HashSet::from([5])).next, [5]);
        assert_eq!(log.choose(&[4, 5, 6], &HashSet::from([5])).next, [4, 6], "others first");
    }

    #[test]
    fn the_first_version_is_still_read() {
        let stored = br#"{"trials":[{"messages":[[3,9],[12,12]],"rest":[[13,20]],"attempts":0},
            {"messages":[[11,11]],"rest":[],"attempts":2}],"failures":{"4":2}}"#;
        let mut log = TrialLog::read(stored).unwrap();
        let rested = HashSet::from([11]);
        assert_eq!(log.choose(&[3, 4, 11, 12], &rested).next, [3, 4], "half of those that are due");
        assert_eq!(log.failed(4), 3);
        assert_eq!(log.choose(&[3, 4, 13], &rested).next, [13], "it was not in the part that failed");
        log.forget(9, &[12]);
        log.forget(20, &[]);
        log.begin(&[11]);
        log.begin(&[11]);
        assert_eq!(log.write(), br#"{"trials":[{"messages":[[11,11]],"rest":[],"attempts":2}],"failures":{}}"#);
        assert_eq!(TrialLog::read(b"{\"trials\":7}"), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn exactly_the_fatal_messages_are_dead_lettered(
            candidates in prop::collection::btree_set(1u64..500, 1..80),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
            killed in prop::collection::vec(1usize..20, 0..2),
        ) {
            let candidates: Vec<u64> = candidates.into_iter().collect();
            let fatal: BTreeSet<u64> = picks.iter().map(|pick| *pick.get(&candidates)).collect();
            let (mut dead_lettered, ..) = live(&candidates, &fatal.iter().copied().collect::<Vec<_>>(), &killed);
            dead_lettered.sort_unstable();
            prop_assert_eq!(dead_lettered, fatal.into_iter().collect::<Vec<_>>());
        }
    }
}
