//! What a fetch hands out: what is due again, then what is new.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::state::Mind;
use super::ticks::after;
use super::window::{Slot, State};
use crate::bus::batch::{self, FLAG_ERASED, FLAG_REPLAY};
use crate::bus::embedded::group::Group;
use crate::bus::embedded::tail::{self, Tail};
use crate::bus::trials::SUSPECT_AFTER;
use crate::bus::{Delivery, Interest, Receipt};

/// Deliveries that a fetch makes room for in one step.
const RESERVED_MAX: usize = 1 << 14;
/// The limits and circumstances of one fetch.
pub(crate) struct Request<'a> {
    pub(crate) tail: &'a Mutex<Tail>,
    pub(crate) now: u32,
    pub(crate) head: u64,
    /// Messages up to here may have been handled before.
    pub(crate) suspect_to: u64,
    pub(crate) messages_max: usize,
    pub(crate) bytes_max: usize,
    /// To be asked only now that `head` is known: what it says is said of messages up to there.
    pub(crate) interest: Option<&'a dyn Interest>,
}

/// What a fetch found.
#[derive(Debug, PartialEq)]
pub(crate) enum Found {
    /// Deliveries, or messages that ended the process too often and are now to be buried.
    Some { fatal: Vec<u64> },
    /// The group that holds this sequence has to be read from the file.
    Load(u64),
    /// Nothing, before this tick if any.
    Nothing(Option<u32>),
}

impl Mind {
    /// Finds what to deliver: suspects that are due, alone; or what else is due again, then what is new.
    pub(crate) fn take(&mut self, name: &str, request: &Request<'_>, out: &mut Vec<Delivery>) -> Found {
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
