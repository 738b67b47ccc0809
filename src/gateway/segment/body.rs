//! What a request of Segment's API holds: one message, or a batch of them.
//!
//! Messages of a batch are read one after another: as values they take many times their text. Their number is bounded
//! while they are found, not afterwards.

use std::cell::Cell;
use std::fmt;

use http::StatusCode;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::MESSAGE_BYTES_MAX;
use super::json::{Object, Value};
use crate::event::FieldError;
use crate::http::Problem;

/// A request's messages, and what it says of all of them.
#[derive(Debug, Default)]
pub(super) struct Body<'a> {
    messages: Messages<'a>,
    write_key: Option<Value<'a>>,
    pub(super) sent_at: Option<Value<'a>>,
    pub(super) context: Option<Object<'a>>,
    pub(super) integrations: Option<Value<'a>>,
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

/// A message, with its JSON text, or what is wrong with it.
pub(super) type Message<'a> = Result<(Object<'a>, &'a str), FieldError>;

impl<'a> Body<'a> {
    pub(super) fn of_message(text: &'a [u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(without_mark(text)).map_err(|error| {
            let detail = format!("The body is not UTF-8 at byte {}.", error.valid_up_to());
            Problem::new(StatusCode::BAD_REQUEST, detail)
        })?;
        let message = match serde_json::from_str(text) {
            Ok(Value::Object(message)) => Ok((message, text)),
            Ok(_) => return Err(not("an object")),
            // What can be passed over is JSON all the same.
            Err(error) => match serde_json::from_str::<IgnoredAny>(text) {
                Ok(_) => Err(too_deep()),
                Err(_) => return Err(not_json(&error)),
            },
        };
        let write_key = message.as_ref().ok().and_then(|(message, _)| message.get("writeKey").cloned());
        Ok(Self { messages: Messages::One(message), write_key, ..Self::default() })
    }

    pub(super) fn of_batch(text: &'a [u8], messages_max: usize) -> Result<Self, Problem> {
        let read = BatchOf { messages_max, too_many: Cell::new(false) };
        let mut json = serde_json::Deserializer::from_slice(without_mark(text));
        let body = (&read).deserialize(&mut json).and_then(|body| json.end().map(|()| body));
        body.map_err(|error| match () {
            () if read.too_many.get() => {
                let detail = format!("must have at most {messages_max} messages");
                let problem = Problem::new(StatusCode::BAD_REQUEST, "The request is not valid.");
                problem.with_errors(vec![FieldError::new("/batch", detail)])
            }
            () if error.is_data() => not("an object with the array batch"),
            () => not_json(&error),
        })
    }

    pub(super) fn len(&self) -> usize {
        match &self.messages {
            Messages::One(_) => 1,
            Messages::Many(texts) => texts.len(),
        }
    }

    pub(super) fn write_key(&self) -> Option<&str> {
        self.write_key.as_ref()?.as_str()
    }

    /// Its messages one after another.
    pub(super) fn take_messages(&mut self) -> impl Iterator<Item = Message<'a>> + use<'a> {
        let (one, many) = match std::mem::take(&mut self.messages) {
            Messages::One(message) => (Some(message), Vec::new()),
            Messages::Many(texts) => (None, texts),
        };
        one.into_iter().chain(many.into_iter().map(message_of))
    }
}

fn message_of(raw: &RawValue) -> Message<'_> {
    let text = raw.get();
    if text.len() > MESSAGE_BYTES_MAX {
        return Err(FieldError::new("", format!("must have at most {MESSAGE_BYTES_MAX} bytes")));
    }
    match serde_json::from_str(text) {
        Ok(Value::Object(message)) => Ok((message, text)),
        Ok(_) => Err(FieldError::new("", "must be an object")),
        Err(_) => Err(too_deep()),
    }
}

fn too_deep() -> FieldError {
    FieldError::new("", "is nested too deep")
}

fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

fn not(wanted: &str) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, format!("The body must be {wanted}."))
}

/// Only where: the parser's own words may repeat the input.
fn not_json(error: &serde_json::Error) -> Problem {
    let detail = format!("The body is not JSON: line {}, column {}.", error.line(), error.column());
    Problem::new(StatusCode::BAD_REQUEST, detail)
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
                "sentAt" => body.sent_at = members.next_value()?,
                "context" => body.context = members.next_value()?,
                "integrations" => body.integrations = members.next_value()?,
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
