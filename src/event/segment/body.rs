//! The body of a Segment request: one message, or a batch.
//!
//! Messages of a batch are read one at a time, since their values take many times the size of their text. Their number
//! is checked while they are found, not afterwards.

use std::borrow::Cow;
use std::vec::IntoIter;

use super::batch_fields::BatchFields;
use super::json::{Object, Value};
use super::message::{Call, MessageContext, Representation, event_of};
use super::repair::{Repaired, repair};
use crate::event::FieldError;
use crate::event::codec::json_text::{JsonText, Token};
use crate::event::intake::admit::Arrival;
use crate::event::intake::request::{Accepted, Refused, json_text, place_in};

/// Bytes of one message: Segment's own limit.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Messages of a batch: Segment's own limit.
pub const MESSAGES_MAX: usize = 2_500;
/// Bytes of the fields of a batch besides its messages, which every message repeats.
const BATCH_FIELDS_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Bytes of the events in memory at a time, not counting the last one.
const PORTION_BYTES_MAX: usize = 2 << 20;

/// The messages of a request, and the fields of their batch.
#[derive(Debug, Default)]
pub struct Body<'a> {
    messages: Messages<'a>,
    write_key: Option<Cow<'a, str>>,
    batch_fields: BatchFields<'a>,
    exported: bool,
}

#[derive(Debug)]
enum Messages<'a> {
    /// The text of one message. It has been parsed, if possible, to find its write key.
    One(&'a str, Option<Object<'a>>),
    Many(IntoIter<&'a str>),
}

impl Default for Messages<'_> {
    fn default() -> Self {
        Self::Many(Vec::new().into_iter())
    }
}

impl<'a> Body<'a> {
    pub fn of_message(text: &'a [u8]) -> Result<Self, Refused> {
        let whole = json_text(text)?;
        let mut json = reader(whole);
        let text = &whole[json.position()..];
        let (message, write_key) = match Value::read(text) {
            Some(Value::Object(message)) => {
                let write_key = write_key_of(message.get("writeKey"));
                (Some(message), write_key)
            }
            Some(_) => return Err(not("an object")),
            None => {
                // Skipping it checks that it is JSON nevertheless.
                json.skip()?;
                json.end()?;
                let repaired = repair(text);
                let message = read_repaired(&repaired).ok_or_else(|| not("an object"))?;
                (None, write_key_of(message.get("writeKey")).map(|key| key.into_owned().into()))
            }
        };
        Ok(Self { messages: Messages::One(text, message), write_key, ..Self::default() })
    }

    pub fn of_batch(text: &'a [u8]) -> Result<Self, Refused> {
        let no_batch = || not("an object with the array batch");
        let mut json = reader(json_text(text)?);
        if json.peek()? != Token::Object {
            return Err(no_batch());
        }
        json.enter();
        let (mut body, mut messages, mut fields_bytes, mut first) = (Self::default(), None, 0, true);
        while let Some(name) = json.member(first)? {
            first = false;
            let name = name.plain();
            if *name == *b"batch" {
                if messages.is_some() || json.peek()? != Token::Array {
                    return Err(no_batch());
                }
                messages = Some(texts(&mut json)?);
                continue;
            }
            let value = json.value_text()?;
            if *name == *b"writeKey" {
                body.write_key = Value::read(value).and_then(|value| write_key_of(Some(&value)));
                continue;
            }
            fields_bytes += name.len() + value.len();
            if fields_bytes <= BATCH_FIELDS_BYTES_MAX {
                body.batch_fields.add(&String::from_utf8_lossy(&name), value);
            }
        }
        json.end()?;
        body.messages = Messages::Many(messages.ok_or_else(no_batch)?.into_iter());
        if fields_bytes > BATCH_FIELDS_BYTES_MAX {
            let detail = format!("The body has more than {BATCH_FIELDS_BYTES_MAX} bytes beside its messages.");
            return Err(Refused::new(detail));
        }
        Ok(body)
    }

    /// The number of messages without an outcome yet.
    pub fn len(&self) -> usize {
        match &self.messages {
            Messages::One(..) => 1,
            Messages::Many(texts) => texts.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn write_key(&self) -> Option<&str> {
        self.write_key.as_deref()
    }

    /// The fields of the batch, which apply to all its messages.
    pub fn batch_fields(&self) -> &BatchFields<'a> {
        &self.batch_fields
    }

    /// Marks a message as exported from Segment: it has no size limit, and its time is already corrected.
    pub fn exported(self) -> Self {
        Self { exported: true, ..self }
    }

    /// Sets the fields of the batch that this message was a part of.
    pub fn with_batch_fields(self, batch_fields: BatchFields<'a>) -> Self {
        Self { batch_fields, ..self }
    }

    /// Converts and validates the next messages, at most `messages_max`, each on its own. Together they are not much
    /// larger than a portion. `call` is the kind that the path names, `app` is the app if no API key determines it, and
    /// `text` is the body that the messages were read from.
    pub fn next(
        &mut self,
        messages_max: usize,
        text: &[u8],
        call: Option<Call>,
        app: &str,
        arrival: &Arrival<'_>,
    ) -> Accepted {
        let (received_at_ms, exported) = (arrival.received_at_ms, self.exported);
        let context = MessageContext { batch: &self.batch_fields, received_at_ms, app, exported };
        let mut accepted = Accepted::default();
        while accepted.len() < messages_max && accepted.bytes_len() < PORTION_BYTES_MAX {
            let (own, message) = match &mut self.messages {
                Messages::One(text, message) => {
                    let one = (*text, message.take());
                    self.messages = Messages::default();
                    one
                }
                Messages::Many(texts) => match texts.next() {
                    Some(text) => (text, None),
                    None => break,
                },
            };
            accept_message(&mut accepted, own, message, call, &context, arrival);
            accepted.set_source(|| place_in(text, own.as_bytes()));
        }
        accepted
    }
}

fn write_key_of<'a>(value: Option<&Value<'a>>) -> Option<Cow<'a, str>> {
    match value {
        Some(Value::String(key)) => Some(key.clone()),
        _ => None,
    }
}

