//! The state of each message between the ack floor of a consumer and its next new message.
//!
//! Invariant: every message at or below the floor is resolved, no message at or above `next` has been looked at, and
//! the message right above the floor is not resolved. Memory grows with the chunks that contain in-flight messages: a
//! fully resolved chunk costs a pointer, so a stuck message does not retain the state of everything after it. Knows
//! nothing of groups, clocks or files; time is in ticks.

use std::collections::VecDeque;

/// Sequences in a chunk.
const CHUNK: u64 = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not delivered yet.
    Unseen,
    /// With a consumer until the deadline.
    Leased,
    /// Released or recovered: to be redelivered from the deadline on.
    Waiting,
    /// Its acknowledgement is being written to disk.
    Resolving,
    /// Acknowledged or skipped.
    Resolved,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) state: State,
    /// Consecutive deliveries that ended without an answer: the process ended, or the lease expired.
    pub(crate) unanswered: u8,
    /// Deliveries so far.
    pub(crate) count: u16,
    /// In ticks.
    pub(crate) deadline: u32,
}

const UNSEEN: Slot = Slot { state: State::Unseen, unanswered: 0, count: 0, deadline: 0 };

#[derive(Debug)]
enum Chunk {
    /// Every sequence in it is resolved.
    Resolved,
    Open {
        slots: Box<[Slot; CHUNK as usize]>,
        resolved: u16,
    },
}

#[derive(Debug)]
pub(crate) struct Window {
    floor: u64,
    next: u64,
    /// Consecutive chunks, beginning with the one that holds the sequence above the floor. Empty when nothing is in
    /// flight.
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk: its first sequence divided by `CHUNK`.
    first: u64,
    in_flight: usize,
    /// No deadline is earlier than this tick.
    due: u32,
}

