//! The rule view of an event as a tree that borrows from the event's bytes: what `json_view` writes, without the text.
//!
//! Invariant: it equals the JSON view, member by member. The members of an object are sorted by name, and no name
//! occurs twice. Like `json_view`, reads only bytes that [`EventRef::decode`] has checked.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

use serde::Serialize;
use serde_json::{Map, Number};

use super::event_ref::EventRef;
use super::json_view::{EXACT_MAX, last_values};
use crate::event::codec::wire::{Reader, Value, last_field, map_entry, text};
use crate::event::schema::tables::{DEVICE_CONTEXT, FIELDS_MAX, Field, Message, Shape, messages};

/// The positions of each message's fields in the order of their names, by the message's name.
static BY_NAME: LazyLock<HashMap<&str, Box<[usize]>>> = LazyLock::new(|| {
    let by_name = |message: &&'static Message| {
        let mut positions: Box<[usize]> = (0..message.fields.len()).collect();
        positions.sort_by_key(|position| message.fields[*position].name);
        (message.name, positions)
    };
    messages().iter().map(by_name).collect()
});
/// A float represents every integer up to this one exactly.
const FLOAT_EXACT_MAX: f64 = 16_777_216.0;

/// A value of the rule view.
#[derive(Clone, Debug, PartialEq)]
pub enum ViewValue<'e> {
    Null,
    Bool(bool),
    Int(i64),
    /// Beyond the range of [`Self::Int`]. No event has one; the documents of rules may.
    Uint(u64),
    Double(f64),
    Text(Cow<'e, str>),
    List(Vec<ViewValue<'e>>),
    Object(ViewObject<'e>),
}

/// The members of an object, in the order of their names.
#[derive(Clone, Debug, PartialEq)]
pub struct ViewObject<'e>(Vec<Member<'e>>);

type Member<'e> = (Cow<'e, str>, ViewValue<'e>);

impl<'e> ViewObject<'e> {
    /// Of several members with one name the last counts.
    fn sorted(mut members: Vec<Member<'e>>) -> Self {
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        members.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self(members)
    }

    pub fn get(&self, name: &str) -> Option<&ViewValue<'e>> {
        // Among a few names, most of which differ in length, a search from the front is faster.
        if self.0.len() <= FIELDS_MAX {
            return self.0.iter().find(|(member, _)| **member == *name).map(|(_, value)| value);
        }
        let position = self.0.binary_search_by(|(member, _)| (**member).cmp(name)).ok()?;
        Some(&self.0[position].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &ViewValue<'e>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl ViewValue<'_> {
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(*value),
            Self::Int(integer) => Json::from(*integer),
            Self::Uint(integer) => Json::from(*integer),
            Self::Double(double) => Number::from_f64(*double).map_or(Json::Null, Json::Number),
            Self::Text(text) => Json::from(&**text),
            Self::List(elements) => elements.iter().map(Self::to_json).collect(),
            Self::Object(members) => {
                Json::Object(members.iter().map(|(name, value)| (name.to_owned(), value.to_json())).collect())
            }
        }
    }
}

impl From<serde_json::Value> for ViewValue<'static> {
    fn from(json: serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(integer), _) => Self::Int(integer),
                (None, Some(integer)) => Self::Uint(integer),
                (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Self::Text(text.into()),
            Json::Array(elements) => Self::List(elements.into_iter().map(Self::from).collect()),
            Json::Object(members) => object_of(members),
        }
    }
}

fn object_of(members: Map<String, serde_json::Value>) -> ViewValue<'static> {
    let members = members.into_iter().map(|(name, value)| (name.into(), value.into()));
    ViewValue::Object(ViewObject::sorted(members.collect()))
}

impl<'e> EventRef<'e> {
    /// The rule view.
    pub fn rule_view(&self) -> ViewValue<'e> {
        let string = |text| ViewValue::Text(Cow::Borrowed(text));
        let own = [
            ("app_id", Some(string(self.app_id))),
            ("correlation_id", Some(string(self.correlation_id))),
            ("device_context", self.device_bytes.map(|bytes| message(&DEVICE_CONTEXT, bytes))),
            ("device_id", Some(string(self.device_id))),
            ("id", Some(string(self.id))),
            ("idempotency_key", Some(string(self.idempotency_key))),
            ("session_id", Some(string(self.session_id))),
            ("timestamp_ms", Some(ViewValue::Int(self.timestamp_ms))),
            ("user_id", Some(string(self.user_id))),
        ];
        let mut members: Vec<Member<'e>> = Vec::with_capacity(own.len() + 1);
        members.extend(own.into_iter().filter_map(|(name, value)| Some((Cow::Borrowed(name), value?))));
        let payload = (Cow::Borrowed(self.kind.field), message(self.kind.message, self.payload));
        members.insert(members.partition_point(|(name, _)| **name < *self.kind.field), payload);
        ViewValue::Object(ViewObject(members))
    }
}

