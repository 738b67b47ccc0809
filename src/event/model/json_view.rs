//! Writes the rule view of an event from its protobuf bytes: JSON with snake_case names, enum names, and 64-bit
//! integers as numbers. Every field of a message is present, in the order of the field numbers, except messages that
//! the sender left out.
//!
//! A view takes at most six times the bytes of its event (for text of control characters) plus the names of the fields,
//! which the limits on lists and maps bound.
//!
//! One pass over the bytes; allocates nothing but the output. Reads only bytes that [`EventRef::decode`] has checked.
//! Unchecked input would lose fields, not panic.

use super::event_ref::EventRef;
use crate::event::codec::unescaped::unescaped_len;
use crate::event::codec::wire::{Reader, Value, last_field, map_entry};
use crate::event::schema::tables::{DEVICE_CONTEXT, FIELDS_MAX, Field, Message, Shape};

/// The encoding of 64-bit integers: some JSON readers parse every number as a double.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Int64 {
    #[default]
    AsNumber,
    AsString,
}

/// A double represents every integer up to this one exactly.
pub(super) const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl EventRef<'_> {
    /// Appends the payload as in the rule view: snake_case, enum names, default values included. Messages that the
    /// sender left out are absent.
    pub fn write_payload_json(&self, out: &mut Vec<u8>) {
        write_message::<false>(out, self.kind.message, self.payload);
    }

    /// Appends the whole rule view. Messages that the sender left out (`device_context`, those in the payload) are
    /// absent. Every other field of the envelope and the payload is present; the payload is a member with its field
    /// name.
    pub fn write_view_json(&self, out: &mut Vec<u8>) {
        self.write_view_json_with(out, Int64::AsNumber);
    }

    /// Like [`Self::write_view_json`], with this encoding of 64-bit integers.
    pub fn write_view_json_with(&self, out: &mut Vec<u8>, int64: Int64) {
        match int64 {
            Int64::AsNumber => write_envelope::<false>(out, self),
            Int64::AsString => write_envelope::<true>(out, self),
        }
    }

    /// The rule view as a value.
    pub fn view(&self) -> serde_json::Value {
        let mut json = Vec::with_capacity(2 * self.payload.len() + 1024);
        self.write_view_json(&mut json);
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

fn write_envelope<const QUOTED: bool>(out: &mut Vec<u8>, event: &EventRef<'_>) {
    for (key, text) in [("{\"id\":", event.id), (",\"app_id\":", event.app_id), (",\"device_id\":", event.device_id)] {
        out.extend_from_slice(key.as_bytes());
        write_string(out, text.as_bytes());
    }
    out.extend_from_slice(b",\"timestamp_ms\":");
    write_int64::<QUOTED>(out, event.timestamp_ms);
    out.extend_from_slice(b",\"correlation_id\":");
    write_string(out, event.correlation_id.as_bytes());
    if let Some(device) = event.device_bytes {
        out.extend_from_slice(b",\"device_context\":");
        write_message::<QUOTED>(out, &DEVICE_CONTEXT, device);
    }
    for (key, text) in [
        (",\"idempotency_key\":", event.idempotency_key),
        (",\"user_id\":", event.user_id),
        (",\"session_id\":", event.session_id),
    ] {
        out.extend_from_slice(key.as_bytes());
        write_string(out, text.as_bytes());
    }
    out.extend_from_slice(b",\"");
    out.extend_from_slice(event.kind.field.as_bytes());
    out.extend_from_slice(b"\":");
    write_message::<QUOTED>(out, event.kind.message, event.payload);
    out.push(b'}');
}

fn write_message<const QUOTED: bool>(out: &mut Vec<u8>, message: &Message, bytes: &[u8]) {
    let start = out.len();
    for (field, value) in message.fields.iter().zip(last_values(message, bytes)) {
        if field.is_absent(value) {
            continue;
        }
        out.extend_from_slice(field.view_key.as_bytes());
        match (&field.shape, value) {
            (Shape::List(element), Some(_)) => write_list::<QUOTED>(out, element, bytes),
            (Shape::Map(entry), Some(_)) => write_map::<QUOTED>(out, field.number, entry, bytes),
            (shape, value) => write_value::<QUOTED>(out, shape, value),
        }
    }
    open_with(out, start, b'{');
    out.push(b'}');
}

/// The last value of each field. For a repeated field only its presence counts, since its elements are read again.
#[inline]
pub(super) fn last_values<'e>(message: &Message, bytes: &'e [u8]) -> [Option<Value<'e>>; FIELDS_MAX] {
    let mut last = [None; FIELDS_MAX];
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if let Some((position, _)) = message.field(number)
            && let Some(slot) = last.get_mut(position)
        {
            *slot = Some(value);
        }
    }
    last
}

impl Field {
    /// Whether the view lacks the field: a message that the sender left out.
    pub(super) fn is_absent(&self, value: Option<Value<'_>>) -> bool {
        value.is_none() && matches!(self.shape, Shape::Message(_) | Shape::Payload(_) | Shape::Struct)
    }
}

