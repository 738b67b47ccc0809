//! The state of one durable consumer: leases, acknowledgements and trials.
//!
//! Invariant: a message is resolved here only after its acknowledgement is on disk, except messages that the filter
//! skips, which can be skipped again. Decides; the subscription waits and the writer stores.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::position::Position;
use super::ticks::after;
use super::window::{Slot, State, Window};
use crate::bus::embedded::group::Group;
use crate::bus::subject::Filter;
use crate::bus::trials::{TrialLog, TrialOutcome};
use crate::bus::{ConsumerSpec, Receipt};

/// The minimum lease left to a message whose acknowledgement could not be stored.
const RELEASE_DELAY: Duration = Duration::from_secs(1);
/// Skipped messages after which the position is stored for its own sake.
const SKIPPED_UNRECORDED_MAX: u64 = 100_000;

/// The state of a consumer, guarded by its lock.
pub(crate) struct ConsumerState {
    pub(super) filter_text: String,
    pub(super) filter: Filter,
    pub(super) ack_wait: u32,
    pub(super) max_deliver: u32,
    pub(super) pending_max: usize,
    pub(super) window: Window,
    /// Groups read from the file because they are no longer in the tail.
    pub(super) loaded: VecDeque<Arc<Group>>,
    /// The highest sequence that the stored position covers.
    pub(super) recorded_high: u64,
    /// The last message skipped for lack of interest.
    pub(super) skipped_to: u64,
    pub(super) trials: Trials,
}

/// The trials of a consumer.
#[derive(Default)]
pub(crate) struct Trials {
    pub(super) log: TrialLog,
    /// The log differs from the one on disk.
    pub(super) unstored: bool,
    /// Isolated messages that have rested since the start.
    pub(super) rested: HashSet<u64>,
    /// Running trials.
    pub(super) open: Vec<Vec<u64>>,
}

/// The result of answering deliveries.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct AckOutcome {
    /// Now being resolved; must be made durable.
    pub(crate) resolving: Vec<u64>,
    /// Some were redelivered in the meantime.
    pub(crate) lost: bool,
}

impl ConsumerState {
    pub(super) fn new(filter: (String, Filter), window: Window, log: TrialLog) -> Self {
        let recorded_high = window.next() - 1;
        Self {
            filter_text: filter.0,
            filter: filter.1,
            ack_wait: u32::MAX,
            max_deliver: u32::MAX,
            pending_max: usize::MAX,
            window,
            loaded: VecDeque::new(),
            recorded_high,
            skipped_to: 0,
            trials: Trials { log, ..Trials::default() },
        }
    }

    /// Applies the parts of the spec that may change between subscriptions. Returns whether the filter has changed.
    pub(crate) fn configure(&mut self, spec: &ConsumerSpec) -> bool {
        self.ack_wait = after(0, spec.ack_wait);
        self.max_deliver = spec.max_deliver.max(1);
        self.pending_max = spec.pending_max.max(1);
        self.filter_text != spec.filter
    }

    pub(crate) fn set_filter(&mut self, (text, filter): (String, Filter)) {
        (self.filter_text, self.filter) = (text, filter);
    }

    pub(crate) fn window(&self) -> &Window {
        &self.window
    }

