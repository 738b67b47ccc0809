//! Sets of stream sequences, and their encoding in a file's footer.
//!
//! Format, version 1: for each range in ascending order, a LEB128 varint of the gap since
//! the end of the previous range (the first gap counts from 0), then one of the range's length
//! minus one. Ranges neither touch nor overlap, so every set has exactly one encoding.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use crate::base::varint::{put_varint, take_varint};

/// The most ranges in a footer: a file of 16 million rows with no two adjacent sequences.
const RANGES_MAX: usize = 1 << 24;

/// A set of sequences, as ascending inclusive ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SequenceSet {
    ranges: Vec<(u64, u64)>,
}

/// The text is not an encoded sequence set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed sequence ranges")]
pub struct MalformedSequenceSet;

impl SequenceSet {
    /// Builds the set from sequences in any order; duplicates are allowed.
    pub fn of(sequences: impl Iterator<Item = u64>) -> Self {
        let mut all: Vec<u64> = sequences.collect();
        if !all.is_sorted() {
            all.sort_unstable();
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for sequence in all {
            match ranges.last_mut() {
                Some((_, last)) if sequence <= last.saturating_add(1) => *last = sequence.max(*last),
                _ => ranges.push((sequence, sequence)),
            }
        }
        Self { ranges }
    }

    pub fn contains(&self, sequence: u64) -> bool {
        let after = self.ranges.partition_point(|(first, _)| *first <= sequence);
        after > 0 && self.ranges[after - 1].1 >= sequence
    }

    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The first and the last sequence.
    pub fn span(&self) -> Option<(u64, u64)> {
        Some((self.ranges.first()?.0, self.ranges.last()?.1))
    }

    /// The memory that the ranges take.
    pub(super) fn memory_bytes(&self) -> usize {
        self.ranges.capacity() * size_of::<(u64, u64)>()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().copied()
    }

    /// The footer's text: the format above in base64.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(self.ranges.len() * 3);
        let mut end = 0;
        for (first, last) in &self.ranges {
            put_varint(&mut bytes, first - end);
            put_varint(&mut bytes, last - first);
            end = *last;
        }
        BASE64.encode(bytes)
    }

    pub fn decode(text: &str) -> Result<Self, MalformedSequenceSet> {
        let bytes = BASE64.decode(text).map_err(|_| MalformedSequenceSet)?;
        let mut rest = bytes.as_slice();
        let mut ranges = Vec::new();
        let mut end = 0u64;
        while !rest.is_empty() {
            let gap = take_varint(&mut rest).ok_or(MalformedSequenceSet)?;
            let first = end.checked_add(gap).ok_or(MalformedSequenceSet)?;
            let last =
                first.checked_add(take_varint(&mut rest).ok_or(MalformedSequenceSet)?).ok_or(MalformedSequenceSet)?;
            // A gap of one would have extended the previous range.
            if !ranges.is_empty() && gap < 2 || ranges.len() == RANGES_MAX {
                return Err(MalformedSequenceSet);
            }
            ranges.push((first, last));
            end = last;
        }
        Ok(Self { ranges })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_encoding_of_version_1_is_still_read() {
        let ranges = SequenceSet::of([1, 2, 3, 10, 300, 301].into_iter());
        assert_eq!(ranges.encode(), "AQIHAKICAQ");
        assert_eq!(SequenceSet::decode("AQIHAKICAQ"), Ok(ranges));
        assert_eq!(SequenceSet::decode(""), Ok(SequenceSet::default()));
    }

    #[test]
    fn damaged_text_is_refused() {
        for text in ["AQ", "gA", "!", "AQIBAA", "/////////////wEA"] {
            assert_eq!(SequenceSet::decode(text), Err(MalformedSequenceSet), "{text}");
        }
    }

    proptest! {
        #[test]
        fn an_encoded_set_decodes_to_itself_and_contains_only_its_members(
            dense in proptest::collection::vec(0u64..200, 0..150),
            wide in proptest::collection::vec(any::<u64>(), 0..20),
        ) {
            let set: std::collections::BTreeSet<u64> = dense.iter().chain(&wide).copied().collect();
            let ranges = SequenceSet::of(dense.into_iter().chain(wide));
            prop_assert_eq!(&SequenceSet::decode(&ranges.encode()).unwrap(), &ranges);
            for probe in (0..202).chain(set.iter().flat_map(|s| [s.saturating_sub(1), *s, s.saturating_add(1)])) {
                prop_assert_eq!(ranges.contains(probe), set.contains(&probe));
            }
        }

        #[test]
        fn any_text_is_decoded_or_refused(text in "[A-Za-z0-9+/]{0,40}") {
            if let Ok(ranges) = SequenceSet::decode(&text) {
                prop_assert_eq!(SequenceSet::decode(&ranges.encode()).unwrap(), ranges);
            }
        }
    }
}
