//! Validates a payload or a device context by walking its encoded bytes along the field tables.
//!
//! Invariant: bytes without errors decode with [`EventRef::decode`](crate::event::EventRef::decode) and with any
//! protobuf library, provided that their text is UTF-8, which both kinds of request check first. Does not know JSON,
//! but its error pointers use camelCase names.

use super::field_error::{Errors, Path};
use crate::event::codec::wire::{Reader, Value, is_utf8, map_entry, usual_entry};
use crate::event::schema::limits::{KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, TEXT_BYTES_MAX};
use crate::event::schema::pattern::Pattern;
use crate::event::schema::tables::{FIELDS_MAX, Field, Message, Rules, Shape};

pub(crate) const PROPERTIES_TOO_DEEP: &str = "must not nest deeper than 30 levels";
pub(crate) const TOO_MANY_VALUES: &str = "must have at most 1000 values, at all levels together";
pub(crate) const MALFORMED: &str = "not well-formed";
pub(crate) const REQUIRED: &str = "is required";

/// Constraints on every value in `properties`, which has no options.
pub(crate) static PROPERTY: Rules = Rules {
    required: false,
    bytes_max: Some(TEXT_BYTES_MAX),
    pattern: None,
    min: None,
    max: None,
    finite: true,
    elements_min: None,
    elements_max: None,
    key_bytes_max: Some(KEY_BYTES_MAX),
};

/// Which parts of an event still need checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unchecked {
    All,
    /// The writer of `properties` has enforced its rules.
    AllButProperties,
    /// The writer of the event has enforced the rules of all fields. Left are the app and that there is a payload.
    AppAndPayload,
}

/// Adds the errors of the message. Returns whether it is canonical: every field is known, occurs once and is not the
/// default, keys of maps are distinct, and text is UTF-8. If it also has no errors, every decoder reads the same from
/// these bytes as from those that prost would write, so they can be stored as they are.
pub(crate) fn check_message(
    message: &Message,
    bytes: &[u8],
    unchecked: Unchecked,
    at: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let mut check = Check { unchecked, errors, canonical: true, keys: Vec::new(), values: 0 };
    check.message(message, bytes, at);
    check.canonical
}

struct Check<'a, 'e> {
    unchecked: Unchecked,
    errors: &'e mut Errors,
    canonical: bool,
    /// Keys of the maps being read, with the positions of their fields.
    keys: Vec<(usize, &'a [u8])>,
    /// Values in the `properties` being read, up to one more than allowed.
    values: usize,
}

impl<'a> Check<'a, '_> {
    fn message(&mut self, message: &Message, bytes: &'a [u8], at: &Path<'_>) {
        let (mut seen, mut filled) = (0_u64, 0_u64);
        let mut counts = [0; FIELDS_MAX];
        let keys_before = self.keys.len();
        let mut reader = Reader::new(bytes);
        loop {
            let (number, value) = match reader.next() {
                Ok(Some(member)) => member,
                Ok(None) => break,
                Err(_) => return self.errors.add(*at, MALFORMED),
            };
            let Some((position, field)) = message.field(number) else {
                self.canonical = false;
                continue;
            };
            let bit = 1 << (position % FIELDS_MAX);
            let here = Path::Field(at, field.json_name);
            if let Shape::List(element) | Shape::Map(element) = field.shape {
                let count = &mut counts[position % FIELDS_MAX];
                *count += 1;
                // The count of elements as sent was checked before; this counts what is stored.
                if let Some(elements_max) = field.rules.elements_max
                    && *count > elements_max
                {
                    return self.errors.add(here, too_many(elements_max));
                }
                match field.shape {
                    Shape::List(_) => self.value(element, value, &Path::Index(&here, *count - 1)),
                    _ => self.map_entry(position, field.rules, element, value, &here),
                }
            } else {
                self.canonical &= seen & bit == 0 && !is_default(&field.shape, value);
                self.value(field, value, &here);
            }
            seen |= bit;
            filled = if matches!(value, Value::Bytes([])) { filled & !bit } else { filled | bit };
        }
        self.end(&reader, keys_before);
        let missing = message.required & !filled;
        if missing != 0 {
            let fields = message.fields.iter().enumerate().filter(|(position, _)| missing & 1 << position != 0);
            fields.for_each(|(_, field)| self.errors.add(Path::Field(at, field.json_name), REQUIRED));
        }
    }

