//! The shape of the rule view, for the checks of rules and conditions that people write, and of every message, for
//! documentation.
//!
//! Invariant: it reads the same tables that check and write events, so it cannot disagree with them.

use super::tables::{self, DEVICE_CONTEXT, Field, Kind, Message, Rules, Shape};

/// The type of one place in the rule view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewType {
    /// The whole event.
    Event,
    String,
    Bool,
    /// A 32-bit or 64-bit integer.
    Int {
        min: i64,
        max: i64,
    },
    Double,
    /// One of these names. A newer client may send a number that has no name; the view then has that number.
    Enum(&'static [&'static str]),
    Message(ViewMessage),
    /// Any JSON object.
    Struct,
    List(ViewElement),
    /// An object whose keys the sender chooses, with one type of value.
    Map(ViewElement),
}

/// A message's fields.
#[derive(Clone, Copy, Debug)]
pub struct ViewMessage(&'static Message);

/// The elements of a list, or the values of a map.
#[derive(Clone, Copy, Debug)]
pub struct ViewElement(&'static Field);

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub struct ViewField(&'static Field);

/// The envelope's own fields, except the device context and the payload.
const OWN: [(&str, ViewType); 8] = [
    ("id", ViewType::String),
    ("app_id", ViewType::String),
    ("device_id", ViewType::String),
    ("timestamp_ms", ViewType::INT64),
    ("correlation_id", ViewType::String),
    ("idempotency_key", ViewType::String),
    ("user_id", ViewType::String),
    ("session_id", ViewType::String),
];
const DEVICE: &str = "device_context";

impl PartialEq for ViewMessage {
    fn eq(&self, other: &Self) -> bool {
        // Each message has exactly one table.
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ViewMessage {}

impl PartialEq for ViewElement {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for ViewElement {}

impl ViewType {
    const INT64: Self = Self::Int { min: i64::MIN, max: i64::MAX };

    /// The field with that name. `None` if there is no such field, or this type has no named fields.
    pub fn field(self, name: &str) -> Option<Self> {
        match self {
            Self::Event if name == DEVICE => Some(Self::Message(ViewMessage(&DEVICE_CONTEXT))),
            Self::Event => {
                let own = OWN.iter().find(|(own, _)| *own == name).map(|(_, holds)| *holds);
                own.or_else(|| payload(name).map(|kind| Self::Message(ViewMessage(kind.message))))
            }
            Self::Message(ViewMessage(message)) => {
                message.fields.iter().find(|field| field.name == name).map(|field| Self::of(&field.shape))
            }
            _ => None,
        }
    }

    /// Names of its fields; empty for a type without named fields.
    pub fn fields(self) -> Vec<&'static str> {
        match self {
            Self::Event => {
                let own = OWN.iter().map(|(name, _)| *name);
                own.chain([DEVICE]).chain(Kind::all().iter().map(|kind| kind.field)).collect()
            }
            Self::Message(ViewMessage(message)) => message.fields.iter().map(|field| field.name).collect(),
            _ => Vec::new(),
        }
    }

    fn of(shape: &'static Shape) -> Self {
        match shape {
            Shape::String => Self::String,
            Shape::Bool => Self::Bool,
            Shape::Int32 => Self::Int { min: i32::MIN as i64, max: i32::MAX as i64 },
            Shape::Int64 => Self::INT64,
            Shape::Float | Shape::Double => Self::Double,
            Shape::Enum(names) => Self::Enum(names.names),
            Shape::Message(message) | Shape::Payload(message) => Self::Message(ViewMessage(message)),
            Shape::Struct => Self::Struct,
            Shape::List(element) => Self::List(ViewElement(element)),
            Shape::Map(value) => Self::Map(ViewElement(value)),
        }
    }
}

impl ViewMessage {
    /// `ScreenView`, as the proto files name it.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// In the order of their field numbers.
    pub fn fields(self) -> impl Iterator<Item = ViewField> {
        self.0.fields.iter().map(ViewField)
    }
}

impl ViewField {
    pub fn number(self) -> u32 {
        self.0.number
    }

    /// `screen_name`
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// `screenName`
    pub fn json_name(self) -> &'static str {
        self.0.json_name
    }

    pub fn view_type(self) -> ViewType {
        ViewType::of(&self.0.shape)
    }

    /// A payload: an event has exactly one of these messages.
    pub fn is_payload(self) -> bool {
        matches!(self.0.shape, Shape::Payload(_))
    }

    /// Constraints on the field.
    pub fn rules(self) -> &'static Rules {
        self.0.rules
    }
}

impl ViewElement {
    pub fn view_type(self) -> ViewType {
        ViewType::of(&self.0.shape)
    }

    /// Constraints on each element, or on the value of each entry.
    pub fn rules(self) -> &'static Rules {
        self.0.rules
    }
}

/// Every message of `proto/`: events, requests and replies.
pub fn messages() -> impl Iterator<Item = ViewMessage> {
    tables::messages().iter().copied().map(ViewMessage)
}

/// The kind whose payload has this name in the rule view.
pub fn payload(field: &str) -> Option<&'static Kind> {
    Kind::all().iter().find(|kind| kind.field == field)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::Value;

    use super::*;
    use crate::event::EventRef;
    use crate::event::samples;

    /// Every field of a view is described, with the right type.
    #[test]
    fn every_field_of_a_view_is_described() {
        let mut checked = 0;
        for (position, seed) in (0..Kind::all().len()).flat_map(|position| (0..8u8).map(move |seed| (position, seed))) {
            let event = samples::event(position, [seed; 32]).encode_to_vec();
            let view = EventRef::decode(&event).unwrap().view();
            fits(&view, ViewType::Event, "$", &mut checked);
        }
        assert!(checked > 1_000, "{checked}");
    }

    fn fits(value: &Value, holds: ViewType, at: &str, checked: &mut usize) {
        *checked += 1;
        let good = match (holds, value) {
            (ViewType::Event | ViewType::Message(_), Value::Object(members)) => {
                for (name, member) in members {
                    let field = holds.field(name).unwrap_or_else(|| panic!("{at}.{name} is not described"));
                    assert!(holds.fields().contains(&name.as_str()), "{at}.{name}");
                    fits(member, field, &format!("{at}.{name}"), checked);
                }
                true
            }
            (ViewType::Enum(names), Value::String(name)) => names.contains(&name.as_str()),
            (ViewType::List(element), Value::Array(elements)) => {
                elements.iter().for_each(|value| fits(value, element.view_type(), at, checked));
                true
            }
            (ViewType::Map(element), Value::Object(members)) => {
                members.values().for_each(|value| fits(value, element.view_type(), at, checked));
                true
            }
            (ViewType::String, Value::String(_))
            | (ViewType::Bool, Value::Bool(_))
            | (ViewType::Struct, Value::Object(_))
            // A message that the sender left out.
            | (ViewType::Message(_) | ViewType::Struct, Value::Null) => true,
            (ViewType::Int { min, max }, Value::Number(number)) => {
                number.as_i64().is_some_and(|number| (min..=max).contains(&number))
            }
            (ViewType::Double, Value::Number(number)) => number.is_f64(),
            _ => false,
        };
        assert!(good, "{at}: {value} is not {holds:?}");
    }
}
