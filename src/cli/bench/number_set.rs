//! A set of event numbers as a bitmap: numbers are allocated densely from 0.

#[derive(Clone, Debug, Default)]
pub(super) struct NumberSet {
    words: Vec<u64>,
}

impl NumberSet {
    /// Adds `count` numbers starting at `first`.
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

    /// Returns `true` if the number is new.
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

    /// The size of the intersection.
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
    fn adding_a_range_equals_adding_its_numbers() {
        let (mut numbers, mut model) = (NumberSet::default(), BTreeSet::new());
        for (first, count) in [(0, 1), (63, 2), (100, 28), (127, 1), (1_000, 200), (64, 64), (5_000, 0)] {
            numbers.add_range(first, count);
            model.extend(first..first + count as u64);
        }
        for number in 0..1_300 {
            assert_eq!(numbers.contains(number), model.contains(&number), "{number}");
        }
        assert_eq!(numbers.len(), model.len() as u64);
        assert!(numbers.add(9_999) && !numbers.add(9_999));
        let mut other = NumberSet::default();
        other.add_range(1_190, 20);
        assert_eq!(numbers.common(&other), 10);
        other.merge(&numbers);
        assert_eq!(other.len(), numbers.len() + 10);
    }
}
