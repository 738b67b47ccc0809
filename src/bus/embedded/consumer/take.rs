//! What a fetch hands out: messages due for redelivery, then new ones.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::state::ConsumerState;
use super::ticks::after;
use super::window::{Slot, State};
use crate::bus::batch::{self, FLAG_ERASED, FLAG_REPLAY};
use crate::bus::embedded::group::Group;
use crate::bus::embedded::tail::{self, Tail};
use crate::bus::trials::ISOLATED_AFTER;
use crate::bus::{Delivery, Interest, Receipt};

/// Deliveries for which a fetch reserves room in one step.
const RESERVED_MAX: usize = 1 << 14;
/// The limits and the context of one fetch.
pub(crate) struct FetchRequest<'a> {
    pub(crate) tail: &'a Mutex<Tail>,
    pub(crate) now: u32,
    pub(crate) head: u64,
    /// Messages up to here may have been handled before.
    pub(crate) redelivery_horizon: u64,
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
    /// Evaluated only once `head` is known: its answer applies to messages up to there.
    pub(crate) interest: Option<&'a dyn Interest>,
}

/// The result of a fetch.
#[derive(Debug, PartialEq)]
pub(crate) enum FetchOutcome {
    /// Deliveries, or messages that ended the process too often and must be dead-lettered now.
    Some { fatal: Vec<u64> },
    /// The group with this sequence must be read from the file.
    Load(u64),
    /// Nothing is due before this tick, if any.
    Nothing(Option<u32>),
}

impl ConsumerState {
    /// Chooses what to deliver: isolated messages that are due, on their own; otherwise other messages due for
    /// redelivery, then new ones.
    pub(crate) fn take(&mut self, name: &str, request: &FetchRequest<'_>, out: &mut Vec<Delivery>) -> FetchOutcome {
        let mut room = Room { messages: request.messages_max.max(1), bytes: request.bytes_max };
        let (candidates, due) = self.due(request.now, room.messages);
        let (isolated, fatal) = self.choose(request.now, &candidates);
        let mut missing = self.take_due(&isolated, request, &mut room, out);
        out.iter_mut().for_each(|delivery| delivery.isolated = true);
        if missing.is_none() && out.is_empty() {
            missing = self.take_due(&due, request, &mut room, out);
            if missing.is_none() || !out.is_empty() {
                missing = self.take_new(name, request, &mut room, out);
            }
        }
        match missing {
            _ if !out.is_empty() || !fatal.is_empty() => FetchOutcome::Some { fatal },
            Some(missing) => FetchOutcome::Load(missing),
            None => FetchOutcome::Nothing(self.window.due()),
        }
    }

    /// Messages due for redelivery: those to isolate, and others. A message that is still leased was not answered.
    fn due(&mut self, now: u32, max: usize) -> (Vec<u64>, Vec<u64>) {
        let due = self.window.take_due(now, max);
        for sequence in &due {
            let slot = self.window.get(*sequence);
            if slot.state == State::Leased {
                let unanswered = slot.unanswered.saturating_add(1);
                self.window.update(*sequence, Slot { state: State::Waiting, unanswered, ..slot });
            }
        }
        due.into_iter().partition(|sequence| u32::from(self.window.get(*sequence).unanswered) >= ISOLATED_AFTER)
    }

    /// Chooses the isolated messages to try next, and those to dead-letter.
    fn choose(&mut self, now: u32, candidates: &[u64]) -> (Vec<u64>, Vec<u64>) {
        if candidates.is_empty() {
            return (Vec::new(), Vec::new());
        }
        // A trial whose messages are due again is no longer running.
        self.trials.open.retain(|open| !open.iter().any(|message| candidates.binary_search(message).is_ok()));
        let choice = self.trials.log.choose(candidates, &self.trials.rested);
        for sequence in &choice.fatal {
            let slot = self.window.get(*sequence);
            self.window.update(*sequence, Slot { state: State::Resolving, ..slot });
        }
        for (sequence, rest) in choice.resting {
            self.trials.rested.insert(sequence);
            let slot = self.window.get(sequence);
            self.window.update(sequence, Slot { deadline: after(now, rest), ..slot });
        }
        (choice.next, choice.fatal)
    }

