//! One durable consumer in memory: what to deliver next, to whom it is leased, what was answered.
//!
//! Invariant: a message is settled here only after its acknowledgement is on disk (passing over what the
//! filter leaves out aside, which can be done again). Decides; the subscription waits and the writer stores.

mod gone;

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::group::Group;
use super::position::Position;
use super::tail::{self, Tail};
use super::window::{Slot, State, Window};
use crate::bus::batch::{self, FLAG_ERASED, FLAG_REPLAY};
use crate::bus::subject::Filter;
use crate::bus::trials::{Book, SUSPECT_AFTER, TrialOutcome};
use crate::bus::{ConsumerSpec, Delivery, Interest, Receipt};

/// The unit of deadlines: 2.7 years fit.
const TICK: Duration = Duration::from_millis(20);
/// The least lease that is left to a message whose acknowledgement could not be stored.
const RELEASE_DELAY: Duration = Duration::from_secs(1);
/// Deliveries that a fetch makes room for in one step.
const RESERVED_MAX: usize = 1 << 14;
/// Messages passed over after which the position is worth storing by itself.
const PASSED_UNRECORDED_MAX: u64 = 100_000;

pub(super) struct Consumer {
    pub(super) name: String,
    /// Wakes a subscription: a message was given back, or there is room for more.
    pub(super) wake: Notify,
    state: Mutex<Mind>,
}

/// What a consumer knows, under its lock.
pub(super) struct Mind {
    filter_text: String,
    filter: Filter,
    ack_wait: u32,
    max_deliver: u32,
    pending_max: usize,
    window: Window,
    /// Groups read from the file for what is no longer in the tail.
    loaded: VecDeque<Arc<Group>>,
    /// The highest sequence that the stored position covers.
    recorded_high: u64,
    /// The last message that was passed over for want of interest.
    passed_to: u64,
    trials: Trials,
}

/// The suspects of a consumer.
#[derive(Default)]
struct Trials {
    book: Book,
    /// The book is not on disk as it is.
    unstored: bool,
    /// Suspects that have rested since the start.
    rested: HashSet<u64>,
    /// Trials under way.
    open: Vec<Vec<u64>>,
}

/// The limits and circumstances of one fetch.
pub(super) struct Request<'a> {
    pub(super) tail: &'a Mutex<Tail>,
    pub(super) now: u32,
    pub(super) head: u64,
    /// Messages up to here may have been handled before.
    pub(super) suspect_to: u64,
    pub(super) messages_max: usize,
    pub(super) bytes_max: usize,
    /// To be asked only now that `head` is known: what it says is said of messages up to there.
    pub(super) interest: Option<&'a dyn Interest>,
}

/// What a fetch found.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Deliveries, or messages that ended the process too often and are now to be buried.
    Some { fatal: Vec<u64> },
    /// The group that holds this sequence has to be read from the file.
    Load(u64),
    /// Nothing, before this tick if any.
    Nothing(Option<u32>),
}

/// What came of an answer to deliveries.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answered {
    /// Marked as settling: to be made durable.
    pub(super) settling: Vec<u64>,
    /// Some were delivered again in the meantime.
    pub(super) lost: bool,
}

/// The tick of a moment that lies `since_start` after the engine's start.
pub(super) fn tick(since_start: Duration) -> u32 {
    u32::try_from(since_start.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX - 1)
}

/// The moment at which a tick has begun, since the engine's start.
pub(super) fn moment(tick: u32) -> Duration {
    TICK * tick
}

/// The first tick at which `wait` is over for certain.
fn after(now: u32, wait: Duration) -> u32 {
    now.saturating_add(tick(wait)).saturating_add(if wait.is_zero() { 0 } else { 2 }).min(u32::MAX - 1)
}

