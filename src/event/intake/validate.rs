//! Validates a payload or a device context by walking its encoded bytes along the field tables.
//!
//! Invariant: bytes without errors decode with [`EventRef::decode`](crate::event::EventRef::decode) and with any
//! protobuf library, provided that their text is UTF-8, which both kinds of request check first. Does not know JSON,
//! but its error pointers use camelCase names.

use super::field_error::{Errors, Path};
use crate::event::codec::wire::{Reader, Value, map_entry};
use crate::event::schema::limits::{KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, TEXT_BYTES_MAX};
use crate::event::schema::tables::{FIELDS_MAX, Field, Message, Rules, Shape};

pub(crate) const PROPERTIES_TOO_DEEP: &str = "must not nest deeper than 30 levels";
pub(crate) const TOO_MANY_VALUES: &str = "must have at most 1000 values, at all levels together";
pub(crate) const MALFORMED: &str = "not well-formed";
pub(crate) const REQUIRED: &str = "is required";

/// Constraints on every value in `properties`, which has no options.
static PROPERTY: Rules = Rules {
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
}

pub(crate) fn check_message(message: &Message, bytes: &[u8], unchecked: Unchecked, at: &Path<'_>, errors: &mut Errors) {
    let mut filled = 0_u64;
    let mut counts = [0; FIELDS_MAX];
    let mut reader = Reader::new(bytes);
    loop {
        let (number, value) = match reader.next() {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err(_) => return errors.add(*at, MALFORMED),
        };
        let Some((position, field)) = message.field(number) else { continue };
        let here = Path::Field(at, field.json_name);
        if let Shape::List(_) | Shape::Map(_) = field.shape {
            let count = &mut counts[position % FIELDS_MAX];
            *count += 1;
            // The count of elements as sent was checked before; this counts what is stored.
            if let Some(elements_max) = field.rules.elements_max
                && *count > elements_max
            {
                return errors.add(here, too_many(elements_max));
            }
        }
        match field.shape {
            Shape::List(element) => {
                let index = counts[position % FIELDS_MAX] - 1;
                check_value(element, value, unchecked, &Path::Index(&here, index), errors);
            }
            Shape::Map(entry) => check_entry(field.rules, entry, value, unchecked, &here, errors),
            _ => check_value(field, value, unchecked, &here, errors),
        }
        let bit = 1 << (position % FIELDS_MAX);
        filled = if matches!(value, Value::Bytes([])) { filled & !bit } else { filled | bit };
    }
    let missing = message.required & !filled;
    if missing != 0 {
        let fields = message.fields.iter().enumerate().filter(|(position, _)| missing & 1 << position != 0);
        fields.for_each(|(_, field)| errors.add(Path::Field(at, field.json_name), REQUIRED));
    }
}

/// The error detail for a list or map with more elements.
pub(crate) fn too_many(elements_max: usize) -> String {
    format!("must have at most {elements_max} elements")
}

fn check_value(field: &Field, value: Value<'_>, unchecked: Unchecked, at: &Path<'_>, errors: &mut Errors) {
    match (&field.shape, value) {
        (Shape::String, Value::Bytes(bytes)) => check_text(field.rules, bytes, at, errors),
        (Shape::Int32 | Shape::Int64, Value::Varint(number)) => {
            let number = if let Shape::Int32 = field.shape { i64::from(number as i32) } else { number as i64 };
            check_integer(field.rules, number, at, errors);
        }
        // A number without a name comes from a newer sender: proto3 enums are open.
        (Shape::Bool | Shape::Enum(_), Value::Varint(_)) => {}
        (Shape::Float, Value::Fixed32(bits)) => check_finite(field.rules, f64::from(f32::from_bits(bits)), at, errors),
        (Shape::Double, Value::Fixed64(bits)) => check_finite(field.rules, f64::from_bits(bits), at, errors),
        (Shape::Message(message) | Shape::Payload(message), Value::Bytes(bytes)) => {
            check_message(message, bytes, unchecked, at, errors)
        }
        (Shape::Struct, Value::Bytes(_)) if unchecked == Unchecked::AllButProperties => {}
        (Shape::Struct, Value::Bytes(bytes)) => {
            let mut properties = Properties { values: 0, errors };
            properties.check_struct(bytes, at, PROPERTIES_DEPTH_MAX);
            if properties.values > PROPERTIES_VALUES_MAX {
                errors.add(*at, TOO_MANY_VALUES);
            }
        }
        _ => errors.add(*at, MALFORMED),
    }
}

