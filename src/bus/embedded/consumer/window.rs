//! What became of each message between a consumer's ack floor and its next new message.
//!
//! Invariant: everything at or below the floor is settled, everything at or above `next` was never looked
//! at, and the message right above the floor is not settled. Memory goes with the chunks that hold something
//! unsettled: a chunk that is settled whole costs a pointer, so one stuck message does not hold the state of
//! all that came after it. Knows nothing of groups, clocks or files; time is in ticks.

use std::collections::VecDeque;

/// Sequences in a chunk.
const CHUNK: u64 = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not delivered yet.
    Unseen,
    /// With a consumer until the deadline.
    Leased,
    /// Given back or recovered: to be delivered again from the deadline on.
    Waiting,
    /// Its acknowledgement is on its way to the disk.
    Settling,
    /// Acknowledged, or passed over.
    Settled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) state: State,
    /// Deliveries in a row that ended without an answer: the process ended, or the lease lapsed.
    pub(crate) unanswered: u8,
    /// Deliveries so far.
    pub(crate) count: u16,
    /// In ticks.
    pub(crate) deadline: u32,
}

const UNSEEN: Slot = Slot { state: State::Unseen, unanswered: 0, count: 0, deadline: 0 };

#[derive(Debug)]
enum Chunk {
    /// Every sequence of it is settled.
    Settled,
    Open {
        slots: Box<[Slot; CHUNK as usize]>,
        settled: u16,
    },
}

#[derive(Debug)]
pub(crate) struct Window {
    floor: u64,
    next: u64,
    /// Consecutive chunks; the first one holds the sequence above the floor. Empty when nothing is unsettled.
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk: its first sequence over `CHUNK`.
    first: u64,
    unsettled: usize,
    /// No deadline is before this tick.
    due: u32,
}