impl Consumer {
    pub(super) fn new(name: String, filter: (String, Filter), window: Window, book: Book) -> Arc<Self> {
        let recorded_high = window.next() - 1;
        let state = Mind {
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
        };
        Arc::new(Self { name, wake: Notify::new(), state: Mutex::new(state) })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Mind> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Mind {
    /// Takes over what may change from one subscription to the next. True when the filter is another one.
    pub(super) fn configure(&mut self, spec: &ConsumerSpec) -> bool {
        self.ack_wait = after(0, spec.ack_wait);
        self.max_deliver = spec.max_deliver.max(1);
        self.pending_max = spec.pending_max.max(1);
        self.filter_text != spec.filter
    }

    pub(super) fn set_filter(&mut self, (text, filter): (String, Filter)) {
        (self.filter_text, self.filter) = (text, filter);
    }

    pub(super) fn window(&self) -> &Window {
        &self.window
    }

    /// Finds what to deliver: suspects that are due, alone; or what else is due again, then what is new.
    pub(super) fn take(&mut self, name: &str, request: &Request<'_>, out: &mut Vec<Delivery>) -> Found {
        let mut room = Room { messages: request.messages_max.max(1), bytes: request.bytes_max };
        let (suspects, due) = self.due(request.now, room.messages);
        let (isolated, fatal) = self.choose(request.now, &suspects);
        let mut missing = self.take_due(&isolated, request, &mut room, out);
        out.iter_mut().for_each(|delivery| delivery.isolated = true);
        if missing.is_none() && out.is_empty() {
            missing = self.take_due(&due, request, &mut room, out);
            if missing.is_none() || !out.is_empty() {
                missing = self.take_new(name, request, &mut room, out);
            }
        }
        match missing {
            _ if !out.is_empty() || !fatal.is_empty() => Found::Some { fatal },
            Some(missing) => Found::Load(missing),
            None => Found::Nothing(self.window.due()),
        }
    }

    /// What is due again: suspects, and others. Whatever is leased still was not answered.
    fn due(&mut self, now: u32, max: usize) -> (Vec<u64>, Vec<u64>) {
        let due = self.window.take_due(now, max);
        for sequence in &due {
            let slot = self.window.get(*sequence);
            if slot.state == State::Leased {
                let unanswered = slot.unanswered.saturating_add(1);
                self.window.update(*sequence, Slot { state: State::Waiting, unanswered, ..slot });
            }
        }
        due.into_iter().partition(|sequence| u32::from(self.window.get(*sequence).unanswered) >= SUSPECT_AFTER)
    }

    /// Which suspects are tried next, and which are given up.
    fn choose(&mut self, now: u32, suspects: &[u64]) -> (Vec<u64>, Vec<u64>) {
        if suspects.is_empty() {
            return (Vec::new(), Vec::new());
        }
        // A trial whose messages are due again is under way no more.
        self.trials.open.retain(|open| !open.iter().any(|message| suspects.binary_search(message).is_ok()));
        let choice = self.trials.book.choose(suspects, &self.trials.rested);
        for sequence in &choice.fatal {
            let slot = self.window.get(*sequence);
            self.window.update(*sequence, Slot { state: State::Settling, ..slot });
        }
        for (sequence, rest) in choice.resting {
            self.trials.rested.insert(sequence);
            let slot = self.window.get(sequence);
            self.window.update(sequence, Slot { deadline: after(now, rest), ..slot });
        }
        (choice.next, choice.fatal)
    }

    /// The sequence whose group is missing, if one is.
    fn take_due(
        &mut self,
        due: &[u64],
        request: &Request<'_>,
        room: &mut Room,
        out: &mut Vec<Delivery>,
    ) -> Option<u64> {
        let mut current: Option<Arc<Group>> = None;
        for sequence in due.iter().copied() {
            let slot = self.window.get(sequence);
            let found = current.take().filter(|group| group.record(sequence).is_some());
            let Some(group) = found.or_else(|| self.find(request.tail, sequence)) else { return Some(sequence) };
            let record = group.record(sequence)?;
            if group.is_erased(sequence) {
                self.pass_erased(sequence);
                current = Some(group);
                continue;
            }
            if !room.admits(record.len(), out.is_empty()) {
                return None;
            }
            let deadline = request.now.saturating_add(self.ack_wait);
            let slot = Slot { state: State::Leased, count: slot.count.saturating_add(1), deadline, ..slot };
            self.window.update(sequence, slot);
            out.push(delivery(&group, sequence, record, u32::from(slot.count), request.suspect_to));
            current = Some(group);
        }
        None
    }

    /// The sequence whose group is missing, if one is.
    fn take_new(&mut self, name: &str, request: &Request<'_>, room: &mut Room, out: &mut Vec<Delivery>) -> Option<u64> {
        if let Some(interest) = request.interest.filter(|interest| !interest.has_interest()) {
            self.pass_over(request.head, interest);
            return None;
        }
        let deadline = request.now.saturating_add(self.ack_wait);
        let new = (request.head + 1).saturating_sub(self.window.next());
        out.reserve(room.messages.min(usize::try_from(new).unwrap_or(usize::MAX)).min(RESERVED_MAX));
        while self.window.next() <= request.head && self.window.unsettled() < self.pending_max {
            let Some(group) = self.find(request.tail, self.window.next()) else { return Some(self.window.next()) };
            // Looking at each record would bring all of them into the cache of a thread that may not need them.
            let wants_all = self.filter.matches_all(&group.beginning);
            while self.window.unsettled() < self.pending_max {
                let sequence = self.window.next();
                let Some(record) = group.record(sequence).filter(|_| sequence <= request.head) else { break };
                if !wants_all && !self.wants(name, group.data(), record.start) {
                    self.window.pass();
                    continue;
                }
                if !room.admits(record.len(), out.is_empty()) {
                    return None;
                }
                self.window.push(Slot { state: State::Leased, unanswered: 0, count: 1, deadline });
                out.push(delivery(&group, sequence, record, 1, request.suspect_to));
            }
        }
        if self.loaded.back().is_some_and(|group| group.last_sequence() < self.window.next()) {
            self.loaded.clear();
        }
        None
    }

    fn pass_over(&mut self, head: u64, interest: &dyn Interest) {
        let passed = (head + 1).saturating_sub(self.window.next());
        if passed > 0 {
            self.window.skip_to(head + 1);
            self.window.advance();
            self.loaded.clear();
            self.passed_to = head;
            interest.skipped(passed);
        }
    }

    fn wants(&self, name: &str, data: &[u8], start: usize) -> bool {
        let Some(layout) = batch::layout(data, start) else { return false };
        match layout.flags & (FLAG_REPLAY | FLAG_ERASED) {
            0 => self.filter.matches(&data[layout.subject]),
            FLAG_REPLAY => &data[layout.message_id] == name.as_bytes(),
            _ => false,
        }
    }

    fn find(&self, tail: &Mutex<Tail>, sequence: u64) -> Option<Arc<Group>> {
        let recent = tail.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        recent.find(sequence).or_else(|| tail::find(&self.loaded, sequence)).cloned()
    }

    /// Marks acknowledged deliveries as settling. What is settled already is no error: an acknowledgement may be
    /// repeated.
    pub(super) fn acknowledge(&mut self, receipts: &[Receipt]) -> Answered {
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
    pub(super) fn give_back(&mut self, receipts: &[Receipt], now: u32, delay: Duration) -> Answered {
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
    pub(super) fn renew(&mut self, receipts: &[Receipt], now: u32) -> bool {
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
    pub(super) fn settling(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            let slot = self.window.get(*sequence);
            if matches!(slot.state, State::Leased | State::Waiting) {
                self.window.update(*sequence, Slot { state: State::Settling, ..slot });
            }
        }
    }

    /// The commit that stores these acknowledgements succeeded.
    pub(super) fn settled(&mut self, sequences: &[u64]) {
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
    pub(super) fn begin_trial(&mut self, messages: &[u64]) {
        self.trials.book.begin(messages);
        self.trials.open.push(messages.to_vec());
        self.trials.unstored = true;
    }

    /// False when no such trial is under way any more.
    pub(super) fn end_trial(&mut self, messages: &[u64], end: TrialOutcome) -> bool {
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
    pub(super) fn withdraw_trials(&mut self) -> bool {
        let open = std::mem::take(&mut self.trials.open);
        open.iter().for_each(|messages| self.trials.book.end(messages, TrialOutcome::Withdrawn));
        self.trials.unstored |= !open.is_empty();
        !open.is_empty()
    }

    /// The book, when it is not on disk as it is.
    pub(super) fn unstored_book(&self) -> Option<Vec<u8>> {
        self.trials.unstored.then(|| self.trials.book.write())
    }

    /// The book that was to be stored is.
    pub(super) fn book_stored(&mut self, stored: &[u8]) {
        self.trials.unstored &= self.trials.book.write() != stored;
    }

    /// The commit failed: they are leased as before, for long enough that a full disk is not a busy loop.
    pub(super) fn release(&mut self, sequences: &[u64], now: u32) {
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
    pub(super) fn is_behind_on_disk(&self) -> bool {
        self.window.floor() >= self.recorded_high + PASSED_UNRECORDED_MAX
    }

    /// Something was passed over for want of interest since the position was stored.
    pub(super) fn is_unrecorded(&self) -> bool {
        self.passed_to > self.recorded_high
    }

    pub(super) fn position(&self) -> Position {
        Position::of(&self.window)
    }

    pub(super) fn recorded(&mut self, high: u64) {
        self.recorded_high = self.recorded_high.max(high);
    }

    pub(super) fn delivery_count(&self, sequence: u64) -> u32 {
        u32::from(self.window.get(sequence).count)
    }
}

/// What still fits into a fetch.
struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    /// Takes the room of one message; the first one always fits.
    fn admits(&mut self, bytes: usize, first: bool) -> bool {
        if self.messages == 0 || (bytes > self.bytes && !first) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

fn delivery(group: &Group, sequence: u64, record: Range<usize>, delivery_count: u32, suspect_to: u64) -> Delivery {
    Delivery {
        receipt: Receipt { sequence, consumer_sequence: 0, delivery_count },
        record: group.data().slice(record),
        published_at_ms: group.published_at_ms,
        delivery_count,
        possibly_redelivered: delivery_count > 1 || sequence <= suspect_to,
        isolated: false,
    }
}
