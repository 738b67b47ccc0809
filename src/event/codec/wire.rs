//! The protobuf wire format, read in place and written.
//!
//! Invariant: any input is either read or rejected. Nothing here panics, and reading does not allocate. Knows keys,
//! varints and lengths, not the meaning of a field.

use std::fmt;

/// Why bytes are not an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError(&'static str);

impl DecodeError {
    pub(crate) const fn new(reason: &'static str) -> Self {
        Self(reason)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "decode event: {}", self.0)
    }
}

impl std::error::Error for DecodeError {}

/// The value of one field, as on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Value<'a> {
    #[inline]
    pub(crate) fn bytes(self) -> Result<&'a [u8], DecodeError> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(WRONG_TYPE),
        }
    }

    pub(crate) fn text(self) -> Result<&'a str, DecodeError> {
        text(self.bytes()?)
    }

    pub(crate) fn varint(self) -> Result<u64, DecodeError> {
        match self {
            Self::Varint(number) => Ok(number),
            _ => Err(WRONG_TYPE),
        }
    }
}

/// Most text is ASCII, which is faster to recognize.
#[inline]
pub(crate) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

pub(crate) fn text(bytes: &[u8]) -> Result<&str, DecodeError> {
    std::str::from_utf8(bytes).map_err(|_| NOT_UTF8)
}

pub(crate) const WRONG_TYPE: DecodeError = DecodeError("a field has the wrong wire type");
pub(crate) const NOT_UTF8: DecodeError = DecodeError("a string is not UTF-8");
pub(crate) const TOO_DEEP: DecodeError = DecodeError("nested too deep");
const TRUNCATED: DecodeError = DecodeError("the message ends inside a field");
const BAD_VARINT: DecodeError = DecodeError("a varint is longer than ten bytes");
const BAD_KEY: DecodeError = DecodeError("a field key is not valid");
/// Nesting depth of groups, as in common decoders.
const GROUP_DEPTH_MAX: usize = 100;

/// Iterates over the fields of one message in wire order. Groups, which proto3 does not have, are skipped as unknown
/// fields.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    skipped_group: bool,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, skipped_group: false }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Whether a group was skipped so far.
    pub(crate) fn skipped_group(&self) -> bool {
        self.skipped_group
    }

    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        // Fast path: most fields are short strings with a low number, so key and length take one byte each.
        if let [key, length, rest @ ..] = self.rest
            && *key & 0x87 == LENGTH_DELIMITED as u8
            && *key > 0x07
            && *length < 0x80
            && let Some((text, rest)) = rest.split_at_checked(usize::from(*length))
        {
            self.rest = rest;
            return Ok(Some((u32::from(*key >> 3), Value::Bytes(text))));
        }
        if self.rest.is_empty() { Ok(None) } else { self.next_of_any_form() }
    }

    /// Out of line, so that the fast path inlines.
    #[inline(never)]
    fn next_of_any_form(&mut self) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        let (number, wire_type) = self.key()?;
        match wire_type {
            START_GROUP => self.next_after_group(number),
            _ => Ok(Some((number, self.value(wire_type)?))),
        }
    }

    /// Skips a group whose start key was read, and any groups that follow it, and reads the next field.
    #[cold]
    fn next_after_group(&mut self, mut group: u32) -> Result<Option<(u32, Value<'a>)>, DecodeError> {
        self.skipped_group = true;
        loop {
            self.skip_group(group)?;
            if self.rest.is_empty() {
                return Ok(None);
            }
            let (number, wire_type) = self.key()?;
            if wire_type != START_GROUP {
                return Ok(Some((number, self.value(wire_type)?)));
            }
            group = number;
        }
    }

    #[inline(always)]
    fn key(&mut self) -> Result<(u32, u64), DecodeError> {
        // A field number has 29 bits and the wire type 3, so a key fits in 32.
        let key = u32::try_from(self.varint()?).map_err(|_| BAD_KEY)?;
        if key >> 3 == 0 { Err(BAD_KEY) } else { Ok((key >> 3, u64::from(key & 7))) }
    }

    #[inline(always)]
    fn value(&mut self, wire_type: u64) -> Result<Value<'a>, DecodeError> {
        Ok(match wire_type {
            VARINT => Value::Varint(self.varint()?),
            FIXED64 => Value::Fixed64(u64::from_le_bytes(self.fixed()?)),
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| TRUNCATED)?;
                Value::Bytes(self.take(length)?)
            }
            FIXED32 => Value::Fixed32(u32::from_le_bytes(self.fixed()?)),
            _ => return Err(BAD_KEY),
        })
    }

    /// Skips a group whose start key was read, with everything nested in it.
    fn skip_group(&mut self, number: u32) -> Result<(), DecodeError> {
        let mut open = [0; GROUP_DEPTH_MAX];
        open[0] = number;
        let mut depth = 1;
        while depth > 0 {
            let (number, wire_type) = self.key()?;
            match wire_type {
                START_GROUP => {
                    *open.get_mut(depth).ok_or(TOO_DEEP)? = number;
                    depth += 1;
                }
                END_GROUP if open[depth - 1] == number => depth -= 1,
                END_GROUP => return Err(BAD_KEY),
                _ => self.value(wire_type).map(|_| ())?,
            }
        }
        Ok(())
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, DecodeError> {
        match self.rest {
            [byte, rest @ ..] if *byte < 0x80 => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0;
        for (position, byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte holds a single bit.
            if position == 9 && *byte > 1 {
                return Err(BAD_VARINT);
            }
            number |= u64::from(byte & 0x7f) << (7 * position);
            if *byte < 0x80 {
                self.rest = &self.rest[position + 1..];
                return Ok(number);
            }
        }
        Err(if self.rest.len() < 10 { TRUNCATED } else { BAD_VARINT })
    }

    #[inline]
    fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(*taken)
    }
}

