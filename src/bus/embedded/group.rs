//! A group: the messages of one commit, as stored and as delivered.
//!
//! Invariant: the sequences of a group are contiguous, and its bytes never change once committed, so deliveries are
//! slices of it. Knows nothing of consumers.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::dedup::key::DedupKey;
use crate::bus::batch::{self, FLAG_ERASED, Layout};
use crate::bus::buffers::{self, Buffer};
use crate::bus::subject::SubjectPrefix;

/// Memory of a group in addition to its bytes.
const GROUP_OVERHEAD_BYTES: usize = 160;

/// A committed group.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) first_sequence: u64,
    pub(super) published_at_ms: i64,
    data: Bytes,
    starts: Vec<u32>,
    /// The common prefix of the subjects.
    pub(super) subject_prefix: SubjectPrefix,
}

impl Group {
    /// `None` when `data` does not contain exactly `count` records.
    pub(super) fn from_stored(first_sequence: u64, count: usize, published_at_ms: i64, data: Vec<u8>) -> Option<Self> {
        let (starts, subject_prefix) = batch::starts(&data, count)?;
        Some(Self { first_sequence, published_at_ms, data: Bytes::from(data), starts, subject_prefix })
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.first_sequence + self.starts.len() as u64 - 1
    }

    /// The memory it uses, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.data.len() + self.starts.len() * size_of::<u32>() + GROUP_OVERHEAD_BYTES
    }

    /// The layout of a message in [`Group::data`].
    #[inline]
    pub(super) fn layout(&self, sequence: u64) -> Option<Layout> {
        batch::layout(&self.data, self.record(sequence)?.start)
    }

    /// The record of a message.
    #[inline]
    pub(super) fn record(&self, sequence: u64) -> Option<Range<usize>> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        let start = *self.starts.get(index)? as usize;
        Some(start..self.starts.get(index + 1).map_or(self.data.len(), |next| *next as usize))
    }

    pub(super) fn data(&self) -> &Bytes {
        &self.data
    }

    /// Whether the message has been erased.
    pub(super) fn is_erased(&self, sequence: u64) -> bool {
        self.layout(sequence).is_some_and(|layout| layout.flags & FLAG_ERASED != 0)
    }

    /// The bytes of the group with tombstones in place of the erased messages.
    pub(super) fn without(&self, erased: &[u64]) -> Vec<u8> {
        let mut data = Vec::with_capacity(self.data.len());
        for sequence in self.first_sequence..=self.last_sequence() {
            match self.record(sequence) {
                Some(_) if erased.binary_search(&sequence).is_ok() => batch::write_erased(&mut data),
                Some(record) => data.extend_from_slice(&self.data[record]),
                None => {}
            }
        }
        data
    }
}

/// A group under construction, before it is committed.
pub(crate) struct Draft {
    pub(super) first_sequence: u64,
    pub(super) published_at_ms: i64,
    pub(super) data: Buffer,
    /// The concatenated deduplication keys of its messages.
    pub(super) keys: Vec<u8>,
    starts: Vec<u32>,
    subject_prefix: SubjectPrefix,
}

impl Draft {
    pub(super) fn new(first_sequence: u64, published_at_ms: i64) -> Self {
        Self {
            first_sequence,
            published_at_ms,
            data: buffers::GROUPS.take(0),
            keys: Vec::new(),
            starts: Vec::new(),
            subject_prefix: SubjectPrefix::EMPTY,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.first_sequence + self.starts.len() as u64
    }

    /// Reserves room for records in one step.
    pub(super) fn reserve(&mut self, records: usize, bytes: usize) {
        self.starts.reserve(records);
        if self.data.is_empty() {
            self.data = buffers::GROUPS.take(bytes);
        } else {
            self.data.reserve(bytes);
        }
    }

    /// Adds the records of `records` that begin at `from` and end at `ends`; `subject_prefix` is common to their
    /// subjects.
    pub(super) fn extend(&mut self, records: &[u8], from: u32, ends: &[u32], subject_prefix: SubjectPrefix) {
        let Some(last) = ends.last() else { return };
        self.subject_prefix = self.subject_prefix.and(subject_prefix);
        let base = self.data.len() as u32;
        self.data.extend_from_slice(&records[from as usize..*last as usize]);
        self.starts.push(base);
        self.starts.extend(ends[..ends.len() - 1].iter().map(|end| base + (end - from)));
    }

    pub(super) fn push_key(&mut self, key: &DedupKey) {
        self.keys.extend_from_slice(&key.0);
    }

    pub(super) fn into_group(self) -> Arc<Group> {
        Arc::new(Group {
            first_sequence: self.first_sequence,
            published_at_ms: self.published_at_ms,
            data: Bytes::from_owner(self.data),
            starts: self.starts,
            subject_prefix: self.subject_prefix,
        })
    }
}

/// CRC-32 over all fields of a stored group.
pub(super) fn checksum(first_sequence: u64, count: u64, published_at_ms: i64, keys: &[u8], data: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&first_sequence.to_le_bytes());
    hasher.update(&count.to_le_bytes());
    hasher.update(&published_at_ms.to_le_bytes());
    hasher.update(&(keys.len() as u64).to_le_bytes());
    hasher.update(keys);
    hasher.update(data);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::Batch;

    #[test]
    fn a_draft_reads_back_as_stored() {
        let mut pushed = Batch::new();
        for n in 0..5u8 {
            pushed.push("a.b", None, |out| out.extend(std::iter::repeat_n(n, usize::from(n))));
        }
        let parts = pushed.into_parts();
        let mut draft = Draft::new(10, 7);
        draft.extend(&parts.records, 0, &parts.ends[..2], parts.subject_prefix);
        draft.extend(&parts.records, parts.ends[2], &parts.ends[3..], parts.subject_prefix);
        assert_eq!((draft.len(), draft.next_sequence()), (4, 14));
        let data = draft.data.to_vec();
        let group = draft.into_group();
        let stored = Group::from_stored(10, 4, 7, data).unwrap();
        assert_eq!((&group.starts, group.subject_prefix), (&stored.starts, stored.subject_prefix));
        let payload = |sequence| group.layout(sequence).map(|layout| group.data()[layout.payload].to_vec());
        assert_eq!(payload(12), Some(vec![3; 3]));
        assert_eq!(payload(13), Some(vec![4; 4]));
        assert_eq!(payload(14), None);
        assert_eq!(payload(9), None);
    }

    #[test]
    fn the_checksum_covers_every_part() {
        let sum = checksum(1, 2, 3, b"k", b"d");
        let others = [
            checksum(2, 2, 3, b"k", b"d"),
            checksum(1, 3, 3, b"k", b"d"),
            checksum(1, 2, 4, b"k", b"d"),
            checksum(1, 2, 3, b"j", b"d"),
            checksum(1, 2, 3, b"k", b"e"),
            checksum(1, 2, 3, b"", b"kd"),
        ];
        assert!(others.iter().all(|other| *other != sum));
    }
}