impl Window {
    /// A window with nothing in it above `floor`.
    pub(crate) fn new(floor: u64) -> Self {
        Self { floor, next: floor + 1, chunks: VecDeque::new(), first: 0, unsettled: 0, due: u32::MAX }
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// The lowest sequence that was never looked at.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Delivered and not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// Messages above the floor that are settled.
    pub(crate) fn settled_above_floor(&self) -> u64 {
        self.next - 1 - self.floor - self.unsettled as u64
    }

    /// Nothing is due before this tick; none when nothing waits or is leased.
    pub(crate) fn due(&self) -> Option<u32> {
        (self.unsettled > 0 && self.due != u32::MAX).then_some(self.due)
    }

    pub(crate) fn get(&self, sequence: u64) -> Slot {
        if sequence <= self.floor {
            return Slot { state: State::Settled, ..UNSEEN };
        }
        let chunk = (sequence / CHUNK).checked_sub(self.first).and_then(|at| self.chunks.get(at as usize));
        match chunk {
            Some(Chunk::Open { slots, .. }) => slots[(sequence % CHUNK) as usize],
            Some(Chunk::Settled) => Slot { state: State::Settled, ..UNSEEN },
            None if sequence < self.next => Slot { state: State::Settled, ..UNSEEN },
            None => UNSEEN,
        }
    }

    /// Looks at `next`: puts it in the given state (leased or waiting).
    pub(crate) fn push(&mut self, slot: Slot) {
        let sequence = self.next;
        self.next += 1;
        self.unsettled += 1;
        self.due = self.due.min(slot.deadline);
        *self.slot_for(sequence) = slot;
    }

    /// Looks at `next` and settles it: it is not for this consumer.
    pub(crate) fn pass(&mut self) {
        let sequence = self.next;
        self.next += 1;
        if self.chunks.is_empty() {
            self.floor = sequence;
            return;
        }
        self.slot_for(sequence).state = State::Settled;
        self.count_settled(sequence);
    }

    /// Passes over everything below `sequence`, which is not stored any more.
    pub(crate) fn skip_to(&mut self, sequence: u64) {
        while self.next < sequence {
            if self.chunks.is_empty() {
                self.floor = sequence - 1;
                self.next = sequence;
            } else {
                self.pass();
            }
        }
    }

    /// The slot of a sequence below `next`, in a chunk that is made for it if need be.
    fn slot_for(&mut self, sequence: u64) -> &mut Slot {
        let number = sequence / CHUNK;
        if self.chunks.is_empty() {
            self.first = number;
        }
        let at = (number - self.first) as usize;
        if at >= self.chunks.len() {
            // What lies below the sequence in a first chunk is below the floor: settled.
            let settled = if self.chunks.is_empty() { (sequence % CHUNK) as u16 } else { 0 };
            self.chunks.push_back(Chunk::Open { slots: Box::new([UNSEEN; CHUNK as usize]), settled });
        }
        match &mut self.chunks[at] {
            Chunk::Open { slots, .. } => &mut slots[(sequence % CHUNK) as usize],
            Chunk::Settled => unreachable!("a chunk is settled only when `next` has left it, and slots settle once"),
        }
    }

    fn count_settled(&mut self, sequence: u64) {
        let at = (sequence / CHUNK - self.first) as usize;
        if let Some(Chunk::Open { settled, .. }) = self.chunks.get_mut(at) {
            *settled += 1;
            if u64::from(*settled) == CHUNK {
                self.chunks[at] = Chunk::Settled;
            }
        }
    }

    /// Changes a slot that is leased, waiting or settling to another of these states.
    pub(crate) fn update(&mut self, sequence: u64, slot: Slot) {
        debug_assert!(!matches!(slot.state, State::Unseen | State::Settled));
        if matches!(slot.state, State::Leased | State::Waiting) {
            self.due = self.due.min(slot.deadline);
        }
        *self.slot_for(sequence) = slot;
    }

    /// Settles a slot that is leased, waiting or settling. The floor follows with `advance`.
    pub(crate) fn settle(&mut self, sequence: u64) {
        self.slot_for(sequence).state = State::Settled;
        self.unsettled -= 1;
        self.count_settled(sequence);
    }

    /// Moves the floor up over what is settled.
    pub(crate) fn advance(&mut self) {
        if self.unsettled == 0 {
            self.floor = self.next - 1;
            self.chunks.clear();
            self.due = u32::MAX;
            return;
        }
        while let Some(chunk) = self.chunks.front() {
            let end = (self.first + 1) * CHUNK;
            if let Chunk::Open { slots, .. } = chunk {
                let from = (self.floor + 1).max(self.first * CHUNK);
                let settled = slots[(from % CHUNK) as usize..].iter().take_while(|slot| slot.state == State::Settled);
                self.floor = from + settled.count() as u64 - 1;
                if self.floor + 1 < end {
                    return;
                }
            }
            self.floor = end - 1;
            self.chunks.pop_front();
            self.first += 1;
        }
    }

    /// The first `max` sequences whose deadline is not after `now`, ascending.
    pub(crate) fn take_due(&mut self, now: u32, max: usize) -> Vec<u64> {
        let mut due = Vec::new();
        if now < self.due || self.unsettled == 0 {
            return due;
        }
        let mut earliest = u32::MAX;
        for (sequence, slot) in self.unsettled_slots() {
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

    /// What is not settled, with its sequence, ascending.
    pub(crate) fn unsettled_slots(&self) -> impl Iterator<Item = (u64, &Slot)> {
        let chunks = self.chunks.iter().enumerate().filter_map(|(at, chunk)| match chunk {
            Chunk::Open { slots, .. } => Some(((self.first + at as u64) * CHUNK, slots)),
            Chunk::Settled => None,
        });
        let (floor, next) = (self.floor, self.next);
        let slots = chunks.flat_map(|(first, slots)| (first..).zip(slots.iter()));
        slots.filter(move |(sequence, slot)| {
            !matches!(slot.state, State::Settled | State::Unseen) && *sequence > floor && *sequence < next
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
    fn one_stuck_message_does_not_hold_what_came_after_it() {
        let mut window = Window::new(0);
        window.push(leased(5));
        for sequence in 2..=1_000_000 {
            window.push(leased(5));
            window.settle(sequence);
            window.advance();
        }
        assert_eq!((window.floor(), window.unsettled()), (0, 1));
        assert_eq!(window.settled_above_floor(), 999_999);
        let open = window.chunks.iter().filter(|chunk| matches!(chunk, Chunk::Open { .. })).count();
        assert!(open <= 2, "{open} chunks are open");
        assert_eq!(window.take_due(5, 10), [1]);
        window.settle(1);
        window.advance();
        assert_eq!((window.floor(), window.chunks.len()), (1_000_000, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push(u32),
        Pass(u16),
        Settle(prop::sample::Index),
        Update(prop::sample::Index, u32),
        Due(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..50).prop_map(Step::Push),
            1 => (0u16..700).prop_map(Step::Pass),
            4 => any::<prop::sample::Index>().prop_map(Step::Settle),
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
            let mut unsettled: BTreeMap<u64, u32> = BTreeMap::new();
            let mut next = floor + 1;
            for step in steps {
                match step {
                    Step::Push(deadline) => {
                        window.push(leased(deadline));
                        unsettled.insert(next, deadline);
                        next += 1;
                    }
                    Step::Pass(count) => {
                        (0..count).for_each(|_| window.pass());
                        next += u64::from(count);
                    }
                    Step::Settle(at) if !unsettled.is_empty() => {
                        let sequence = *at.get(&unsettled.keys().copied().collect::<Vec<_>>());
                        unsettled.remove(&sequence);
                        window.settle(sequence);
                        window.advance();
                    }
                    Step::Update(at, deadline) if !unsettled.is_empty() => {
                        let sequence = *at.get(&unsettled.keys().copied().collect::<Vec<_>>());
                        unsettled.insert(sequence, deadline);
                        window.update(sequence, leased(deadline));
                    }
                    Step::Due(now) => {
                        let expected: Vec<u64> =
                            unsettled.iter().filter(|(_, deadline)| **deadline <= now).map(|(s, _)| *s).take(7).collect();
                        prop_assert_eq!(window.take_due(now, 7), expected);
                    }
                    Step::Settle(_) | Step::Update(..) => {}
                }
                prop_assert_eq!(window.next(), next);
                prop_assert_eq!(window.unsettled(), unsettled.len());
                let lowest = unsettled.keys().next().copied().unwrap_or(next);
                prop_assert_eq!(window.floor(), lowest - 1);
                let seen: Vec<u64> = window.unsettled_slots().map(|(sequence, _)| sequence).collect();
                prop_assert_eq!(seen, unsettled.keys().copied().collect::<Vec<_>>());
            }
            for probe in floor.saturating_sub(3)..next + 3 {
                let state = window.get(probe).state;
                let expected = match probe {
                    _ if unsettled.contains_key(&probe) => State::Leased,
                    _ if probe < next => State::Settled,
                    _ => State::Unseen,
                };
                prop_assert_eq!(state, expected, "sequence {}", probe);
            }
        }
    }
}
