//! The messages as tables: which fields there are, what they hold and what is allowed
//! in them. Generated from the same descriptors as the prost types, so they cannot differ.
//!
//! What checks, reads and writes events walks these tables; it holds no field names itself.

use super::proto::event_envelope::Payload;

/// Fields that a message other than the envelope may have; the build holds it.
pub(super) const FIELDS_MAX: usize = 16;

#[derive(Debug)]
pub(super) struct Message {
    /// In the order of their numbers.
    pub(super) fields: &'static [Field],
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) json_name: &'static str,
    /// The name as a further member of a JSON object: `,"name":`.
    pub(super) view_key: &'static str,
    pub(super) shape: Shape,
    pub(super) check: Check,
}

#[derive(Debug)]
pub(super) enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    Enum(&'static Enum),
    Message(&'static Message),
    /// One of the messages of which an event has exactly one.
    Payload(&'static Message),
    /// `google.protobuf.Struct`: any JSON object.
    Struct,
    /// Repeated; the row describes one element.
    List(&'static Field),
    /// String keys; the row describes one value.
    Map(&'static Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    None,
    /// A string that must not be empty.
    Required,
    /// Required, bounded, and without control characters: it names the event's type.
    EventName,
    Percent,
    NotNegative,
    Currency,
}

#[derive(Debug)]
pub(super) struct Enum {
    /// Indexed by number.
    pub(super) names: &'static [&'static str],
}

impl Enum {
    pub(super) fn name(&self, number: i32) -> Option<&'static str> {
        self.names.get(usize::try_from(number).ok()?).copied()
    }
}

impl Message {
    /// The field's position and row.
    pub(super) fn field(&self, number: u32) -> Option<(usize, &'static Field)> {
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

/// What an event is about, told by which payload is set.
#[derive(Debug)]
pub struct Kind {
    /// The payload's field in the envelope, which also names it in the rule view: `purchase_complete`.
    pub field: &'static str,
    /// The same in proto3 JSON: `purchaseComplete`.
    pub json_name: &'static str,
    pub number: u32,
    pub category: &'static str,
    /// Empty for a custom event, whose type is its `event_name`.
    pub event_type: &'static str,
    pub(super) message: &'static Message,
}

impl Kind {
    pub fn all() -> &'static [Kind] {
        &KINDS
    }

    pub fn by_number(number: u32) -> Option<&'static Kind> {
        position_of_number(number).map(|position| &KINDS[position])
    }

    pub fn of(payload: &Payload) -> &'static Kind {
        &KINDS[position(payload)]
    }

    /// True for the kind whose type is a name that the sender chose.
    pub fn is_custom(&self) -> bool {
        self.event_type.is_empty()
    }
}

include!(concat!(env!("OUT_DIR"), "/tables.rs"));
