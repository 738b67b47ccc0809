//! What is allowed inside a payload and a device context, checked on the encoded bytes
//! by walking the field tables.
//!
//! Invariant: bytes without errors decode with [`super::EventRef::decode`] and with any
//! protobuf library, given that their text is UTF-8, which both forms of a request have
//! checked before. Does not know JSON: errors carry pointers in its camelCase names.

use super::invalid::{Errors, Path};
use super::json_view::map_entry;
use super::limits::{
    ELEMENTS_MAX, ID_BYTES_MAX, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, TEXT_BYTES_MAX,
};
use super::schema::{Check, FIELDS_MAX, Field, Message, Shape};
use super::wire::{Reader, Value};

pub(super) const PROPERTIES_TOO_DEEP: &str = "must not nest deeper than 30 levels";
pub(super) const TOO_MANY_ELEMENTS: &str = "must have at most 1000 elements";
pub(super) const TOO_MANY_VALUES: &str = "must have at most 1000 values, at all levels together";
pub(super) const MALFORMED: &str = "not well-formed";
pub(super) const REQUIRED: &str = "is required";
pub(super) const CONTROL: &str = "must not have control characters";

pub(super) fn check_message(message: &Message, bytes: &[u8], at: &Path<'_>, errors: &mut Errors) {
    let mut filled = [false; FIELDS_MAX];
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
            // Counted before as it was sent; this counts what is stored.
            if *count > ELEMENTS_MAX {
                return errors.add(here, TOO_MANY_ELEMENTS);
            }
        }
        match field.shape {
            Shape::List(element) => {
                let index = counts[position % FIELDS_MAX] - 1;
                check_value(element, value, &Path::Index(&here, index), errors);
            }
            Shape::Map(entry) => check_entry(entry, value, &here, errors),
            _ => check_value(field, value, &here, errors),
        }
        filled[position % FIELDS_MAX] = !matches!(value, Value::Bytes([]));
    }
    for (field, filled) in message.fields.iter().zip(filled) {
        if !filled && matches!(field.check, Check::Required | Check::EventName) {
            errors.add(Path::Field(at, field.json_name), REQUIRED);
        }
    }
}

fn check_value(field: &Field, value: Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    match (&field.shape, value) {
        (Shape::String, Value::Bytes(bytes)) => check_text(field.check, bytes, at, errors),
        (Shape::Int32 | Shape::Int64, Value::Varint(number)) => {
            let number = if let Shape::Int32 = field.shape { i64::from(number as i32) } else { number as i64 };
            match field.check {
                Check::NotNegative if number < 0 => errors.add(*at, "must not be negative"),
                Check::Percent if !(0..=100).contains(&number) => errors.add(*at, "must be from 0 to 100"),
                _ => {}
            }
        }
        // A number without a name is a newer sender's: enums of proto3 are open.
        (Shape::Bool | Shape::Enum(_), Value::Varint(_)) => {}
        (Shape::Float, Value::Fixed32(bits)) => check_finite(f64::from(f32::from_bits(bits)), at, errors),
        (Shape::Double, Value::Fixed64(bits)) => check_finite(f64::from_bits(bits), at, errors),
        (Shape::Message(message) | Shape::Payload(message), Value::Bytes(bytes)) => {
            check_message(message, bytes, at, errors)
        }
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

fn check_text(check: Check, bytes: &[u8], at: &Path<'_>, errors: &mut Errors) {
    if bytes.len() > TEXT_BYTES_MAX {
        return errors.add(*at, "must have at most 262144 bytes");
    }
    match check {
        Check::Currency if !bytes.is_empty() && !is_currency(bytes) => {
            errors.add(*at, "must be empty or three ASCII letters")
        }
        Check::EventName if bytes.len() > ID_BYTES_MAX => errors.add(*at, "must have at most 256 bytes"),
        Check::EventName if has_control(bytes) => errors.add(*at, CONTROL),
        _ => {}
    }
}

fn check_key(key: &str, at: &Path<'_>, errors: &mut Errors) {
    if key.len() > KEY_BYTES_MAX {
        errors.add(*at, "the key must have at most 256 bytes");
    }
}

fn check_entry(entry: &Field, value: Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    let Value::Bytes(bytes) = value else {
        return errors.add(*at, MALFORMED);
    };
    let (key, value) = map_entry(bytes);
    let Ok(key) = std::str::from_utf8(key) else {
        return errors.add(*at, "keys must be UTF-8");
    };
    let here = Path::Field(at, key);
    check_key(key, &here, errors);
    if let Some(value) = value {
        check_value(entry, value, &here, errors);
    }
}

/// Checks the values of one `google.protobuf.Struct`, and counts them up to one more than are allowed.
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
                check_key(key, &here, self.errors);
                if !self.check_any(value, &here, depth) {
                    return;
                }
            }
        }
    }

    /// Answers whether there may be more values.
    fn check_any(&mut self, value: Option<Value<'_>>, at: &Path<'_>, depth: usize) -> bool {
        self.values += 1;
        if self.values > PROPERTIES_VALUES_MAX {
            return false;
        }
        let Some(Value::Bytes(bytes)) = value else { return true };
        let mut reader = Reader::new(bytes);
        while let Ok(Some(member)) = reader.next() {
            match member {
                (2, Value::Fixed64(bits)) => check_finite(f64::from_bits(bits), at, self.errors),
                (3, Value::Bytes(text)) => check_text(Check::None, text, at, self.errors),
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

fn check_finite(number: f64, at: &Path<'_>, errors: &mut Errors) {
    if !number.is_finite() {
        errors.add(*at, "must be a finite number");
    }
}

fn is_currency(text: &[u8]) -> bool {
    text.len() == 3 && text.iter().all(u8::is_ascii_alphabetic)
}

/// Whether UTF-8 text has characters of Unicode's category Cc.
pub(super) fn has_control(text: &[u8]) -> bool {
    /// Begins U+0080 to U+00BF, of which those up to U+009F are controls.
    const LATIN_1: u8 = 0xC2;
    // One pass that the compiler can make wide; the rare second one looks closer.
    let suspicious = |byte: &u8| byte.is_ascii_control() || *byte == LATIN_1;
    text.iter().fold(false, |found, byte| found | suspicious(byte))
        && (text.iter().any(u8::is_ascii_control) || text.windows(2).any(|pair| pair[0] == LATIN_1 && pair[1] <= 0x9F))
}