fn write_value<const QUOTED: bool>(out: &mut Vec<u8>, shape: &Shape, value: Option<Value<'_>>) {
    match (shape, value) {
        (Shape::String, Some(Value::Bytes(text))) => write_string(out, text),
        (Shape::String, _) => out.extend_from_slice(b"\"\""),
        (Shape::Bool, Some(Value::Varint(1..))) => out.extend_from_slice(b"true"),
        (Shape::Bool, _) => out.extend_from_slice(b"false"),
        (Shape::Int32, Some(Value::Varint(number))) => write_integer(out, i64::from(number as i32)),
        (Shape::Int64, Some(Value::Varint(number))) => write_int64::<QUOTED>(out, number as i64),
        (Shape::Enum(names), value) => {
            let number = if let Some(Value::Varint(number)) = value { number as i32 } else { 0 };
            match names.name(number) {
                Some(name) => write_string(out, name.as_bytes()),
                None => write_integer(out, i64::from(number)),
            }
        }
        (Shape::Float, Some(Value::Fixed32(bits))) => write_float(out, f32::from_bits(bits)),
        (Shape::Double, Some(Value::Fixed64(bits))) => write_float(out, f64::from_bits(bits)),
        (Shape::Float | Shape::Double, _) => out.extend_from_slice(b"0.0"),
        (Shape::Int32, _) => out.push(b'0'),
        (Shape::Int64, _) => write_int64::<QUOTED>(out, 0),
        (Shape::Message(message) | Shape::Payload(message), Some(Value::Bytes(bytes))) => {
            write_message::<QUOTED>(out, message, bytes)
        }
        (Shape::Struct, Some(Value::Bytes(bytes))) => write_struct(out, bytes),
        (Shape::Message(_) | Shape::Payload(_) | Shape::Struct, _) => out.extend_from_slice(b"null"),
        (Shape::List(_), _) => out.extend_from_slice(b"[]"),
        (Shape::Map(_), _) => out.extend_from_slice(b"{}"),
    }
}

fn write_list<const QUOTED: bool>(out: &mut Vec<u8>, element: &Field, bytes: &[u8]) {
    let start = out.len();
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if number == element.number {
            out.push(b',');
            write_value::<QUOTED>(out, &element.shape, Some(value));
        }
    }
    open_with(out, start, b'[');
    out.push(b']');
}

fn write_map<const QUOTED: bool>(out: &mut Vec<u8>, number_of_map: u32, entry: &Field, bytes: &[u8]) {
    let start = out.len();
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (number == number_of_map, value) {
            let (key, value) = map_entry(bytes);
            out.push(b',');
            write_string(out, key);
            out.push(b':');
            write_value::<QUOTED>(out, &entry.shape, value);
        }
    }
    open_with(out, start, b'{');
    out.push(b'}');
}

/// A `google.protobuf.Struct` as a plain JSON object.
fn write_struct(out: &mut Vec<u8>, bytes: &[u8]) {
    let start = out.len();
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if let (1, Value::Bytes(bytes)) = (number, value) {
            let (key, value) = map_entry(bytes);
            out.push(b',');
            write_string(out, key);
            out.push(b':');
            write_any(out, value);
        }
    }
    open_with(out, start, b'{');
    out.push(b'}');
}

/// A `google.protobuf.Value`.
fn write_any(out: &mut Vec<u8>, value: Option<Value<'_>>) {
    match last_field(value) {
        Some((2, Value::Fixed64(bits))) => match f64::from_bits(bits) {
            number if number.fract() == 0.0 && number.abs() <= EXACT_MAX => write_integer(out, number as i64),
            number => write_float(out, number),
        },
        Some((3, Value::Bytes(text))) => write_string(out, text),
        Some((4, Value::Varint(number))) => out.extend_from_slice(if number == 0 { b"false" } else { b"true" }),
        Some((5, Value::Bytes(bytes))) => write_struct(out, bytes),
        Some((6, Value::Bytes(bytes))) => {
            let start = out.len();
            let mut reader = Reader::new(bytes);
            while let Ok(Some((number, value))) = reader.next() {
                if number == 1 {
                    out.push(b',');
                    write_any(out, Some(value));
                }
            }
            open_with(out, start, b'[');
            out.push(b']');
        }
        _ => out.extend_from_slice(b"null"),
    }
}

/// Replaces the comma before the first member with the bracket, or appends the bracket if there are no members.
fn open_with(out: &mut Vec<u8>, start: usize, bracket: u8) {
    match out.get_mut(start) {
        Some(comma) => *comma = bracket,
        None => out.push(bracket),
    }
}

fn write_int64<const QUOTED: bool>(out: &mut Vec<u8>, number: i64) {
    if QUOTED {
        out.push(b'"');
        write_integer(out, number);
        out.push(b'"');
    } else {
        write_integer(out, number);
    }
}

fn write_integer(out: &mut Vec<u8>, number: i64) {
    // Writing to a vector does not fail.
    let _ = serde_json::to_writer(out, &number);
}

/// The shortest digits that parse to the same float, or `null` for NaN and infinities.
fn write_float(out: &mut Vec<u8>, number: impl serde::Serialize) {
    let _ = serde_json::to_writer(out, &number);
}

fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(unescaped_len(rest));
        out.extend_from_slice(plain);
        let Some((special, after)) = special.split_first() else { break };
        match *special {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                let digits = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
        rest = after;
    }
    out.push(b'"');
}
