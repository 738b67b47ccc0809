//! Converts attributes and bodies (`KeyValue` and `AnyValue`) to members and values of `properties`.
//!
//! Invariant: values beyond a limit of `properties` are not written. Types are preserved, except that integers which a
//! double cannot represent and non-finite numbers become text, and bytes become base64.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::event::codec::decimal::EXACT_ABOVE;
use crate::event::codec::struct_members;
use crate::event::codec::wire::{Reader, Value, put_bytes, put_double, put_number};
use crate::event::intake::validate::{MALFORMED, PROPERTIES_TOO_DEEP, TOO_MANY_VALUES};
use crate::event::schema::limits::{PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};

pub(super) const NOT_UTF8: &str = "must be UTF-8";

/// Writes values, up to the limit of an event.
#[derive(Debug)]
pub(super) struct Values {
    left: usize,
    /// The first fault.
    pub(super) fault: Option<&'static str>,
}

impl Default for Values {
    fn default() -> Self {
        Self { left: PROPERTIES_VALUES_MAX, fault: None }
    }
}

impl Values {
    /// Appends the key-value pairs in the repeated field `number` of a message.
    pub(super) fn members(&mut self, out: &mut Vec<u8>, message: &[u8], number: u32) {
        self.pairs(out, message, number, PROPERTIES_DEPTH_MAX);
    }

    /// Appends one member with any value.
    pub(super) fn member(&mut self, out: &mut Vec<u8>, key: &str, any_value: &[u8]) {
        let mut value = Vec::new();
        self.any(&mut value, any_value, PROPERTIES_DEPTH_MAX);
        struct_members::put_value(out, key, &value);
    }

    fn pairs(&mut self, out: &mut Vec<u8>, message: &[u8], number: u32, depth: usize) {
        let mut pairs = Vec::new();
        for_each(message, number, |pair| {
            match (self.take(), pair_of(pair)) {
                (false, _) => {}
                (true, Ok(pair)) => pairs.push(pair),
                (true, Err(fault)) => self.note(fault),
            }
            self.fault.is_none()
        });
        if pairs.len() > 1 {
            // Keys should be unique. Of duplicates, the last one counts.
            let mut seen = HashSet::with_capacity(pairs.len());
            pairs.reverse();
            pairs.retain(|(key, _)| seen.insert(*key));
            pairs.reverse();
        }
        let mut value = Vec::new();
        for (key, any_value) in pairs {
            value.clear();
            self.any(&mut value, any_value, depth);
            struct_members::put_value(out, key, &value);
        }
    }

    /// Appends the content of a `google.protobuf.Value`.
    fn any(&mut self, out: &mut Vec<u8>, any_value: &[u8], depth: usize) {
        match last_value(any_value) {
            Ok(Some((1, Value::Bytes(text)))) if std::str::from_utf8(text).is_ok() => put_bytes(out, 3, text),
            Ok(Some((1, Value::Bytes(_)))) => self.note(NOT_UTF8),
            Ok(Some((2, Value::Varint(value)))) => put_number(out, 4, u64::from(value != 0)),
            Ok(Some((3, Value::Varint(value)))) => put_integer(out, value.cast_signed()),
            Ok(Some((4, Value::Fixed64(bits)))) => put_float(out, f64::from_bits(bits)),
            Ok(Some((5, Value::Bytes(elements)))) => {
                let Some(depth) = depth.checked_sub(1) else { return self.note(PROPERTIES_TOO_DEEP) };
                let (mut list, mut element) = (Vec::new(), Vec::new());
                for_each(elements, 1, |any_value| {
                    if self.take() {
                        element.clear();
                        self.any(&mut element, any_value, depth);
                        put_bytes(&mut list, 1, &element);
                    }
                    self.fault.is_none()
                });
                put_bytes(out, 6, &list);
            }
            Ok(Some((6, Value::Bytes(pairs)))) => {
                let Some(depth) = depth.checked_sub(1) else { return self.note(PROPERTIES_TOO_DEEP) };
                let mut members = Vec::new();
                self.pairs(&mut members, pairs, 1, depth);
                put_bytes(out, 5, &members);
            }
            Ok(Some((7, Value::Bytes(bytes)))) => put_bytes(out, 3, BASE64.encode(bytes).as_bytes()),
            // An unset value, or one of an unknown type.
            Ok(None) => put_number(out, 1, 0),
            Ok(Some(_)) | Err(()) => self.note(MALFORMED),
        }
    }

    fn take(&mut self) -> bool {
        if self.left == 0 {
            self.note(TOO_MANY_VALUES);
            return false;
        }
        self.left -= 1;
        true
    }

    pub(super) fn note(&mut self, fault: &'static str) {
        self.fault.get_or_insert(fault);
    }
}

/// Calls `each` with the messages in the fields with this number, until it returns `false`.
pub(super) fn for_each<'a>(message: &'a [u8], wanted: u32, mut each: impl FnMut(&'a [u8]) -> bool) {
    let mut reader = Reader::new(message);
    while let Ok(Some((number, value))) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (number == wanted, value)
            && !each(bytes)
        {
            return;
        }
    }
}

/// The fields with these numbers. The last occurrence of each counts.
pub(super) fn fields<'a, const N: usize>(message: &'a [u8], wanted: [u32; N]) -> [Option<Value<'a>>; N] {
    let mut fields = [None; N];
    let mut reader = Reader::new(message);
    while let Ok(Some((number, value))) = reader.next() {
        if let Some(position) = wanted.iter().position(|wanted| *wanted == number) {
            fields[position] = Some(value);
        }
    }
    fields
}

/// The key and the `AnyValue` of a pair.
pub(super) fn pair_of(pair: &[u8]) -> Result<(&str, &[u8]), &'static str> {
    let (mut key, mut value) = (&[][..], &[][..]);
    let mut reader = Reader::new(pair);
    while let Some((number, field)) = reader.next().map_err(|_| MALFORMED)? {
        match (number, field) {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    std::str::from_utf8(key).map(|key| (key, value)).map_err(|_| NOT_UTF8)
}

/// The text of an `AnyValue`, if it is text and not empty.
pub(super) fn text_of(any_value: &[u8]) -> Option<&str> {
    match last_value(any_value) {
        Ok(Some((1, Value::Bytes(text)))) => std::str::from_utf8(text).ok().filter(|text| !text.is_empty()),
        _ => None,
    }
}

/// The last member of a `oneof` counts.
fn last_value(any_value: &[u8]) -> Result<Option<(u32, Value<'_>)>, ()> {
    let mut last = None;
    let mut reader = Reader::new(any_value);
    while let Some((number, value)) = reader.next().map_err(|_| ())? {
        if (1..=7).contains(&number) {
            last = Some((number, value));
        }
    }
    Ok(last)
}

fn put_integer(out: &mut Vec<u8>, value: i64) {
    if value.unsigned_abs() < EXACT_ABOVE {
        put_double(out, 2, value as f64);
    } else {
        put_bytes(out, 3, value.to_string().as_bytes());
    }
}

fn put_float(out: &mut Vec<u8>, value: f64) {
    match value {
        value if value.is_finite() => put_double(out, 2, value),
        value if value.is_nan() => put_bytes(out, 3, b"NaN"),
        value => put_bytes(out, 3, if value > 0.0 { b"Infinity" } else { b"-Infinity" }),
    }
}
