//! The encoding of a consumer's durable position: resolved messages above the floor, and delivery counts.
//!
//! This file owns both formats. `resolved` is a tag byte followed either by run lengths (LEB128, alternating, beginning
//! with in-flight messages) or by a bitmap (bit set: resolved; lowest bit first), whichever is shorter. It covers the
//! sequences above the floor up to the highest delivered one. `counts` is a list of LEB128 triples: the distance from
//! the previous sequence (initially from the floor), the deliveries, and the trailing deliveries that were not
//! answered. A message not listed was delivered once. Knows nothing of SQLite.

use super::window::{Slot, State, Window};
use crate::base::varint::{put_varint, take_varint};

const TAG_RUNS: u8 = 0;
const TAG_BITMAP: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) floor: u64,
    /// The highest sequence that was delivered or skipped.
    pub(crate) high: u64,
    pub(crate) resolved: Vec<u8>,
    pub(crate) counts: Vec<u8>,
}

impl Position {
    /// The window as it will be once everything that is being resolved is resolved.
    pub(crate) fn of(window: &Window) -> Self {
        let floor = window.floor();
        let high = window.next() - 1;
        let in_flight = || window.in_flight_slots().filter(|(_, slot)| slot.state != State::Resolving);
        let mut counts = Vec::new();
        let mut previous = floor;
        for (sequence, slot) in in_flight().filter(|(_, slot)| slot.count > 1 || slot.unanswered > 0) {
            put_varint(&mut counts, sequence - previous);
            put_varint(&mut counts, u64::from(slot.count));
            put_varint(&mut counts, u64::from(slot.unanswered));
            previous = sequence;
        }
        let sequences = || in_flight().map(|(sequence, _)| sequence);
        let bitmap_bytes = (high - floor).div_ceil(8) as usize;
        let resolved = match runs(floor, high, sequences(), bitmap_bytes) {
            Some(runs) => runs,
            None => bitmap(floor, high, sequences()),
        };
        Self { floor, high, resolved, counts }
    }

    /// The window of a starting process: messages delivered but not resolved are due immediately, with one more
    /// unanswered delivery. `None` when the bytes are damaged.
    pub(crate) fn recover(&self) -> Option<Window> {
        let mut counts = read_counts(self.floor, &self.counts)?.into_iter().peekable();
        let mut window = Window::new(self.floor);
        let mut look = |resolved: bool| {
            let sequence = window.next();
            if resolved {
                window.skip();
                return;
            }
            while counts.next_if(|(counted, ..)| *counted < sequence).is_some() {}
            let (_, count, unanswered) = counts.next_if(|(counted, ..)| *counted == sequence).unwrap_or((0, 1, 0));
            window.push(Slot { state: State::Waiting, unanswered: unanswered.saturating_add(1), count, deadline: 0 });
        };
        let span = self.high.checked_sub(self.floor)?;
        match self.resolved.split_first() {
            None if span == 0 => {}
            Some((&TAG_RUNS, mut rest)) => {
                let (mut covered, mut resolved) = (0, false);
                while !rest.is_empty() {
                    let run = take_varint(&mut rest)?;
                    covered = Some(covered + run).filter(|covered| *covered <= span)?;
                    (0..run).for_each(|_| look(resolved));
                    resolved = !resolved;
                }
                (covered == span).then_some(())?;
            }
            Some((&TAG_BITMAP, bits)) if bits.len() as u64 == span.div_ceil(8) => {
                (0..span).for_each(|bit| look(bits[(bit / 8) as usize] >> (bit % 8) & 1 == 1));
            }
            _ => return None,
        }
        Some(window)
    }
}

