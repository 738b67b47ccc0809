//! The state of one durable consumer: what is leased, what was answered, what is on record.
//!
//! Invariant: a message is settled here only after its acknowledgement is on disk (passing over what the
//! filter leaves out aside, which can be done again). Decides; the subscription waits and the writer stores.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::position::Position;
use super::ticks::after;
use super::window::{Slot, State, Window};
use crate::bus::embedded::group::Group;
use crate::bus::subject::Filter;
use crate::bus::trials::{Book, TrialOutcome};
use crate::bus::{ConsumerSpec, Receipt};

/// The least lease that is left to a message whose acknowledgement could not be stored.
const RELEASE_DELAY: Duration = Duration::from_secs(1);
/// Messages passed over after which the position is worth storing by itself.
const PASSED_UNRECORDED_MAX: u64 = 100_000;

/// What a consumer knows, under its lock.
pub(crate) struct Mind {
    pub(super) filter_text: String,
    pub(super) filter: Filter,
    pub(super) ack_wait: u32,
    pub(super) max_deliver: u32,
    pub(super) pending_max: usize,
    pub(super) window: Window,
    /// Groups read from the file for what is no longer in the tail.
    pub(super) loaded: VecDeque<Arc<Group>>,
    /// The highest sequence that the stored position covers.
    pub(super) recorded_high: u64,
    /// The last message that was passed over for want of interest.
    pub(super) passed_to: u64,
    pub(super) trials: Trials,
}

/// The suspects of a consumer.
#[derive(Default)]
pub(crate) struct Trials {
    pub(super) book: Book,
    /// The book is not on disk as it is.
    pub(super) unstored: bool,
    /// Suspects that have rested since the start.
    pub(super) rested: HashSet<u64>,
    /// Trials under way.
    pub(super) open: Vec<Vec<u64>>,
}

/// What came of an answer to deliveries.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Answered {
    /// Marked as settling: to be made durable.
    pub(crate) settling: Vec<u64>,
    /// Some were delivered again in the meantime.
    pub(crate) lost: bool,
}

impl Mind {
    pub(super) fn new(filter: (String, Filter), window: Window, book: Book) -> Self {
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
            passed_to: 0,
            trials: Trials { book, ..Trials::default() },
        }
    }

    /// Takes over what may change from one subscription to the next. True when the filter is another one.
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

    /// Marks acknowledged deliveries as settling. What is settled already is no error: an acknowledgement may be
    /// repeated.
    pub(crate) fn acknowledge(&mut self, receipts: &[Receipt]) -> Answered {
        let mut answered = Answered { settling: Vec::with_capacity(receipts.len()), lost: false };
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            match slot.state {
                State::Settled => {}
                State::Settling => answered.settling.push(receipt.sequence),
                State::Leased | State::Waiting if u32::from(slot.count) == receipt.delivery_count => {
                    self.window.update(receipt.sequence, Slot { state: State::Settling, ..slot });
                    answered.settling.push(receipt.sequence);
                }
                State::Leased | State::Waiting | State::Unseen => answered.lost = true,
            }
        }
        answered
    }

    /// Gives failed deliveries back; those that failed too often are marked as settling, to be buried.
    pub(crate) fn give_back(&mut self, receipts: &[Receipt], now: u32, delay: Duration) -> Answered {
        let mut answered = Answered::default();
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            match slot.state {
                State::Leased | State::Waiting if u32::from(slot.count) == receipt.delivery_count => {
                    self.trials.unstored = true;
                    let exhausted = self.trials.book.failed(receipt.sequence) >= self.max_deliver;
                    let state = if exhausted { State::Settling } else { State::Waiting };
                    let slot = Slot { state, unanswered: 0, deadline: after(now, delay), ..slot };
                    self.window.update(receipt.sequence, slot);
                    if exhausted {
                        answered.settling.push(receipt.sequence);
                    }
                }
                State::Settled | State::Settling => {}
                State::Leased | State::Waiting | State::Unseen => answered.lost = true,
            }
        }
        answered
    }

    /// Extends leases that hold. True when one had lapsed.
    pub(crate) fn renew(&mut self, receipts: &[Receipt], now: u32) -> bool {
        let deadline = now.saturating_add(self.ack_wait);
        let mut lost = false;
        for receipt in receipts {
            let slot = self.window.get(receipt.sequence);
            let held = u32::from(slot.count) == receipt.delivery_count && slot.deadline > now;
            match slot.state {
                State::Leased if held => self.window.update(receipt.sequence, Slot { deadline, ..slot }),
                State::Settled | State::Settling => {}
                State::Leased | State::Waiting | State::Unseen => lost = true,
            }
        }
        lost
    }

    /// Marks again what an earlier failure may have released between the answer and its commit.
    pub(crate) fn settling(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            let slot = self.window.get(*sequence);
            if matches!(slot.state, State::Leased | State::Waiting) {
                self.window.update(*sequence, Slot { state: State::Settling, ..slot });
            }
        }
    }

    /// The commit that stores these acknowledgements succeeded.
    pub(crate) fn settled(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            if self.window.get(*sequence).state == State::Settling {
                self.window.settle(*sequence);
            }
        }
        self.window.advance();
        if !self.trials.book.is_empty() {
            self.trials.book.forget(self.window.floor(), sequences);
            self.trials.unstored = true;
        }
    }

    /// A trial of these deliveries is about to begin; to be stored before it does.
    pub(crate) fn begin_trial(&mut self, messages: &[u64]) {
        self.trials.book.begin(messages);
        self.trials.open.push(messages.to_vec());
        self.trials.unstored = true;
    }

    /// False when no such trial is under way any more.
    pub(crate) fn end_trial(&mut self, messages: &[u64], end: TrialOutcome) -> bool {
        let Some(at) = self.trials.open.iter().position(|open| open == messages) else { return false };
        self.trials.open.swap_remove(at);
        self.trials.book.end(messages, end);
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

    /// The process ends in order: no trial that is under way counts. True when there is one.
    pub(crate) fn withdraw_trials(&mut self) -> bool {
        let open = std::mem::take(&mut self.trials.open);
        open.iter().for_each(|messages| self.trials.book.end(messages, TrialOutcome::Withdrawn));
        self.trials.unstored |= !open.is_empty();
        !open.is_empty()
    }

    /// The book, when it is not on disk as it is.
    pub(crate) fn unstored_book(&self) -> Option<Vec<u8>> {
        self.trials.unstored.then(|| self.trials.book.write())
    }

    /// The book that was to be stored is.
    pub(crate) fn book_stored(&mut self, stored: &[u8]) {
        self.trials.unstored &= self.trials.book.write() != stored;
    }

    /// The commit failed: they are leased as before, for long enough that a full disk is not a busy loop.
    pub(crate) fn release(&mut self, sequences: &[u64], now: u32) {
        let earliest = after(now, RELEASE_DELAY);
        for sequence in sequences {
            let slot = self.window.get(*sequence);
            if slot.state == State::Settling {
                let deadline = slot.deadline.max(earliest);
                self.window.update(*sequence, Slot { state: State::Leased, deadline, ..slot });
            }
        }
    }

    /// True when so much was passed over since the position was stored that a restart should not repeat it.
    pub(crate) fn is_behind_on_disk(&self) -> bool {
        self.window.floor() >= self.recorded_high + PASSED_UNRECORDED_MAX
    }

    /// Something was passed over for want of interest since the position was stored.
    pub(crate) fn is_unrecorded(&self) -> bool {
        self.passed_to > self.recorded_high
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
