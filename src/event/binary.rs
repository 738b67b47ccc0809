//! What is wrong with a binary event that prost does not read, and where; and what prost reads
//! although it must not come in: a second payload.
//!
//! Walks the bytes as they were sent, by the field tables. Knows nothing of what an event must have.

use super::invalid::{Errors, Path};
use super::json_view::map_entry;
use super::rules::MALFORMED;
use super::schema::{EVENT_ENVELOPE, Field, Kind, Message, STRUCT, Shape};
use super::stored;
use super::wire::{Reader, TOO_DEEP, Value};

pub(super) const MORE_THAN_ONE_PAYLOAD: &str = "more than one payload: exactly one is allowed";
const NOT_UTF8: &str = "must be UTF-8";
/// Messages within each other in `properties`: more than the levels that are allowed take, less than prost reads.
const STRUCT_DEPTH_MAX: usize = 95;

/// Refuses every payload after the first: of two prost would keep the last.
pub(super) fn check_one_payload(event: &[u8], at: &Path<'_>, errors: &mut Errors) {
    let mut payload = false;
    let mut reader = Reader::new(event);
    loop {
        match reader.next() {
            Ok(Some((number, _))) => {
                let Some(kind) = Kind::by_number(number) else { continue };
                if std::mem::replace(&mut payload, true) {
                    errors.add(Path::Field(at, kind.json_name), MORE_THAN_ONE_PAYLOAD);
                }
            }
            Ok(None) => return,
            Err(_) => return errors.add(*at, MALFORMED),
        }
    }
}

/// Notes why prost could not read the event; at least one error.
pub(super) fn note_faults(event: &[u8], at: &Path<'_>, errors: &mut Errors) {
    note_message(&EVENT_ENVELOPE, event, at, errors);
    if errors.is_empty() {
        errors.add(*at, MALFORMED);
    }
}

fn note_message(message: &Message, bytes: &[u8], at: &Path<'_>, errors: &mut Errors) {
    let mut index = 0;
    let mut reader = Reader::new(bytes);
    loop {
        let (number, value) = match reader.next() {
            Ok(Some(member)) => member,
            Ok(None) => return,
            Err(_) => return errors.add(*at, MALFORMED),
        };
        let Some((_, field)) = message.field(number) else { continue };
        let here = Path::Field(at, field.json_name);
        if let Shape::List(element) = field.shape {
            note_value(element, value, &Path::Index(&here, index), errors);
            index += 1;
        } else {
            note_value(field, value, &here, errors);
        }
    }
}

fn note_value(field: &Field, value: Value<'_>, at: &Path<'_>, errors: &mut Errors) {
    match (&field.shape, value) {
        (Shape::String, Value::Bytes(text)) => {
            if std::str::from_utf8(text).is_err() {
                errors.add(*at, NOT_UTF8);
            }
        }
        (Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Enum(_), Value::Varint(_))
        | (Shape::Float, Value::Fixed32(_))
        | (Shape::Double, Value::Fixed64(_)) => {}
        (Shape::Message(message) | Shape::Payload(message), Value::Bytes(bytes)) => {
            note_message(message, bytes, at, errors)
        }
        (Shape::Struct, Value::Bytes(bytes)) => match stored::check_message(&STRUCT, bytes, STRUCT_DEPTH_MAX) {
            Ok(()) => {}
            Err(TOO_DEEP) => errors.add(*at, "must not nest deeper than 30 levels"),
            Err(super::wire::NOT_UTF8) => errors.add(*at, NOT_UTF8),
            Err(_) => errors.add(*at, MALFORMED),
        },
        (Shape::Map(entry), Value::Bytes(bytes)) => {
            let (key, value) = map_entry(bytes);
            match (std::str::from_utf8(key), value) {
                (Err(_), _) => errors.add(*at, "keys must be UTF-8"),
                (Ok(key), Some(value)) => note_value(entry, value, &Path::Field(at, key), errors),
                (Ok(_), None) => {}
            }
        }
        _ => errors.add(*at, MALFORMED),
    }
}