    /// Returns the sequence of a missing group, if any.
    fn take_due(
        &mut self,
        due: &[u64],
        request: &FetchRequest<'_>,
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
                self.skip_erased(sequence);
                current = Some(group);
                continue;
            }
            if !room.admits(record.len(), out.is_empty()) {
                return None;
            }
            let deadline = request.now.saturating_add(self.ack_wait);
            let slot = Slot { state: State::Leased, count: slot.count.saturating_add(1), deadline, ..slot };
            self.window.update(sequence, slot);
            out.push(delivery(&group, sequence, record, u32::from(slot.count), request.redelivery_horizon));
            current = Some(group);
        }
        None
    }

    /// Returns the sequence of a missing group, if any.
    fn take_new(
        &mut self,
        name: &str,
        request: &FetchRequest<'_>,
        room: &mut Room,
        out: &mut Vec<Delivery>,
    ) -> Option<u64> {
        if let Some(interest) = request.interest.filter(|interest| !interest.has_interest()) {
            self.skip_unwanted(request.head, interest);
            return None;
        }
        let deadline = request.now.saturating_add(self.ack_wait);
        let new = (request.head + 1).saturating_sub(self.window.next());
        out.reserve(room.messages.min(usize::try_from(new).unwrap_or(usize::MAX)).min(RESERVED_MAX));
        while self.window.next() <= request.head && self.window.in_flight() < self.pending_max {
            let Some(group) = self.find(request.tail, self.window.next()) else { return Some(self.window.next()) };
            // Inspecting each record would pull all of them into the cache of a thread that may not need them.
            let wants_all = self.filter.matches_all(&group.subject_prefix);
            while self.window.in_flight() < self.pending_max {
                let sequence = self.window.next();
                let Some(record) = group.record(sequence).filter(|_| sequence <= request.head) else { break };
                if !wants_all && !self.wants(name, group.data(), record.start) {
                    self.window.skip();
                    continue;
                }
                if !room.admits(record.len(), out.is_empty()) {
                    return None;
                }
                self.window.push(Slot { state: State::Leased, unanswered: 0, count: 1, deadline });
                out.push(delivery(&group, sequence, record, 1, request.redelivery_horizon));
            }
        }
        if self.loaded.back().is_some_and(|group| group.last_sequence() < self.window.next()) {
            self.loaded.clear();
        }
        None
    }

    fn skip_unwanted(&mut self, head: u64, interest: &dyn Interest) {
        let passed = (head + 1).saturating_sub(self.window.next());
        if passed > 0 {
            self.window.skip_to(head + 1);
            self.window.advance();
            self.loaded.clear();
            self.skipped_to = head;
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
        let recent = tail.lock();
        recent.find(sequence).or_else(|| tail::find(&self.loaded, sequence)).cloned()
    }
}

/// The remaining room of a fetch.
struct Room {
    messages: usize,
    bytes: usize,
}

impl Room {
    /// Takes room for one message; the first one always fits.
    fn admits(&mut self, bytes: usize, first: bool) -> bool {
        if self.messages == 0 || (bytes > self.bytes && !first) {
            return false;
        }
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}

fn delivery(
    group: &Group,
    sequence: u64,
    record: Range<usize>,
    delivery_count: u32,
    redelivery_horizon: u64,
) -> Delivery {
    Delivery {
        receipt: Receipt { sequence, consumer_sequence: 0, delivery_count },
        record: group.data().slice(record),
        published_at_ms: group.published_at_ms,
        delivery_count,
        possibly_redelivered: delivery_count > 1 || sequence <= redelivery_horizon,
        isolated: false,
    }
}
