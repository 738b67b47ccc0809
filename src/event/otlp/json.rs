//! Converts the JSON encoding of an export to protobuf: proto3 JSON, but with ids in hex and enums as numbers (OTLP
//! 1.x, "JSON Protobuf Encoding"). Skips unknown members.
//!
//! Invariant: the output is well-formed and no larger than the text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::event::codec::decimal;
use crate::event::codec::json_text::{JsonText, Malformed, Token};
use crate::event::codec::wire::{put_bytes, put_double, put_fixed32, put_fixed64, put_number};
use crate::event::intake::field_error::{FieldError, Path};
use crate::event::intake::request::{Refused, json_text};

/// Nesting depth of messages. Bodies of records may nest no deeper than `properties`.
const DEPTH_MAX: usize = 100;

enum Shape {
    Text,
    Bool,
    Integer,
    Fixed32,
    Fixed64,
    Double,
    Hex,
    Base64,
    Message(&'static [Field]),
    List(&'static [Field]),
}

struct Field {
    name: &'static str,
    number: u32,
    shape: Shape,
}

const fn field(number: u32, name: &'static str, shape: Shape) -> Field {
    Field { name, number, shape }
}

static EXPORT: [Field; 1] = [field(1, "resourceLogs", Shape::List(&RESOURCE_LOGS))];
static RESOURCE_LOGS: [Field; 3] = [
    field(1, "resource", Shape::Message(&RESOURCE)),
    field(2, "scopeLogs", Shape::List(&SCOPE_LOGS)),
    field(3, "schemaUrl", Shape::Text),
];
static RESOURCE: [Field; 2] =
    [field(1, "attributes", Shape::List(&KEY_VALUE)), field(2, "droppedAttributesCount", Shape::Integer)];
static SCOPE_LOGS: [Field; 3] = [
    field(1, "scope", Shape::Message(&SCOPE)),
    field(2, "logRecords", Shape::List(&LOG_RECORD)),
    field(3, "schemaUrl", Shape::Text),
];
static SCOPE: [Field; 4] = [
    field(1, "name", Shape::Text),
    field(2, "version", Shape::Text),
    field(3, "attributes", Shape::List(&KEY_VALUE)),
    field(4, "droppedAttributesCount", Shape::Integer),
];
static LOG_RECORD: [Field; 11] = [
    field(1, "timeUnixNano", Shape::Fixed64),
    field(11, "observedTimeUnixNano", Shape::Fixed64),
    field(2, "severityNumber", Shape::Integer),
    field(3, "severityText", Shape::Text),
    field(5, "body", Shape::Message(&ANY_VALUE)),
    field(6, "attributes", Shape::List(&KEY_VALUE)),
    field(7, "droppedAttributesCount", Shape::Integer),
    field(8, "flags", Shape::Fixed32),
    field(9, "traceId", Shape::Hex),
    field(10, "spanId", Shape::Hex),
    field(12, "eventName", Shape::Text),
];
static KEY_VALUE: [Field; 2] = [field(1, "key", Shape::Text), field(2, "value", Shape::Message(&ANY_VALUE))];
static ANY_VALUE: [Field; 7] = [
    field(1, "stringValue", Shape::Text),
    field(2, "boolValue", Shape::Bool),
    field(3, "intValue", Shape::Integer),
    field(4, "doubleValue", Shape::Double),
    field(5, "arrayValue", Shape::Message(&ARRAY_VALUE)),
    field(6, "kvlistValue", Shape::Message(&KEY_VALUES)),
    field(7, "bytesValue", Shape::Base64),
];
static ARRAY_VALUE: [Field; 1] = [field(1, "values", Shape::List(&ANY_VALUE))];
static KEY_VALUES: [Field; 1] = [field(1, "values", Shape::List(&KEY_VALUE))];

/// Converts JSON to protobuf.
pub fn from_json(body: &[u8]) -> Result<Vec<u8>, Refused> {
    let mut json = JsonText::new(json_text(body)?);
    json.skip_mark();
    let mut out = Vec::with_capacity(body.len());
    message(&mut json, &EXPORT, &mut out, &Path::Root, 0)?;
    json.end()?;
    Ok(out)
}

fn message(
    json: &mut JsonText<'_>,
    fields: &[Field],
    out: &mut Vec<u8>,
    at: &Path<'_>,
    depth: usize,
) -> Result<(), Refused> {
    if json.peek()? != Token::Object {
        return Err(wrong(at, "must be an object"));
    }
    if depth > DEPTH_MAX {
        return Err(Refused::new("The body nests too deep."));
    }
    json.enter();
    let mut first = true;
    while let Some(key) = json.member(first)? {
        first = false;
        let name = key.plain();
        let Some(field) = fields.iter().find(|field| field.name.as_bytes() == &*name) else {
            json.skip()?;
            continue;
        };
        let here = Path::Field(at, field.name);
        match (json.peek()?, &field.shape) {
            // Null means an unset field.
            (Token::Null, _) => json.word(Token::Null)?,
            (Token::Array, Shape::List(fields)) => {
                json.enter();
                let mut index = 0;
                let mut element = Vec::new();
                while json.element(index == 0)? {
                    element.clear();
                    message(json, fields, &mut element, &Path::Index(&here, index), depth + 1)?;
                    put_bytes(out, field.number, &element);
                    index += 1;
                }
            }
            (_, Shape::List(_)) => return Err(wrong(&here, "must be an array")),
            (_, Shape::Message(fields)) => {
                let mut inner = Vec::new();
                message(json, fields, &mut inner, &here, depth + 1)?;
                put_bytes(out, field.number, &inner);
            }
            (token, shape) => scalar(json, token, shape, field.number, out).map_err(|fault| match fault {
                Fault::Malformed(error) => error.into(),
                Fault::Wrong(detail) => wrong(&here, detail),
            })?,
        }
    }
    Ok(())
}

enum Fault {
    Malformed(Malformed),
    Wrong(&'static str),
}

impl From<Malformed> for Fault {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

fn scalar(json: &mut JsonText<'_>, token: Token, shape: &Shape, number: u32, out: &mut Vec<u8>) -> Result<(), Fault> {
    // Numbers may be strings.
    let digits = match token {
        Token::Number => json.number()?.as_bytes().into(),
        Token::String => json.string()?.plain(),
        Token::True | Token::False if matches!(shape, Shape::Bool) => {
            json.word(token)?;
            put_number(out, number, u64::from(token == Token::True));
            return Ok(());
        }
        _ => return Err(Fault::Wrong(what(shape))),
    };
    let text = std::str::from_utf8(&digits).map_err(|_| Fault::Wrong("must be UTF-8"))?;
    let is_text = token == Token::String;
    let written = match shape {
        Shape::Text if is_text => Some(text).map(|text| put_bytes(out, number, text.as_bytes())),
        Shape::Hex if is_text => unhex(text).map(|bytes| put_bytes(out, number, &bytes)),
        Shape::Base64 if is_text => BASE64.decode(text).ok().map(|bytes| put_bytes(out, number, &bytes)),
        Shape::Integer => decimal::integer(text).map(|value| put_number(out, number, value.cast_unsigned())),
        Shape::Fixed32 => {
            let value = decimal::integer(text).and_then(|value| u32::try_from(value).ok());
            value.map(|value| put_fixed32(out, number, value))
        }
        Shape::Fixed64 => {
            let value = decimal::integer(text).and_then(|value| u64::try_from(value).ok());
            value.or_else(|| text.parse().ok()).map(|value| put_fixed64(out, number, value))
        }
        Shape::Double => text.parse().ok().map(|value| put_double(out, number, value)),
        _ => None,
    };
    written.ok_or(Fault::Wrong(what(shape)))
}

fn what(shape: &Shape) -> &'static str {
    match shape {
        Shape::Text => "must be a string",
        Shape::Bool => "must be true or false",
        Shape::Integer => "must be a 64-bit integer",
        Shape::Fixed32 => "must be an integer of 32 bits, not negative",
        Shape::Fixed64 => "must be an integer of 64 bits, not negative",
        Shape::Double => "must be a number",
        Shape::Hex => "must be an even number of hex digits",
        Shape::Base64 => "must be base64",
        Shape::Message(_) => "must be an object",
        Shape::List(_) => "must be an array",
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8);
    if digits.len() % 2 == 1 {
        return None;
    }
    digits.chunks_exact(2).map(pair).collect()
}

fn wrong(at: &Path<'_>, detail: &str) -> Refused {
    let errors = vec![FieldError::new(at.pointer(), detail)];
    Refused { detail: "The request is not valid.".to_owned(), errors }
}
