//! Faults of binary events: where an event that prost cannot decode is broken, and what prost must not decode because
//! it would take many times its size or lose data: too many elements, and a second payload.
//!
//! Walks the bytes as sent, by the field tables. Does not know which fields an event must have.

use super::field_error::{Errors, Path};
use super::validate::{MALFORMED, PROPERTIES_TOO_DEEP, TOO_MANY_VALUES, too_many};
use crate::event::codec::well_formed;
use crate::event::codec::wire::{Reader, TOO_DEEP, Value, map_entry};
use crate::event::schema::limits::PROPERTIES_VALUES_MAX;
use crate::event::schema::tables::{EVENT_ENVELOPE, FIELDS_MAX, Field, Kind, Message, STRUCT, Shape};

pub(crate) const MORE_THAN_ONE_PAYLOAD: &str = "more than one payload: exactly one is allowed";
pub(crate) const NOT_UTF8: &str = "must be UTF-8";
/// Nesting depth of messages in `properties`: more than the allowed levels take, and less than prost decodes.
const STRUCT_DEPTH_MAX: usize = 95;

/// Rejects every payload after the first (prost would keep the last) and fields with too many elements. Malformed bytes
/// are left to prost.
pub(crate) fn check_counts(event: &[u8], at: &Path<'_>, errors: &mut Errors) {
    let mut payload = false;
    let mut reader = Reader::new(event);
    while let Ok(Some((number, value))) = reader.next() {
        let Some(kind) = Kind::by_number(number) else { continue };
        let here = Path::Field(at, kind.json_name);
        if std::mem::replace(&mut payload, true) {
            errors.add(here, MORE_THAN_ONE_PAYLOAD);
        } else if let Value::Bytes(bytes) = value {
            count_elements(kind.message, bytes, &here, errors);
        }
    }
}

fn count_elements(message: &Message, bytes: &[u8], at: &Path<'_>, errors: &mut Errors) {
    let mut counts = [0; FIELDS_MAX];
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        let Some((position, field)) = message.field(number) else { continue };
        let here = Path::Field(at, field.json_name);
        let (more, count_max) = match (&field.shape, value) {
            (Shape::List(_) | Shape::Map(_), _) => (1, field.rules.elements_max.unwrap_or(usize::MAX)),
            (Shape::Struct, Value::Bytes(bytes)) => (count_members(bytes, STRUCT_DEPTH_MAX), PROPERTIES_VALUES_MAX),
            (Shape::Message(message), Value::Bytes(bytes)) => {
                count_elements(message, bytes, &here, errors);
                continue;
            }
            _ => continue,
        };
        counts[position % FIELDS_MAX] += more;
        if counts[position % FIELDS_MAX] > count_max {
            let of_struct = matches!(field.shape, Shape::Struct);
            return errors.add(here, if of_struct { TOO_MANY_VALUES.into() } else { too_many(count_max) });
        }
    }
}

/// Counts the values in a `google.protobuf.Struct`, down to the depth that prost decodes.
fn count_members(bytes: &[u8], depth: usize) -> usize {
    let mut count = 0;
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if let (1, Value::Bytes(entry)) = (number, value) {
            count += 1;
            // An entry may contain its value several times. Decoders merge messages, so every occurrence adds values.
            let mut members = Reader::new(entry);
            while let Ok(Some((number, value))) = members.next() {
                if let (2, Value::Bytes(value)) = (number, value) {
                    count += count_nested(value, depth);
                }
            }
        }
    }
    count
}

/// Counts the values in a `google.protobuf.Value`.
fn count_nested(bytes: &[u8], depth: usize) -> usize {
    let Some(depth) = depth.checked_sub(1) else { return 0 };
    let mut count = 0;
    let mut reader = Reader::new(bytes);
    while let Ok(Some(member)) = reader.next() {
        match member {
            (5, Value::Bytes(members)) => count += count_members(members, depth),
            (6, Value::Bytes(elements)) => {
                let mut reader = Reader::new(elements);
                while let Ok(Some((number, element))) = reader.next() {
                    if let (1, Value::Bytes(element)) = (number, element) {
                        count += 1 + count_nested(element, depth);
                    }
                }
            }
            _ => {}
        }
    }
    count
}

/// Reports why prost could not decode the event. Adds at least one error.
pub(crate) fn report_faults(event: &[u8], at: &Path<'_>, errors: &mut Errors) {
    report_message(&EVENT_ENVELOPE, event, at, errors);
    if errors.is_empty() {
        errors.add(*at, MALFORMED);
    }
}

fn report_message(message: &Message, bytes: &[u8], at: &Path<'_>, errors: &mut Errors) {
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
            report_value(element, value, &Path::Index(&here, index), errors);
            index += 1;
        } else {
            report_value(field, value, &here, errors);
        }
    }
}

fn report_value(field: &Field, value: Value<'_>, at: &Path<'_>, errors: &mut Errors) {
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
            report_message(message, bytes, at, errors)
        }
        (Shape::Struct, Value::Bytes(bytes)) => {
            // They were counted before, by `check_counts`.
            let mut values = usize::MAX;
            match well_formed::check_message(&STRUCT, bytes, STRUCT_DEPTH_MAX, &mut values) {
                Ok(()) => {}
                Err(TOO_DEEP) => errors.add(*at, PROPERTIES_TOO_DEEP),
                Err(crate::event::codec::wire::NOT_UTF8) => errors.add(*at, NOT_UTF8),
                Err(_) => errors.add(*at, MALFORMED),
            }
        }
        (Shape::Map(entry), Value::Bytes(bytes)) => {
            let (key, value) = map_entry(bytes);
            match (std::str::from_utf8(key), value) {
                (Err(_), _) => errors.add(*at, "keys must be UTF-8"),
                (Ok(key), Some(value)) => report_value(entry, value, &Path::Field(at, key), errors),
                (Ok(_), None) => {}
            }
        }
        _ => errors.add(*at, MALFORMED),
    }
}
