//! What a request of Segment's API holds: one message, or a batch of them.
//!
//! Messages of a batch are read one after another: as values they take many times their text. Their number is bounded
//! while they are found, not afterwards.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{Object, Value};
use super::message::{Call, Surroundings, event_of};
use crate::event::FieldError;
use crate::event::accept::Arrival;
use crate::event::request::{Accepted, Refused, place_in};

/// Of one message: what Segment takes.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;

/// A request's messages, and what it says of all of them.
#[derive(Debug, Default)]
pub struct Body<'a> {
    messages: Messages<'a>,
    write_key: Option<Value<'a>>,
    around: Around<'a>,
}

/// What a batch says of all its messages.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Around<'a> {
    sent_at: Option<Value<'a>>,
    context: Option<Object<'a>>,
    integrations: Option<Value<'a>>,
}

impl<'a> Around<'a> {
    /// Its members by name, as JSON.
    pub fn texts(&self) -> Vec<(&'static str, String)> {
        let text = |value: Option<Result<String, serde_json::Error>>| value.and_then(Result::ok);
        [
            ("sentAt", text(self.sent_at.as_ref().map(serde_json::to_string))),
            ("context", text(self.context.as_ref().map(serde_json::to_string))),
            ("integrations", text(self.integrations.as_ref().map(serde_json::to_string))),
        ]
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
        .collect()
    }

    /// What [`Self::texts`] gave, found by name.
    pub fn read(text: impl Fn(&str) -> Option<&'a str>) -> Self {
        Self {
            sent_at: text("sentAt").and_then(|text| serde_json::from_str(text).ok()),
            context: text("context").and_then(|text| serde_json::from_str(text).ok()),
            integrations: text("integrations").and_then(|text| serde_json::from_str(text).ok()),
        }
    }
}

#[derive(Debug)]
enum Messages<'a> {
    /// It was read to find its write key.
    One(Message<'a>),
    Many(Vec<&'a RawValue>),
}

impl Default for Messages<'_> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

/// The text of a message, and what it is or what is wrong with it.
type Message<'a> = (&'a str, Result<Object<'a>, FieldError>);

impl<'a> Body<'a> {
    pub fn of_message(text: &'a [u8]) -> Result<Self, Refused> {
        let text = std::str::from_utf8(without_mark(text))
            .map_err(|error| Refused::new(format!("The body is not UTF-8 at byte {}.", error.valid_up_to())))?;
        let message = match serde_json::from_str(text) {
            Ok(Value::Object(_)) if text.len() > MESSAGE_BYTES_MAX => Err(too_large()),
            Ok(Value::Object(message)) => Ok(message),
            Ok(_) => return Err(not("an object")),
            // What can be passed over is JSON all the same.
            Err(error) => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Err(too_deep()),
                Err(_) => return Err(not_json(&error)),
            },
        };
        let write_key = message.as_ref().ok().and_then(|message: &Object<'a>| message.get("writeKey").cloned());
        Ok(Self { messages: Messages::One((text, message)), write_key, ..Self::default() })
    }

    pub fn of_batch(text: &'a [u8], messages_max: usize) -> Result<Self, Refused> {
        let read = BatchOf { messages_max, too_many: Cell::new(false) };
        let mut json = serde_json::Deserializer::from_slice(without_mark(text));
        let body = (&read).deserialize(&mut json).and_then(|body| json.end().map(|()| body));
        body.map_err(|error| match () {
            () if read.too_many.get() => {
                let detail = format!("must have at most {messages_max} messages");
                Refused::invalid(FieldError::new("/batch", detail))
            }
            () if error.is_data() => not("an object with the array batch"),
            () => not_json(&error),
        })
    }

    pub fn len(&self) -> usize {
        match &self.messages {
            Messages::One(_) => 1,
            Messages::Many(texts) => texts.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn write_key(&self) -> Option<&str> {
        self.write_key.as_ref()?.as_str()
    }

    /// What a batch says of all its messages.
    pub fn around(&self) -> &Around<'a> {
        &self.around
    }

    /// Says what a batch said that this message was a part of.
    pub fn with_around(self, around: Around<'a>) -> Self {
        Self { around, ..self }
    }

    /// Its messages, each judged alone. `call` is what the path says that a message is; `app` is theirs where no API key
    /// says which. `text` is what the body was read from.
    pub fn accept(&mut self, text: &[u8], call: Option<Call>, app: &str, arrival: &Arrival<'_>) -> Accepted {
        let (one, many) = match std::mem::take(&mut self.messages) {
            Messages::One(message) => (Some(message), Vec::new()),
            Messages::Many(texts) => (None, texts),
        };
        let around = Surroundings {
            context: self.around.context.as_ref(),
            integrations: self.around.integrations.as_ref(),
            sent_at: self.around.sent_at.as_ref(),
            received_at_ms: arrival.received_at_ms,
            app,
        };
        let mut accepted = Accepted::default();
        for (own, message) in one.into_iter().chain(many.into_iter().map(message_of)) {
            match message.and_then(|message| event_of(call, message, own, &around)) {
                Ok(event) => accepted.add_encoded(&event, arrival, |_| {}),
                Err(error) => accepted.add_refused(vec![error]),
            }
            accepted.set_source(|| place_in(text, own.as_bytes()));
        }
        accepted
    }
}

fn message_of(raw: &RawValue) -> Message<'_> {
    let text = raw.get();
    if text.len() > MESSAGE_BYTES_MAX {
        return (text, Err(too_large()));
    }
    let message = match serde_json::from_str(text) {
        Ok(Value::Object(message)) => Ok(message),
        Ok(_) => Err(FieldError::new("", "must be an object")),
        Err(_) => Err(too_deep()),
    };
    (text, message)
}

fn too_large() -> FieldError {
    FieldError::new("", format!("must have at most {MESSAGE_BYTES_MAX} bytes"))
}

fn too_deep() -> FieldError {
    FieldError::new("", "is nested too deep")
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn not(wanted: &str) -> Refused {
    Refused::new(format!("The body must be {wanted}."))
}

/// Only where: the parser's own words may repeat the input.
fn not_json(error: &serde_json::Error) -> Refused {
    Refused::new(format!("The body is not JSON: line {}, column {}.", error.line(), error.column()))
}

/// Reads a batch of at most so many messages.
struct BatchOf {
    messages_max: usize,
    /// Why reading failed.
    too_many: Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for &BatchOf {
    type Value = Body<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body<'de>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for &BatchOf {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the array batch")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Body<'de>, A::Error> {
        let (mut body, mut found) = (Body::default(), false);
        while let Some(name) = members.next_key::<String>()? {
            match name.as_str() {
                "batch" if found => return Err(A::Error::duplicate_field("batch")),
                "batch" => {
                    found = true;
                    body.messages = Messages::Many(members.next_value_seed(TextsOf(self))?);
                }
                "writeKey" => body.write_key = members.next_value()?,
                "sentAt" => body.around.sent_at = members.next_value()?,
                "context" => body.around.context = members.next_value()?,
                "integrations" => body.around.integrations = members.next_value()?,
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        if found { Ok(body) } else { Err(A::Error::missing_field("batch")) }
    }
}

/// The texts of the messages.
struct TextsOf<'b>(&'b BatchOf);

impl<'de> DeserializeSeed<'de> for TextsOf<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for TextsOf<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of messages")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(text) = elements.next_element()? {
            if texts.len() == self.0.messages_max {
                self.0.too_many.set(true);
                return Err(A::Error::custom("too many messages"));
            }
            texts.push(text);
        }
        Ok(texts)
    }
}