fn read_repaired(repaired: &Repaired) -> Option<Object<'_>> {
    match Value::read(&repaired.text) {
        Some(Value::Object(message)) => Some(message),
        Some(_) | None => None,
    }
}

/// Converts and validates a message, which may have been parsed already.
fn accept_message<'a>(
    accepted: &mut Accepted,
    text: &'a str,
    message: Option<Object<'a>>,
    call: Option<Call>,
    context: &MessageContext<'a>,
    arrival: &Arrival<'_>,
) {
    if text.len() > MESSAGE_BYTES_MAX && !context.exported {
        return accepted.add_refused(vec![too_large()]);
    }
    let message = match message {
        Some(message) => Some(Value::Object(message)),
        None => Value::read(text),
    };
    let event = match message {
        Some(Value::Object(message)) => event_of(call, message, text, Representation::Members, context),
        Some(_) => Err(FieldError::new("", "must be an object")),
        None => return accept_repaired(accepted, text, Representation::Members, call, context, arrival),
    };
    match event {
        Ok(event) => accepted.add_encoded(&event.bytes, event.unchecked, arrival, rename),
        Err(error) => return accepted.add_refused(vec![error]),
    }
    // A value that an event cannot represent is no reason to refuse the message.
    if let Some(errors) = accepted.take_refused() {
        if errors.iter().any(is_of_message) {
            return accepted.add_refused(errors);
        }
        accept_repaired(accepted, text, Representation::Text, call, context, arrival);
    }
}

/// Like `accept_message`, for a message that cannot be parsed or represented as it is.
#[cold]
fn accept_repaired(
    accepted: &mut Accepted,
    text: &str,
    representation: Representation,
    call: Option<Call>,
    context: &MessageContext<'_>,
    arrival: &Arrival<'_>,
) {
    let repaired = repair(text);
    let Some(message) = read_repaired(&repaired) else {
        return accepted.add_refused(vec![FieldError::new("", "must be an object")]);
    };
    let representation = if representation == Representation::Members && repaired.lossy {
        Representation::MembersAndText
    } else {
        representation
    };
    match event_of(call, message, text, representation, context) {
        Ok(event) => accepted.add_encoded(&event.bytes, event.unchecked, arrival, rename),
        Err(error) => accepted.add_refused(vec![error]),
    }
}

/// Whether the error concerns the message as a whole: its app, its identity or its size.
fn is_of_message(error: &FieldError) -> bool {
    ["", "/writeKey", "/anonymousId"].contains(&error.pointer.as_str())
}

/// Translates the pointer of an error to the message.
fn rename(error: &mut FieldError) {
    error.rename(&[
        ("/appId", "/writeKey"),
        ("/deviceId", "/anonymousId"),
        ("/idempotencyKey", "/messageId"),
        ("/timestampMs", "/timestamp"),
        ("/sessionId", "/context/sessionId"),
        ("/deviceContext", "/context"),
        ("/customEvent/eventName", "/event"),
        ("/customEvent/properties", "/properties"),
    ]);
}

fn too_large() -> FieldError {
    FieldError::new("", format!("must have at most {MESSAGE_BYTES_MAX} bytes"))
}

fn not(wanted: &str) -> Refused {
    Refused::new(format!("The body must be {wanted}."))
}

/// A tokenizer for the body, after any byte order mark.
fn reader(text: &str) -> JsonText<'_> {
    let mut json = JsonText::new(text);
    json.skip_mark();
    json
}

/// The texts of the messages in the array that is the next value.
fn texts<'a>(json: &mut JsonText<'a>) -> Result<Vec<&'a str>, Refused> {
    json.enter();
    let mut texts = Vec::new();
    while json.element(texts.is_empty())? {
        if texts.len() == MESSAGES_MAX {
            let detail = format!("must have at most {MESSAGES_MAX} messages");
            return Err(Refused::invalid(FieldError::new("/batch", detail)));
        }
        texts.push(json.value_text()?);
    }
    Ok(texts)
}
