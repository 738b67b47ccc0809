//! Messages to publish, packed into one buffer as they are built.
//!
//! This file owns the record layout. A stored group has the same layout, so the embedded engine copies the records of a
//! request without parsing them:
//!
//! ```text
//! u32 body_len | u16 subject_len | u16 message_id_len | u8 flags | subject | message_id | payload
//! ```
//!
//! All numbers are little endian; `body_len` counts the bytes after the header. Knows nothing of sequences, groups or
//! files.

use std::ops::Range;

use super::buffers::{self, Buffer};
use super::subject::{self, SubjectPrefix};

/// Bytes before the subject of a record.
pub(super) const HEADER_BYTES: usize = 9;
/// The longest subject.
const SUBJECT_BYTES_MAX: usize = 1_024;
/// The longest message id.
pub(super) const MESSAGE_ID_BYTES_MAX: usize = 1_024;
/// The largest payload.
const PAYLOAD_BYTES_MAX: usize = 16 << 20;
/// The largest batch, records and headers together.
pub(super) const BATCH_BYTES_MAX: usize = 48 << 20;

/// The record is for the consumer named by its message id; all others skip it.
pub(super) const FLAG_REPLAY: u8 = 1;
/// A tombstone in place of an erased message: it has no content, and all consumers skip it.
pub(super) const FLAG_ERASED: u8 = 2;

/// Messages to publish together, in a single buffer.
#[derive(Debug)]
pub struct Batch {
    records: Buffer,
    /// The end of each record in `records`; a refused message has an empty record.
    ends: Vec<u32>,
    /// The common prefix of the subjects.
    subject_prefix: SubjectPrefix,
    keyed: usize,
    refused: usize,
    /// Indexes of messages that need not be stored, ascending. Few batches have any.
    transient: Vec<u32>,
}

/// The parts of a batch, for the engine that stores it.
pub(crate) struct Parts {
    pub(super) records: Buffer,
    pub(super) ends: Vec<u32>,
    pub(super) subject_prefix: SubjectPrefix,
    /// How many records carry a message id.
    pub(super) keyed: usize,
    /// Messages over a limit or with a malformed subject; they have no record.
    pub(super) refused: usize,
    /// Indexes of messages that may go to live subscribers when the bus does not store their subjects, ascending.
    pub(super) transient: Vec<u32>,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    pub fn new() -> Self {
        Self::with_capacity(0, 0)
    }

    /// Reserves room for `messages` with `bytes` in total, so that the buffers do not grow.
    pub fn with_capacity(messages: usize, bytes: usize) -> Self {
        Self {
            records: buffers::RECORDS.take(bytes + messages * HEADER_BYTES),
            ends: Vec::with_capacity(messages),
            subject_prefix: SubjectPrefix::EMPTY,
            keyed: 0,
            refused: 0,
            transient: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Adds a message that must be stored: `publish` answers `Ok` only when the bus holds it. `encode` appends the
    /// payload to the given buffer. `publish` answers a message over a limit or with a malformed subject with
    /// `Invalid`; the others are not affected.
    pub fn push(&mut self, subject: &str, message_id: Option<&str>, encode: impl FnOnce(&mut Vec<u8>)) {
        let message_id = message_id.unwrap_or_default();
        let start = self.records.len();
        let allowed = subject.len() <= SUBJECT_BYTES_MAX
            && message_id.len() <= MESSAGE_ID_BYTES_MAX
            && subject::is_valid(subject)
            && write_record(&mut self.records, 0, subject.as_bytes(), message_id.as_bytes(), encode);
        if !allowed {
            self.records.truncate(start);
            self.refused += 1;
        } else {
            self.subject_prefix = self.subject_prefix.and(SubjectPrefix::of(subject.as_bytes()));
            self.keyed += usize::from(!message_id.is_empty());
        }
        self.ends.push(self.records.len() as u32);
    }

    /// Like [`Batch::push`] for a message that need not be stored: a bus that does not store its subject hands it to
    /// live subscribers.
    pub fn push_transient(&mut self, subject: &str, message_id: Option<&str>, encode: impl FnOnce(&mut Vec<u8>)) {
        self.transient.push(self.ends.len() as u32);
        self.push(subject, message_id, encode);
    }

    pub(super) fn into_parts(self) -> Parts {
        let Self { records, ends, subject_prefix, keyed, refused, transient } = self;
        Parts { records, ends, subject_prefix, keyed, refused, transient }
    }
}

/// Appends one record. Returns `false` when the payload or the whole buffer exceeds its limit; the caller must then
/// truncate the buffer.
pub(super) fn write_record(
    out: &mut Vec<u8>,
    flags: u8,
    subject: &[u8],
    message_id: &[u8],
    encode: impl FnOnce(&mut Vec<u8>),
) -> bool {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(subject.len() as u16).to_le_bytes());
    out.extend_from_slice(&(message_id.len() as u16).to_le_bytes());
    out.push(flags);
    out.extend_from_slice(subject);
    out.extend_from_slice(message_id);
    let payload = out.len();
    encode(out);
    let body_len = out.len() - start - HEADER_BYTES;
    out[start..start + 4].copy_from_slice(&(body_len as u32).to_le_bytes());
    out.len() - payload <= PAYLOAD_BYTES_MAX && out.len() <= u32::MAX as usize
}

/// Appends the tombstone of an erased record.
pub(super) fn write_erased(out: &mut Vec<u8>) {
    write_record(out, FLAG_ERASED, b"", b"", |_| ());
}

/// The byte ranges of one record in its buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(super) flags: u8,
    pub(super) subject: Range<usize>,
    pub(super) message_id: Range<usize>,
    pub(super) payload: Range<usize>,
}