fn message<'e>(message: &'static Message, bytes: &'e [u8]) -> ViewValue<'e> {
    let last = last_values(message, bytes);
    let mut members = Vec::with_capacity(message.fields.len());
    for position in BY_NAME.get(message.name).into_iter().flatten() {
        let (field, value) = (&message.fields[*position], last[*position]);
        if field.is_absent(value) {
            continue;
        }
        let value = match (&field.shape, value) {
            (Shape::List(element), Some(_)) => list(element, bytes),
            (Shape::Map(entry), Some(_)) => map(field.number, entry, bytes),
            (shape, value) => value_of(shape, value),
        };
        members.push((Cow::Borrowed(field.name), value));
    }
    ViewValue::Object(ViewObject(members))
}

fn value_of<'e>(shape: &'static Shape, value: Option<Value<'e>>) -> ViewValue<'e> {
    match (shape, value) {
        (Shape::String, Some(Value::Bytes(bytes))) => string(bytes),
        (Shape::String, _) => string(&[]),
        (Shape::Bool, value) => ViewValue::Bool(matches!(value, Some(Value::Varint(1..)))),
        (Shape::Int32, Some(Value::Varint(number))) => ViewValue::Int(i64::from(number as i32)),
        (Shape::Int64, Some(Value::Varint(number))) => ViewValue::Int(number as i64),
        (Shape::Int32 | Shape::Int64, _) => ViewValue::Int(0),
        (Shape::Enum(names), value) => {
            let number = if let Some(Value::Varint(number)) = value { number as i32 } else { 0 };
            match names.name(number) {
                Some(name) => ViewValue::Text(Cow::Borrowed(name)),
                None => ViewValue::Int(i64::from(number)),
            }
        }
        (Shape::Float, Some(Value::Fixed32(bits))) => float(f32::from_bits(bits), FLOAT_EXACT_MAX),
        (Shape::Double, Some(Value::Fixed64(bits))) => float(f64::from_bits(bits), EXACT_MAX),
        (Shape::Float | Shape::Double, _) => ViewValue::Double(0.0),
        (Shape::Message(inner) | Shape::Payload(inner), Some(Value::Bytes(bytes))) => message(inner, bytes),
        (Shape::Struct, Some(Value::Bytes(bytes))) => structure(bytes),
        (Shape::Message(_) | Shape::Payload(_) | Shape::Struct, _) => ViewValue::Null,
        (Shape::List(_), _) => ViewValue::List(Vec::new()),
        (Shape::Map(_), _) => ViewValue::Object(ViewObject(Vec::new())),
    }
}

fn list<'e>(element: &'static Field, bytes: &'e [u8]) -> ViewValue<'e> {
    let mut elements = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if number == element.number {
            elements.push(value_of(&element.shape, Some(value)));
        }
    }
    ViewValue::List(elements)
}

fn map<'e>(number_of_map: u32, entry: &'static Field, bytes: &'e [u8]) -> ViewValue<'e> {
    entries(number_of_map, bytes, |value| value_of(&entry.shape, value))
}

/// A `google.protobuf.Struct`.
fn structure(bytes: &[u8]) -> ViewValue<'_> {
    entries(1, bytes, any)
}

fn entries<'e>(
    number_of_map: u32,
    bytes: &'e [u8],
    value_of: impl Fn(Option<Value<'e>>) -> ViewValue<'e>,
) -> ViewValue<'e> {
    let mut members = Vec::new();
    let mut reader = Reader::new(bytes);
    while let Ok(Some((number, value))) = reader.next() {
        if let (true, Value::Bytes(bytes)) = (number == number_of_map, value) {
            let (key, value) = map_entry(bytes);
            members.push((text(key).unwrap_or_default().into(), value_of(value)));
        }
    }
    ViewValue::Object(ViewObject::sorted(members))
}

/// A `google.protobuf.Value`.
fn any(value: Option<Value<'_>>) -> ViewValue<'_> {
    match last_field(value) {
        Some((2, Value::Fixed64(bits))) => match f64::from_bits(bits) {
            number if number.fract() == 0.0 && number.abs() <= EXACT_MAX => ViewValue::Int(number as i64),
            number => float(number, EXACT_MAX),
        },
        Some((3, Value::Bytes(bytes))) => string(bytes),
        Some((4, Value::Varint(number))) => ViewValue::Bool(number != 0),
        Some((5, Value::Bytes(bytes))) => structure(bytes),
        Some((6, Value::Bytes(bytes))) => {
            let mut elements = Vec::new();
            let mut reader = Reader::new(bytes);
            while let Ok(Some((number, value))) = reader.next() {
                if number == 1 {
                    elements.push(any(Some(value)));
                }
            }
            ViewValue::List(elements)
        }
        _ => ViewValue::Null,
    }
}

fn string(bytes: &[u8]) -> ViewValue<'_> {
    ViewValue::Text(Cow::Borrowed(text(bytes).unwrap_or_default()))
}

/// Reads the number from its JSON text unless that is exact anyway: the numbers of rules are read from text too, so
/// equal digits are equal numbers. Null for NaN and infinities.
fn float(number: impl Copy + Into<f64> + Serialize, exact_max: f64) -> ViewValue<'static> {
    let double = number.into();
    if double.fract() == 0.0 && double.abs() <= exact_max {
        return ViewValue::Double(double);
    }
    let json = serde_json::to_vec(&number).unwrap_or_default();
    serde_json::from_slice(&json).map_or(ViewValue::Null, ViewValue::Double)
}