    fn value(&mut self, field: &Field, value: Value<'a>, at: &Path<'_>) {
        match (&field.shape, value) {
            (Shape::String, Value::Bytes(bytes)) => self.text(field.rules, bytes, at),
            (Shape::Int32, Value::Varint(number)) => {
                self.int32(number);
                check_integer(field.rules, i64::from(number as i32), at, self.errors);
            }
            (Shape::Int64, Value::Varint(number)) => check_integer(field.rules, number as i64, at, self.errors),
            (Shape::Bool, Value::Varint(number)) => self.canonical &= number <= 1,
            // A number without a name comes from a newer sender: proto3 enums are open.
            (Shape::Enum(_), Value::Varint(number)) => self.int32(number),
            (Shape::Float, Value::Fixed32(bits)) => self.float(field.rules, f64::from(f32::from_bits(bits)), at),
            (Shape::Double, Value::Fixed64(bits)) => self.float(field.rules, f64::from_bits(bits), at),
            (Shape::Message(message) | Shape::Payload(message), Value::Bytes(bytes)) => {
                self.message(message, bytes, at)
            }
            (Shape::Struct, Value::Bytes(_)) if self.unchecked == Unchecked::AllButProperties => {}
            (Shape::Struct, Value::Bytes(bytes)) => {
                self.values = 0;
                self.properties(bytes, at, PROPERTIES_DEPTH_MAX);
                if self.values > PROPERTIES_VALUES_MAX {
                    self.errors.add(*at, TOO_MANY_VALUES);
                }
            }
            _ => self.errors.add(*at, MALFORMED),
        }
    }

    #[inline(always)]
    fn text(&mut self, rules: &Rules, text: &[u8], at: &Path<'_>) {
        self.canonical &= is_utf8(text);
        check_text(rules, text, at, self.errors);
    }

    /// A decoder drops the upper bits.
    fn int32(&mut self, number: u64) {
        self.canonical &= i64::from(number as i32).cast_unsigned() == number;
    }

    fn float(&mut self, rules: &Rules, number: f64, at: &Path<'_>) {
        if !rules.allow_float(number) {
            self.errors.add(*at, "must be a finite number");
        }
    }

    /// Checks an entry of the map at `position`, which has these rules.
    fn map_entry(&mut self, position: usize, rules: &Rules, entry: &Field, value: Value<'a>, at: &Path<'_>) {
        let Value::Bytes(bytes) = value else {
            return self.errors.add(*at, MALFORMED);
        };
        let Some((key, value)) = self.entry(position, rules, bytes, at) else { return };
        if let Some(value) = value {
            self.value(entry, value, &Path::Field(at, key));
        }
    }

    /// The checked key of an entry, and its value.
    fn entry(
        &mut self,
        position: usize,
        rules: &Rules,
        bytes: &'a [u8],
        at: &Path<'_>,
    ) -> Option<(&'a str, Option<Value<'a>>)> {
        let usual = usual_entry(bytes);
        self.canonical &= usual.is_some();
        let (key, value) = usual.map_or_else(|| map_entry(bytes), |(key, value)| (key, Some(value)));
        self.keys.push((position, key));
        let Ok(key) = std::str::from_utf8(key) else {
            self.errors.add(*at, "keys must be UTF-8");
            return None;
        };
        if let (false, Some(bytes_max)) = (rules.allow_key(key.len()), rules.key_bytes_max) {
            self.errors.add(Path::Field(at, key), format!("the key must have at most {bytes_max} bytes"));
        }
        Some((key, value))
    }

    /// Ends a message whose first key is at `keys_before`.
    fn end(&mut self, reader: &Reader<'_>, keys_before: usize) {
        let keys = &mut self.keys[keys_before..];
        let are_distinct = |keys: &[(usize, &[u8])]| keys.is_sorted_by(|one, next| one < next);
        if !are_distinct(keys) {
            keys.sort_unstable();
            self.canonical &= are_distinct(keys);
        }
        self.keys.truncate(keys_before);
        self.canonical &= reader.is_empty() && !reader.skipped_group();
    }

