//! The messages as tables: their fields, the types of those, and the constraints on their values. `build.rs` generates
//! them from the same descriptors as the prost types, so the two cannot disagree, and from the `buf.validate` options
//! of each field.
//!
//! The code that checks, reads and writes events walks these tables and names no field itself.

use super::pattern::Pattern;
use crate::event::proto::event_envelope::Payload;

/// Most fields of a message other than the envelope. `build.rs` enforces it.
pub(crate) const FIELDS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    /// In the order of their numbers.
    pub(crate) fields: &'static [Field],
    /// One bit per required field, by position.
    pub(crate) required: u64,
    /// The first of the [`PLACES`] that belong to this message: one before its fields and one after each.
    pub(crate) place: usize,
}

#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) json_name: &'static str,
    /// The JSON name as a member: `"jsonName":`.
    pub(crate) json_key: &'static str,
    /// The name as a JSON member after the first: `,"name":`.
    pub(crate) view_key: &'static str,
    pub(crate) shape: Shape,
    /// Behind a reference: constraints are rarely needed, and a search through the fields then touches less memory.
    pub(crate) rules: &'static Rules,
}

/// Constraints on a field, from its `buf.validate` options in `proto/`. `None` means no constraint.
#[derive(Debug, PartialEq, Eq)]
pub struct Rules {
    /// The string must not be empty, or the message must be present.
    pub required: bool,
    /// UTF-8 bytes of a string.
    pub bytes_max: Option<usize>,
    /// Pattern of a string.
    pub pattern: Option<Pattern>,
    /// Bounds of an integer, inclusive.
    pub min: Option<i64>,
    pub max: Option<i64>,
    /// A floating-point number must be neither infinite nor NaN.
    pub finite: bool,
    /// Elements of a list or entries of a map.
    pub elements_min: Option<usize>,
    pub elements_max: Option<usize>,
    /// Bytes of each key of a map.
    pub key_bytes_max: Option<usize>,
}

impl Rules {
    /// Whether a string may have this text, which is UTF-8.
    #[inline]
    pub(crate) fn allow_text(&self, text: &[u8]) -> bool {
        self.bytes_max.is_none_or(|bytes_max| text.len() <= bytes_max)
            && self.pattern.is_none_or(|pattern| pattern.allows(text))
    }

    #[inline]
    pub(crate) fn allow_integer(&self, number: i64) -> bool {
        self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
    }

    #[inline]
    pub(crate) fn allow_float(&self, number: f64) -> bool {
        !self.finite || number.is_finite()
    }

    #[inline]
    pub(crate) fn allow_key(&self, bytes: usize) -> bool {
        self.key_bytes_max.is_none_or(|bytes_max| bytes <= bytes_max)
    }
}

#[derive(Debug)]
pub(crate) enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    Enum(&'static Enum),
    Message(&'static Message),
    /// A payload: an event has exactly one of these messages.
    Payload(&'static Message),
    /// `google.protobuf.Struct`: any JSON object.
    Struct,
    /// Repeated; the row describes one element.
    List(&'static Field),
    /// String keys; the row describes one value.
    Map(&'static Field),
}

#[derive(Debug)]
pub(crate) struct Enum {
    /// Indexed by number.
    pub(crate) names: &'static [&'static str],
}

impl Enum {
    pub(crate) fn name(&self, number: i32) -> Option<&'static str> {
        self.names.get(usize::try_from(number).ok()?).copied()
    }
}

impl Message {
    /// The position of the field with that name, in proto3 JSON or proto spelling.
    pub(crate) fn position(&self, name: &[u8]) -> Option<usize> {
        self.fields.iter().position(|field| field.json_name.as_bytes() == name || field.name.as_bytes() == name)
    }

    /// The field's position and row.
    pub(crate) fn field(&self, number: u32) -> Option<(usize, &'static Field)> {
        // Nearly every message numbers its fields 1, 2, 3.
        let guess = (number as usize).wrapping_sub(1);
        match self.fields.get(guess) {
            Some(field) if field.number == number => Some((guess, field)),
            _ => {
                let position = self.fields.binary_search_by_key(&number, |field| field.number).ok()?;
                Some((position, &self.fields[position]))
            }
        }
    }
}

/// The messages of events, requests and replies.
pub(crate) fn messages() -> &'static [&'static Message] {
    &MESSAGES
}

/// The kind of an event, determined by the payload that is set.
#[derive(Debug)]
pub struct Kind {
    /// The payload's field in the envelope, also its name in the rule view: `purchase_complete`.
    pub field: &'static str,
    /// The same in proto3 JSON: `purchaseComplete`.
    pub json_name: &'static str,
    pub number: u32,
    pub category: &'static str,
    /// Empty for a custom event, whose type is its `event_name`.
    pub event_type: &'static str,
    pub(crate) message: &'static Message,
}

impl Kind {
    pub fn all() -> &'static [Kind] {
        &KINDS
    }

    pub fn by_number(number: u32) -> Option<&'static Kind> {
        position_of_number(number).map(|position| &KINDS[position])
    }

    /// Looks up a kind by the columns of a stored event. Custom events have any type.
    pub fn named(category: &str, event_type: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.category == category && (kind.is_custom() || kind.event_type == event_type))
    }

    pub fn of(payload: &Payload) -> &'static Kind {
        &KINDS[position(payload)]
    }

    /// Whether the sender chooses the event type.
    pub fn is_custom(&self) -> bool {
        self.event_type.is_empty()
    }
}

/// The type of a field of an event, as far as a caller with text for it needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// Strings and enum names.
    Text,
    Number,
    Bool,
    /// Messages, lists and everything below `properties`.
    Json,
}

/// The type of the field at a path of names, in proto3 JSON or proto spelling. `None` if there is no such field.
pub fn field_type(path: &[&str]) -> Option<FieldType> {
    holds(&EVENT_ENVELOPE, path)
}

fn holds(message: &Message, path: &[&str]) -> Option<FieldType> {
    let (name, below) = path.split_first()?;
    let field = &message.fields[message.position(name.as_bytes())?];
    match (&field.shape, below) {
        (Shape::String | Shape::Enum(_), []) => Some(FieldType::Text),
        (Shape::Bool, []) => Some(FieldType::Bool),
        (Shape::Int32 | Shape::Int64 | Shape::Float | Shape::Double, []) => Some(FieldType::Number),
        (Shape::Message(_) | Shape::Payload(_) | Shape::Struct | Shape::List(_) | Shape::Map(_), []) => {
            Some(FieldType::Json)
        }
        (Shape::Message(message) | Shape::Payload(message), below) => holds(message, below),
        (Shape::Struct, _) => Some(FieldType::Json),
        (Shape::Map(value), [_]) => match &value.shape {
            Shape::String | Shape::Enum(_) => Some(FieldType::Text),
            Shape::Bool => Some(FieldType::Bool),
            _ => Some(FieldType::Number),
        },
        _ => None,
    }
}

/// The envelope's own field with that number. They come before the payloads and are numbered from one.
#[inline]
pub(crate) fn envelope_field(number: usize) -> &'static Field {
    &EVENT_ENVELOPE.fields[number - 1]
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));