#[inline(always)]
pub(crate) fn check_text(rules: &Rules, text: &[u8], at: &Path<'_>, errors: &mut Errors) {
    if let Some(bytes_max) = rules.bytes_max
        && text.len() > bytes_max
    {
        errors.add(*at, format!("must have at most {bytes_max} bytes"));
    } else if let Some(pattern) = rules.pattern
        && !pattern.allows(text)
    {
        errors.add(*at, pattern.detail());
    }
}

#[inline(always)]
pub(crate) fn check_integer(rules: &Rules, number: i64, at: &Path<'_>, errors: &mut Errors) {
    let below = rules.min.is_some_and(|min| number < min);
    if !below && rules.max.is_none_or(|max| number <= max) {
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

fn check_key(rules: &Rules, key: &str, at: &Path<'_>, errors: &mut Errors) {
    if let Some(bytes_max) = rules.key_bytes_max
        && key.len() > bytes_max
    {
        errors.add(*at, format!("the key must have at most {bytes_max} bytes"));
    }
}

/// Checks an entry of a map with these rules.
fn check_entry(
    rules: &Rules,
    entry: &Field,
    value: Value<'_>,
    unchecked: Unchecked,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let Value::Bytes(bytes) = value else {
        return errors.add(*at, MALFORMED);
    };
    let (key, value) = map_entry(bytes);
    let Ok(key) = std::str::from_utf8(key) else {
        return errors.add(*at, "keys must be UTF-8");
    };
    let here = Path::Field(at, key);
    check_key(rules, key, &here, errors);
    if let Some(value) = value {
        check_value(entry, value, unchecked, &here, errors);
    }
}

/// Checks the values of one `google.protobuf.Struct` and counts them, up to one more than allowed.
struct Properties<'e> {
    values: usize,
    errors: &'e mut Errors,
}

impl Properties<'_> {
    fn check_struct(&mut self, bytes: &[u8], at: &Path<'_>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.errors.add(*at, PROPERTIES_TOO_DEEP);
        };
        let mut reader = Reader::new(bytes);
        while let Ok(Some((number, value))) = reader.next() {
            if let (1, Value::Bytes(bytes)) = (number, value) {
                let (key, value) = map_entry(bytes);
                let Ok(key) = std::str::from_utf8(key) else {
                    return self.errors.add(*at, "keys must be UTF-8");
                };
                let here = Path::Field(at, key);
                check_key(&PROPERTY, key, &here, self.errors);
                if !self.check_any(value, &here, depth) {
                    return;
                }
            }
        }
    }

    /// Returns whether more values are allowed.
    fn check_any(&mut self, value: Option<Value<'_>>, at: &Path<'_>, depth: usize) -> bool {
        self.values += 1;
        if self.values > PROPERTIES_VALUES_MAX {
            return false;
        }
        let Some(Value::Bytes(bytes)) = value else { return true };
        let mut reader = Reader::new(bytes);
        while let Ok(Some(member)) = reader.next() {
            match member {
                (2, Value::Fixed64(bits)) => check_finite(&PROPERTY, f64::from_bits(bits), at, self.errors),
                (3, Value::Bytes(text)) => check_text(&PROPERTY, text, at, self.errors),
                (5, Value::Bytes(bytes)) => self.check_struct(bytes, at, depth),
                (6, Value::Bytes(bytes)) => self.check_list(bytes, at, depth),
                _ => {}
            }
        }
        true
    }

    fn check_list(&mut self, bytes: &[u8], at: &Path<'_>, depth: usize) {
        let Some(depth) = depth.checked_sub(1) else {
            return self.errors.add(*at, PROPERTIES_TOO_DEEP);
        };
        let mut index = 0;
        let mut elements = Reader::new(bytes);
        while let Ok(Some((_, element))) = elements.next() {
            if !self.check_any(Some(element), &Path::Index(at, index), depth) {
                return;
            }
            index += 1;
        }
    }
}

fn check_finite(rules: &Rules, number: f64, at: &Path<'_>, errors: &mut Errors) {
    if rules.finite && !number.is_finite() {
        errors.add(*at, "must be a finite number");
    }
}