    /// Checks a `google.protobuf.Struct` and counts its values.
    fn properties(&mut self, bytes: &'a [u8], at: &Path<'_>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.errors.add(*at, PROPERTIES_TOO_DEEP);
        };
        let keys_before = self.keys.len();
        let mut reader = Reader::new(bytes);
        while let Ok(Some(member)) = reader.next() {
            let (1, Value::Bytes(bytes)) = member else {
                self.canonical = false;
                continue;
            };
            let Some((key, value)) = self.entry(0, &PROPERTY, bytes, at) else { return };
            if !self.any(value, &Path::Field(at, key), depth) {
                return;
            }
        }
        self.end(&reader, keys_before);
    }

    /// Checks a `google.protobuf.Value`. Returns whether more values are allowed.
    fn any(&mut self, value: Option<Value<'a>>, at: &Path<'_>, depth: usize) -> bool {
        self.values += 1;
        if self.values > PROPERTIES_VALUES_MAX {
            return false;
        }
        let Some(Value::Bytes(bytes)) = value else {
            self.canonical = false;
            return true;
        };
        let mut reader = Reader::new(bytes);
        let mut members = 0;
        while let Ok(Some(member)) = reader.next() {
            members += 1;
            match member {
                (1, Value::Varint(0)) | (4, Value::Varint(0 | 1)) => {}
                (2, Value::Fixed64(bits)) => self.float(&PROPERTY, f64::from_bits(bits), at),
                (3, Value::Bytes(text)) => self.text(&PROPERTY, text, at),
                (5, Value::Bytes(bytes)) => self.properties(bytes, at, depth),
                (6, Value::Bytes(bytes)) => self.list(bytes, at, depth),
                _ => self.canonical = false,
            }
        }
        self.canonical &= members == 1;
        self.end(&reader, self.keys.len());
        true
    }

    fn list(&mut self, bytes: &'a [u8], at: &Path<'_>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.errors.add(*at, PROPERTIES_TOO_DEEP);
        };
        let mut index = 0;
        let mut reader = Reader::new(bytes);
        while let Ok(Some((number, element))) = reader.next() {
            self.canonical &= number == 1;
            if !self.any(Some(element), &Path::Index(at, index), depth) {
                return;
            }
            index += 1;
        }
        self.end(&reader, self.keys.len());
    }
}

/// Whether an encoder leaves out a field with this value.
fn is_default(shape: &Shape, value: Value<'_>) -> bool {
    match value {
        Value::Varint(number) => number == 0,
        Value::Bytes(bytes) => bytes.is_empty() && matches!(shape, Shape::String),
        Value::Fixed32(bits) => f32::from_bits(bits) == 0.0,
        Value::Fixed64(bits) => f64::from_bits(bits) == 0.0,
    }
}

/// The error detail for a list or map with more elements.
pub(crate) fn too_many(elements_max: usize) -> String {
    format!("must have at most {elements_max} elements")
}

#[inline(always)]
pub(crate) fn check_text(rules: &Rules, text: &[u8], at: &Path<'_>, errors: &mut Errors) {
    if !rules.allow_text(text) {
        let of_length = rules.bytes_max.filter(|bytes_max| text.len() > *bytes_max);
        let detail = of_length.map(|bytes_max| format!("must have at most {bytes_max} bytes"));
        let of_pattern = || rules.pattern.map_or(MALFORMED, Pattern::detail).to_owned();
        errors.add(*at, detail.unwrap_or_else(of_pattern));
    }
}

#[inline(always)]
pub(crate) fn check_integer(rules: &Rules, number: i64, at: &Path<'_>, errors: &mut Errors) {
    if rules.allow_integer(number) {
        return;
    }
    let detail = match (rules.min, rules.max) {
        (Some(min), Some(max)) => format!("must be from {min} to {max}"),
        (Some(0), None) => "must not be negative".to_owned(),
        (Some(min), None) => format!("must be at least {min}"),
        (None, max) => format!("must be at most {}", max.unwrap_or(i64::MAX)),
    };
    errors.add(*at, detail);
}