    /// Marks acknowledged deliveries as being resolved. A message that is already resolved is not an error: an
    /// acknowledgement may be repeated.
    pub(crate) fn acknowledge(&mut self, receipts: &[Receipt]) -> AckOutcome {
        let mut outcome = AckOutcome { resolving: Vec::with_capacity(receipts.len()), lost: false };
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            match slot.state {
                State::Resolved => {}
                State::Resolving => outcome.resolving.push(receipt.sequence),
                State::Leased | State::Waiting if u32::from(slot.count) == receipt.delivery_count => {
                    self.window.update(receipt.sequence, Slot { state: State::Resolving, ..slot });
                    outcome.resolving.push(receipt.sequence);
                }
                State::Leased | State::Waiting | State::Unseen => outcome.lost = true,
            }
        }
        outcome
    }

    /// Releases failed deliveries. Those that failed too often are marked as being resolved, to be dead-lettered.
    pub(crate) fn release_failed(&mut self, receipts: &[Receipt], now: u32, delay: Duration) -> AckOutcome {
        let mut outcome = AckOutcome::default();
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            match slot.state {
                State::Leased | State::Waiting if u32::from(slot.count) == receipt.delivery_count => {
                    self.trials.unstored = true;
                    let exhausted = self.trials.log.failed(receipt.sequence) >= self.max_deliver;
                    let state = if exhausted { State::Resolving } else { State::Waiting };
                    let slot = Slot { state, unanswered: 0, deadline: after(now, delay), ..slot };
                    self.window.update(receipt.sequence, slot);
                    if exhausted {
                        outcome.resolving.push(receipt.sequence);
                    }
                }
                State::Resolved | State::Resolving => {}
                State::Leased | State::Waiting | State::Unseen => outcome.lost = true,
            }
        }
        outcome
    }

    /// Extends leases that still hold. Returns `true` when one had expired.
    pub(crate) fn renew(&mut self, receipts: &[Receipt], now: u32) -> bool {
        let deadline = now.saturating_add(self.ack_wait);
        let mut lost = false;
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            let held = u32::from(slot.count) == receipt.delivery_count && slot.deadline > now;
            match slot.state {
                State::Leased if held => self.window.update(receipt.sequence, Slot { deadline, ..slot }),
                State::Resolved | State::Resolving => {}
                State::Leased | State::Waiting | State::Unseen => lost = true,
            }
        }
        lost
    }

    /// Marks them again, since an earlier failure may have released them between the acknowledgement and its commit.
    pub(crate) fn resolving(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            let slot = self.window.get(*sequence);
            if matches!(slot.state, State::Leased | State::Waiting) {
                self.window.update(*sequence, Slot { state: State::Resolving, ..slot });
            }
        }
    }

    /// The commit with these acknowledgements succeeded.
    pub(crate) fn resolved(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            if self.window.get(*sequence).state == State::Resolving {
                self.window.resolve(*sequence);
            }
        }
        self.window.advance();
        if !self.trials.log.is_empty() {
            self.trials.log.forget(self.window.floor(), sequences);
            self.trials.unstored = true;
        }
    }

    /// A trial of these deliveries is about to begin. Must be stored before it does.
    pub(crate) fn begin_trial(&mut self, messages: &[u64]) {
        self.trials.log.begin(messages);
        self.trials.open.push(messages.to_vec());
        self.trials.unstored = true;
    }

    /// Returns `false` when no such trial is running any more.
    pub(crate) fn end_trial(&mut self, messages: &[u64], end: TrialOutcome) -> bool {
        let Some(at) = self.trials.open.iter().position(|open| open == messages) else { return false };
        self.trials.open.swap_remove(at);
        self.trials.log.end(messages, end);
        self.trials.unstored = true;
        if end == TrialOutcome::Survived {
            for sequence in messages {
                let slot = self.window.get(*sequence);
                if matches!(slot.state, State::Leased | State::Waiting) {
                    self.window.update(*sequence, Slot { unanswered: 0, ..slot });
                }
            }
        }
        true
    }

    /// The process stops gracefully: running trials do not count. Returns whether there was one.
    pub(crate) fn withdraw_trials(&mut self) -> bool {
        let open = std::mem::take(&mut self.trials.open);
        open.iter().for_each(|messages| self.trials.log.end(messages, TrialOutcome::Withdrawn));
        self.trials.unstored |= !open.is_empty();
        !open.is_empty()
    }

    /// The encoded log, when it differs from the one on disk.
    pub(crate) fn unstored_log(&self) -> Option<Vec<u8>> {
        self.trials.unstored.then(|| self.trials.log.write())
    }

    /// The log was stored as encoded in `stored`.
    pub(crate) fn log_stored(&mut self, stored: &[u8]) {
        self.trials.unstored &= self.trials.log.write() != stored;
    }

    /// The commit failed: the messages are leased as before, for long enough that a full disk does not cause a busy
    /// loop.
    pub(crate) fn release(&mut self, sequences: &[u64], now: u32) {
        let earliest = after(now, RELEASE_DELAY);
        for sequence in sequences {
            let slot = self.window.get(*sequence);
            if slot.state == State::Resolving {
                let deadline = slot.deadline.max(earliest);
                self.window.update(*sequence, Slot { state: State::Leased, deadline, ..slot });
            }
        }
    }

    /// Whether so many messages were skipped since the position was stored that a restart should not repeat it.
    pub(crate) fn is_behind_on_disk(&self) -> bool {
        self.window.floor() >= self.recorded_high + SKIPPED_UNRECORDED_MAX
    }

    /// Whether messages were skipped for lack of interest since the position was stored.
    pub(crate) fn is_unrecorded(&self) -> bool {
        self.skipped_to > self.recorded_high
    }

    pub(crate) fn position(&self) -> Position {
        Position::of(&self.window)
    }

    pub(crate) fn recorded(&mut self, high: u64) {
        self.recorded_high = self.recorded_high.max(high);
    }

    pub(crate) fn delivery_count(&self, sequence: u64) -> u32 {
        u32::from(self.window.get(sequence).count)
    }
}