impl Layout {
    /// The start of the next record.
    pub(super) fn end(&self) -> usize {
        self.payload.end
    }
}

/// Reads the record that begins at `start`; `None` when the buffer does not contain all of it.
#[inline]
pub(super) fn layout(records: &[u8], start: usize) -> Option<Layout> {
    let header: &[u8; HEADER_BYTES] = records.get(start..)?.first_chunk()?;
    let [l0, l1, l2, l3, s0, s1, m0, m1, flags] = *header;
    let body_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let subject = start + HEADER_BYTES;
    let message_id = subject + usize::from(u16::from_le_bytes([s0, s1]));
    let payload = message_id + usize::from(u16::from_le_bytes([m0, m1]));
    let end = subject + body_len;
    (payload <= end && end <= records.len()).then_some(Layout {
        flags,
        subject: subject..message_id,
        message_id: message_id..payload,
        payload: payload..end,
    })
}

/// The starts of the `count` records that fill `records` exactly, and the common prefix of their subjects; `None` when
/// they do not.
pub(super) fn starts(records: &[u8], count: usize) -> Option<(Vec<u32>, SubjectPrefix)> {
    if count > records.len() / HEADER_BYTES {
        return None;
    }
    let mut starts = Vec::with_capacity(count);
    let mut subject_prefix = SubjectPrefix::EMPTY;
    let mut at = 0;
    for _ in 0..count {
        starts.push(u32::try_from(at).ok()?);
        let record = layout(records, at)?;
        subject_prefix = subject_prefix.and(match record.flags & (FLAG_REPLAY | FLAG_ERASED) {
            0 => SubjectPrefix::of(&records[record.subject.clone()]),
            _ => SubjectPrefix::UNKNOWN,
        });
        at = record.end();
    }
    (at == records.len()).then_some((starts, subject_prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Records written by the first version of this layout; they must stay readable.
    const FIXTURE_V1: &[u8] = b"\x11\0\0\0\x08\0\x03\0\0events.aid1\x01\x02\x03\x04\x05\xff\
        \x08\0\0\0\x03\0\x05\0\x01a.breact";

    #[test]
    fn the_layout_of_the_first_version_is_still_read_and_written() {
        let mut written = Vec::new();
        assert!(write_record(&mut written, 0, b"events.a", b"id1", |out| out.extend([1, 2, 3, 4, 5, 255])));
        assert!(write_record(&mut written, FLAG_REPLAY, b"a.b", b"react", |_| {}));
        assert_eq!(written, FIXTURE_V1);
        assert_eq!(starts(FIXTURE_V1, 2), Some((vec![0, 26], SubjectPrefix::UNKNOWN)));
        let second = layout(FIXTURE_V1, 26).unwrap();
        assert_eq!(second, Layout { flags: 1, subject: 35..38, message_id: 38..43, payload: 43..43 });
    }

    #[test]
    fn malformed_and_oversized_messages_are_refused_individually() {
        let mut batch = Batch::new();
        batch.push("events.a", None, |out| out.push(1));
        for subject in ["", ".", "a.", ".a", "a..b", "a b", "a.*", "a.>", "a\n"] {
            batch.push(subject, None, |out| out.push(1));
        }
        batch.push(&"s".repeat(SUBJECT_BYTES_MAX + 1), None, |_| {});
        batch.push("events.a", Some(&"i".repeat(MESSAGE_ID_BYTES_MAX + 1)), |_| {});
        batch.push("events.a", None, |out| out.resize(out.len() + PAYLOAD_BYTES_MAX + 1, 0));
        batch.push("events.a", Some("id"), |out| out.push(2));
        let parts = batch.into_parts();
        assert_eq!((parts.ends.len(), parts.refused, parts.keyed), (14, 12, 1));
        assert_eq!(starts(&parts.records, 2), Some((vec![0, 18], parts.subject_prefix)));
    }

    #[test]
    fn damaged_lengths_are_detected() {
        for cut in 0..FIXTURE_V1.len() {
            assert_eq!(starts(&FIXTURE_V1[..cut], 2), None, "cut at {cut}");
        }
        assert_eq!(starts(FIXTURE_V1, 1), None);
        assert_eq!(starts(FIXTURE_V1, usize::MAX), None);
        let mut damaged = FIXTURE_V1.to_vec();
        damaged[4] = 200;
        assert_eq!(starts(&damaged, 2), None);
    }

    proptest! {
        #[test]
        fn pushed_messages_are_read_back(messages in prop::collection::vec(
            ("[a-z]{1,9}(\\.[a-zA-Z0-9_%-]{1,9}){0,3}", prop::option::of("[ -~]{1,40}"), prop::collection::vec(any::<u8>(), 0..200)),
            0..40,
        )) {
            let mut batch = Batch::new();
            for (subject, id, payload) in &messages {
                batch.push(subject, id.as_deref(), |out| out.extend_from_slice(payload));
            }
            let parts = batch.into_parts();
            prop_assert_eq!(parts.refused, 0);
            prop_assert_eq!(parts.keyed, messages.iter().filter(|m| m.1.is_some()).count());
            let (starts, subject_prefix) = starts(&parts.records, messages.len()).unwrap();
            prop_assert_eq!(subject_prefix, parts.subject_prefix);
            for (start, (subject, id, payload)) in starts.iter().zip(&messages) {
                let record = layout(&parts.records, *start as usize).unwrap();
                prop_assert_eq!(&parts.records[record.subject], subject.as_bytes());
                prop_assert_eq!(&parts.records[record.message_id], id.as_deref().unwrap_or_default().as_bytes());
                prop_assert_eq!(&parts.records[record.payload], &payload[..]);
            }
        }
    }
}
