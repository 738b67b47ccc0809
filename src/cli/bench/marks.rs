//! A set of event numbers, one bit each: numbers are handed out densely from 0.

#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    words: Vec<u64>,
}

impl Marks {
    /// Adds `count` numbers from `first` on.
    pub(super) fn add_range(&mut self, first: u64, count: usize) {
        let (mut at, end) = (first as usize, first as usize + count);
        if self.words.len() * 64 < end {
            self.words.resize(end.div_ceil(64).next_power_of_two(), 0);
        }
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            self.words[at / 64] |= (u64::MAX >> (64 - bits)) << (at % 64);
            at += bits;
        }
    }

    /// True when the number was not in the set before.
    pub(super) fn add(&mut self, number: u64) -> bool {
        let new = !self.contains(number);
        self.add_range(number, 1);
        new
    }

    pub(super) fn contains(&self, number: u64) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub(super) fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many numbers both sets hold.
    pub(super) fn common(&self, other: &Self) -> u64 {
        self.words.iter().zip(&other.words).map(|(a, b)| u64::from((a & b).count_ones())).sum()
    }

    pub(super) fn merge(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ranges_are_as_if_added_one_by_one() {
        let (mut marks, mut model) = (Marks::default(), BTreeSet::new());
        for (first, count) in [(0, 1), (63, 2), (100, 28), (127, 1), (1_000, 200), (64, 64), (5_000, 0)] {
            marks.add_range(first, count);
            model.extend(first..first + count as u64);
        }
        for number in 0..1_300 {
            assert_eq!(marks.contains(number), model.contains(&number), "{number}");
        }
        assert_eq!(marks.len(), model.len() as u64);
        assert!(marks.add(9_999) && !marks.add(9_999));
        let mut other = Marks::default();
        other.add_range(1_190, 20);
        assert_eq!(marks.common(&other), 10);
        other.merge(&marks);
        assert_eq!(other.len(), marks.len() + 10);
    }
}