impl Window {
    /// An empty window above `floor`.
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, next: floor + 1, chunks: VecDeque::new(), first: 0, in_flight: 0, due: u32::MAX }
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The lowest sequence that has not been looked at.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Messages delivered and not resolved.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Resolved messages above the floor.
    pub(crate) fn resolved_above_floor(&self) -> u64 {
        self.next - 1 - self.floor - self.in_flight as u64
    }

    /// Nothing is due before this tick. `None` when no message is leased or waiting.
    pub(crate) fn due(&self) -> Option<u32> {
        (self.in_flight > 0 && self.due != u32::MAX).then_some(self.due)
    }

    pub(crate) fn get(&self, sequence: u64) -> Slot {
        if sequence <= self.floor {
            return Slot { state: State::Resolved, ..UNSEEN };
        }
        let chunk = (sequence / CHUNK).checked_sub(self.first).and_then(|at| self.chunks.get(at as usize));
        match chunk {
            Some(Chunk::Open { slots, .. }) => slots[(sequence % CHUNK) as usize],
            Some(Chunk::Resolved) => Slot { state: State::Resolved, ..UNSEEN },
            None if sequence < self.next => Slot { state: State::Resolved, ..UNSEEN },
            None => UNSEEN,
        }
    }

    /// Adds `next` in the given state (leased or waiting).
    pub(crate) fn push(&mut self, slot: Slot) {
        let sequence = self.next;
        self.next += 1;
        self.in_flight += 1;
        self.due = self.due.min(slot.deadline);
        *self.slot_for(sequence) = slot;
    }

    /// Resolves `next` without delivering it: it is not for this consumer.
    pub(crate) fn skip(&mut self) {
        let sequence = self.next;
        self.next += 1;
        if self.chunks.is_empty() {
            self.floor = sequence;
            return;
        }
        self.slot_for(sequence).state = State::Resolved;
        self.count_resolved(sequence);
    }

    /// Skips all messages below `sequence`, which are no longer stored.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        while self.next < sequence {
            if self.chunks.is_empty() {
                self.floor = sequence - 1;
                self.next = sequence;
            } else {
                self.skip();
            }
        }
    }

    /// The slot of a sequence below `next`; creates its chunk if necessary.
    fn slot_for(&mut self, sequence: u64) -> &mut Slot {
        let number = sequence / CHUNK;
        if self.chunks.is_empty() {
            self.first = number;
        }
        let at = (number - self.first) as usize;
        if at >= self.chunks.len() {
            // In the first chunk, everything below this sequence is below the floor, hence resolved.
            let resolved = if self.chunks.is_empty() { (sequence % CHUNK) as u16 } else { 0 };
            self.chunks.push_back(Chunk::Open { slots: Box::new([UNSEEN; CHUNK as usize]), resolved });
        }
        match &mut self.chunks[at] {
            Chunk::Open { slots, .. } => &mut slots[(sequence % CHUNK) as usize],
            Chunk::Resolved => unreachable!("a chunk is settled only when `next` has left it, and slots settle once"),
        }
    }

    fn count_resolved(&mut self, sequence: u64) {
        let at = (sequence / CHUNK - self.first) as usize;
        if let Some(Chunk::Open { resolved, .. }) = self.chunks.get_mut(at) {
            *resolved += 1;
            if u64::from(*resolved) == CHUNK {
                self.chunks[at] = Chunk::Resolved;
            }
        }
    }

    /// Changes a slot that is leased, waiting or being resolved to another of these states.
    pub(crate) fn update(&mut self, sequence: u64, slot: Slot) {
        debug_assert!(!matches!(slot.state, State::Unseen | State::Resolved));
        if matches!(slot.state, State::Leased | State::Waiting) {
            self.due = self.due.min(slot.deadline);
        }
        *self.slot_for(sequence) = slot;
    }

    /// Resolves a slot that is leased, waiting or being resolved. `advance` moves the floor.
    pub(crate) fn resolve(&mut self, sequence: u64) {
        self.slot_for(sequence).state = State::Resolved;
        self.in_flight -= 1;
        self.count_resolved(sequence);
    }

    /// Moves the floor up past resolved messages.
    pub(crate) fn advance(&mut self) {
        if self.in_flight == 0 {
            self.floor = self.next - 1;
            self.chunks.clear();
            self.due = u32::MAX;
            return;
        }
        while let Some(chunk) = self.chunks.front() {
            let end = (self.first + 1) * CHUNK;
            if let Chunk::Open { slots, .. } = chunk {
                let from = (self.floor + 1).max(self.first * CHUNK);
                let resolved = slots[(from % CHUNK) as usize..].iter().take_while(|slot| slot.state == State::Resolved);
                self.floor = from + resolved.count() as u64 - 1;
                if self.floor + 1 < end {
                    return;
                }
            }
            self.floor = end - 1;
            self.chunks.pop_front();
            self.first += 1;
        }
    }

    /// The first `max` sequences whose deadline has passed at `now`, ascending.
    pub(crate) fn take_due(&mut self, now: u32, max: usize) -> Vec<u64> {
        let mut due = Vec::new();
        if now < self.due || self.in_flight == 0 {
            return due;
        }
        let mut earliest = u32::MAX;
        for (sequence, slot) in self.in_flight_slots() {
            if matches!(slot.state, State::Leased | State::Waiting) {
                if slot.deadline <= now && due.len() < max {
                    due.push(sequence);
                }
                earliest = earliest.min(slot.deadline);
            }
        }
        self.due = earliest;
        due
    }

    /// The in-flight messages with their sequences, ascending.
    pub(crate) fn in_flight_slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let chunks = self.chunks.iter().enumerate().filter_map(|(at, chunk)| match chunk {
            Chunk::Open { slots, .. } => Some(((self.first + at as u64) * CHUNK, slots)),
            Chunk::Resolved => None,
        });
        let (floor, next) = (self.floor, self.next);
        let slots = chunks.flat_map(|(first, slots)| (first..).zip(slots.iter()));
        slots.filter(move |(sequence, slot)| {
            !matches!(slot.state, State::Resolved | State::Unseen) && *sequence > floor && *sequence < next
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn leased(deadline: u32) -> Slot {
        Slot { state: State::Leased, unanswered: 0, count: 1, deadline }
    }

    #[test]
    fn one_stuck_message_does_not_retain_later_ones() {
        let mut window = Window::new(0);
        window.push(leased(5));
        for sequence in 2..=1_000_000 {
            window.push(leased(5));
            window.resolve(sequence);
            window.advance();
        }
        assert_eq!((window.floor(), window.in_flight()), (0, 1));
        assert_eq!(window.resolved_above_floor(), 999_999);
        let open = window.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Open { .. })).count();
        assert!(open <= 2, "{open} chunks are open");
        assert_eq!(window.take_due(5, 10), [1]);
        window.resolve(1);
        window.advance();
        assert_eq!((window.floor(), window.chunks.len()), (1_000_000, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Pass(u16),
        Resolve(prop::sample::Index),
        Update(prop::sample::Index, u32),
        Due(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..50).prop_map(Step::Push),
            1 => (0u16..700).prop_map(Step::Pass),
            4 => any::<prop::sample::Index>().prop_map(Step::Resolve),
            1 => (any::<prop::sample::Index>(), 0u32..50).prop_map(|(at, tick)| Step::Update(at, tick)),
            1 => (0u32..50).prop_map(Step::Due),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn agrees_with_a_map(floor in 0u64..3_000, steps in steps()) {
            let mut window = Window::new(floor);
            let mut in_flight: BTreeMap<u64, u32> = BTreeMap::new();
            let mut next = floor + 1;
            for step in steps {
                match step {
                    Step::Push(deadline) => {
                        window.push(leased(deadline));
                        in_flight.insert(next, deadline);
                        next += 1;
                    }
                    Step::Pass(count) => {
                        (0..count).for_each(|_| window.skip());
                        next += u64::from(count);
                    }
                    Step::Resolve(at) if !in_flight.is_empty() => {
                        let sequence = *at.get(&in_flight.keys().copied().collect::<Vec<_>>());
                        in_flight.remove(&sequence);
                        window.resolve(sequence);
                        window.advance();
                    }
                    Step::Update(at, deadline) if !in_flight.is_empty() => {
                        let sequence = *at.get(&in_flight.keys().copied().collect::<Vec<_>>());
                        in_flight.insert(sequence, deadline);
                        window.update(sequence, leased(deadline));
                    }
                    Step::Due(now) => {
                        let expected: Vec<u64> =
                            in_flight.iter().filter(|(_, deadline)| **deadline <= now).map(|(s, _)| *s).take(7).collect();
                        prop_assert_eq!(window.take_due(now, 7), expected);
                    }
                    Step::Resolve(_) | Step::Update(..) => {}
                }
                prop_assert_eq!(window.next(), next);
                prop_assert_eq!(window.in_flight(), in_flight.len());
                let lowest = in_flight.keys().next().copied().unwrap_or(next);
                prop_assert_eq!(window.floor(), lowest - 1);
                let seen: Vec<u64> = window.in_flight_slots().map(|(sequence, _)| sequence).collect();
                prop_assert_eq!(seen, in_flight.keys().copied().collect::<Vec<_>>());
            }
            for probe in floor.saturating_sub(3)..next + 3 {
                let state = window.get(probe).state;
                let expected = match probe {
                    _ if in_flight.contains_key(&probe) => State::Leased,
                    _ if probe < next => State::Resolved,
                    _ => State::Unseen,
                };
                prop_assert_eq!(state, expected, "sequence {}", probe);
            }
        }
    }
}