/// `None` when the result exceeds `bytes_max`.
fn runs(floor: u64, high: u64, in_flight: impl Iterator<Item = u64>, bytes_max: usize) -> Option<Vec<u8>> {
    let mut out = vec![TAG_RUNS];
    // The current run of in-flight messages covers `start..end`.
    let (mut start, mut end) = (floor + 1, floor + 1);
    for sequence in in_flight {
        if sequence != end {
            put_varint(&mut out, end - start);
            put_varint(&mut out, sequence - end);
            start = sequence;
        }
        end = sequence + 1;
        if out.len() > bytes_max.max(16) {
            return None;
        }
    }
    put_varint(&mut out, end - start);
    if end <= high {
        put_varint(&mut out, high + 1 - end);
    }
    Some(out)
}

fn bitmap(floor: u64, high: u64, in_flight: impl Iterator<Item = u64>) -> Vec<u8> {
    let span = high - floor;
    let mut out = vec![0xff; span.div_ceil(8) as usize + 1];
    out[0] = TAG_BITMAP;
    for sequence in in_flight {
        let bit = sequence - floor - 1;
        out[1 + (bit / 8) as usize] &= !(1 << (bit % 8));
    }
    out
}

fn read_counts(floor: u64, mut bytes: &[u8]) -> Option<Vec<(u64, u16, u8)>> {
    let mut counts = Vec::new();
    let mut sequence = floor;
    while !bytes.is_empty() {
        sequence = sequence.checked_add(take_varint(&mut bytes)?)?;
        let count = u16::try_from(take_varint(&mut bytes)?).ok()?;
        let unanswered = u8::try_from(take_varint(&mut bytes)?).ok()?;
        counts.push((sequence, count, unanswered));
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn window(floor: u64, resolved: &[bool]) -> Window {
        let mut window = Window::new(floor);
        for _ in resolved {
            window.push(Slot { state: State::Leased, unanswered: 0, count: 1, deadline: 9 });
        }
        for (sequence, _) in (floor + 1..).zip(resolved).filter(|(_, resolved)| **resolved) {
            window.resolve(sequence);
        }
        window.advance();
        window
    }

    #[test]
    fn the_first_version_is_still_read_and_written() {
        let mut runs = window(100, &[false, false, true, true, true, false]);
        runs.update(102, Slot { state: State::Leased, unanswered: 1, count: 300, deadline: 0 });
        let stored = Position { floor: 100, high: 106, resolved: vec![0, 2, 3, 1], counts: vec![2, 0xac, 0x02, 1] };
        assert_eq!(Position::of(&runs), stored);
        let slot = stored.recover().unwrap().get(102);
        assert_eq!((slot.count, slot.unanswered, slot.state), (300, 2, State::Waiting));

        let alternating: Vec<bool> = (0..160).map(|n| n % 2 == 1).collect();
        let bitmap = Position::of(&window(0, &alternating));
        assert_eq!((bitmap.resolved.len(), &bitmap.resolved[..2]), (21, &[1, 0b1010_1010][..]));
    }

    #[test]
    fn damage_is_detected() {
        let good = Position::of(&window(10, &[false, true, false, true, false]));
        assert!(good.recover().is_some());
        let damaged = [
            Position { resolved: vec![], ..good.clone() },
            Position { resolved: vec![7, 1], ..good.clone() },
            Position { resolved: vec![TAG_BITMAP], ..good.clone() },
            Position { resolved: vec![TAG_RUNS, 0xff], ..good.clone() },
            Position { resolved: vec![TAG_RUNS, 100], ..good.clone() },
            Position { high: good.high + 1, ..good.clone() },
            Position { high: 3, ..good.clone() },
            Position { counts: vec![1, 1], ..good.clone() },
        ];
        for position in damaged {
            assert!(position.recover().is_none(), "{position:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn written_positions_are_recovered(floor in 0u64..5_000, resolved in prop::collection::vec(any::<bool>(), 0..3_000)) {
            let before = window(floor, &resolved);
            let after = Position::of(&before).recover().unwrap();
            prop_assert_eq!((after.floor(), after.next()), (before.floor(), before.next()));
            let sequences = |window: &Window| window.in_flight_slots().map(|(s, _)| s).collect::<Vec<_>>();
            prop_assert_eq!(sequences(&after), sequences(&before));
        }
    }
}