/// Key and value of a map entry that has exactly these, in the order in which nearly every encoder writes them.
pub(crate) fn usual_entry(bytes: &[u8]) -> Option<(&[u8], Value<'_>)> {
    let mut reader = Reader::new(bytes);
    let Ok(Some((1, Value::Bytes(key)))) = reader.next() else { return None };
    let Ok(Some((2, value))) = reader.next() else { return None };
    (reader.is_empty() && !reader.skipped_group).then_some((key, value))
}

/// The last field of a message, which decides in a `google.protobuf.Value`.
pub(crate) fn last_field(message: Option<Value<'_>>) -> Option<(u32, Value<'_>)> {
    let Some(Value::Bytes(bytes)) = message else { return None };
    let (mut reader, mut last) = (Reader::new(bytes), None);
    while let Ok(Some(field)) = reader.next() {
        last = Some(field);
    }
    last
}

/// Key and value of a map entry. Encoders leave out either when it is the default.
pub(crate) fn map_entry(bytes: &[u8]) -> (&[u8], Option<Value<'_>>) {
    if let Some((key, value)) = usual_entry(bytes) {
        return (key, Some(value));
    }
    let mut entry = (&[][..], None);
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        match (number, value) {
            (1, Value::Bytes(key)) => entry.0 = key,
            (2, value) => entry.1 = Some(value),
            _ => {}
        }
    }
    entry
}

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
pub(crate) const LENGTH_DELIMITED: u64 = 2;
const START_GROUP: u64 = 3;
const END_GROUP: u64 = 4;
const FIXED32: u64 = 5;

pub(crate) fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, VARINT);
    put_varint(out, value);
}

#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    // Most keys and lengths take one byte each.
    if number < 16 && bytes.len() < 0x80 {
        out.extend_from_slice(&[(number << 3) as u8 | LENGTH_DELIMITED as u8, bytes.len() as u8]);
    } else {
        put_key(out, number, LENGTH_DELIMITED);
        put_varint(out, bytes.len() as u64);
    }
    out.extend_from_slice(bytes);
}

/// Begins a field whose length is not known yet, with one byte for it. Returns where the content starts. Close it with
/// [`end`].
pub(crate) fn begin(out: &mut Vec<u8>, number: u32) -> usize {
    put_key(out, number, LENGTH_DELIMITED);
    out.push(0);
    out.len()
}

/// Writes the length. Returns by how many bytes the content moved to make room for it.
pub(crate) fn end(out: &mut Vec<u8>, start: usize) -> usize {
    let length = out.len() - start;
    if let Ok(byte @ ..0x80) = u8::try_from(length) {
        out[start - 1] = byte;
        return 0;
    }
    // A varint holds seven bits per byte, and one byte was reserved.
    let more = length.ilog2() as usize / 7;
    out.resize(start + length + more, 0);
    out.copy_within(start..start + length, start + more);
    let mut rest = length;
    for byte in &mut out[start - 1..start + more] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[start + more - 1] &= 0x7f;
    more
}

pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_key(out, number, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, FIXED64);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    put_key(out, number, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_float(out: &mut Vec<u8>, number: u32, value: f32) {
    put_key(out, number, FIXED32);
    out.extend_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_key(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    put_varint(out, u64::from(number) << 3 | wire_type);
}

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
