//! Whether the bytes of a message are well-formed, down to its last nested value.
//!
//! Checks types, UTF-8, depth and counts; knows no rule about values.

use super::wire::{DecodeError, Reader, TOO_DEEP, Value, WRONG_TYPE};
use crate::event::schema::tables::{Message, STRUCT, Shape};

const TOO_MANY_VALUES: DecodeError =
    DecodeError::new("its lists, maps and properties hold more than 50000 values together");

/// Walks a message and everything in it. Each element of a list or map takes one from `values`.
pub(crate) fn check_message(
    message: &Message,
    bytes: &[u8],
    depth: usize,
    values: &mut usize,
) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        if let Some((_, field)) = message.field(number) {
            check_value(&field.shape, value, depth, values)?;
        }
    }
    Ok(())
}

fn check_value(shape: &Shape, value: Value<'_>, depth: usize, values: &mut usize) -> Result<(), DecodeError> {
    match (shape, value) {
        (Shape::String, value) => value.text().map(|_| ()),
        (Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Enum(_), Value::Varint(_))
        | (Shape::Float, Value::Fixed32(_))
        | (Shape::Double, Value::Fixed64(_)) => Ok(()),
        (Shape::Message(message) | Shape::Payload(message), value) => {
            check_message(message, value.bytes()?, depth, values)
        }
        (Shape::Struct, value) => check_message(&STRUCT, value.bytes()?, depth, values),
        (Shape::List(element), value) => {
            *values = values.checked_sub(1).ok_or(TOO_MANY_VALUES)?;
            check_value(&element.shape, value, depth, values)
        }
        (Shape::Map(entry), value) => {
            *values = values.checked_sub(1).ok_or(TOO_MANY_VALUES)?;
            let mut reader = Reader::new(value.bytes()?);
            while let Some((number, value)) = reader.next()? {
                match number {
                    1 => value.text().map(|_| ())?,
                    2 => check_value(&entry.shape, value, depth, values)?,
                    _ => {}
                }
            }
            Ok(())
        }
        _ => Err(WRONG_TYPE),
    }
}
