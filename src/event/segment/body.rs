//! What a request of Segment's API holds: one message, or a batch of them.
//!
//! Messages of a batch are read one after another: as values they take many times their text. Their number is bounded
//! while they are found, not afterwards.

use std::borrow::Cow;
use std::vec::IntoIter;

use super::batch::BatchFields;
use super::json::{Object, Value};
use super::mend::{Mended, mend};
use super::message::{Call, Keep, Surroundings, event_of};
use crate::event::FieldError;
use crate::event::codec::json_text::{JsonText, Token};
use crate::event::intake::admit::Arrival;
use crate::event::intake::request::{Accepted, Refused, json_text, place_in};

/// Of one message: what Segment takes.
pub const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Of a batch: what Segment takes.
pub const MESSAGES_MAX: usize = 2_500;
/// Of what a batch says of all its messages: each repeats it.
const AROUND_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// What the events that are held at once have together, but for the last of them.
const PORTION_BYTES_MAX: usize = 2 << 20;

/// A request's messages, and what it says of all of them.
#[derive(Debug, Default)]
pub struct Body<'a> {
    messages: Messages<'a>,
    write_key: Option<Cow<'a, str>>,
    around: BatchFields<'a>,
    exported: bool,
}

#[derive(Debug)]
enum Messages<'a> {
    /// Its text; it was read to find its write key, if it could be.
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
                // What can be passed over is JSON all the same.
                json.skip()?;
                json.end()?;
                let mended = mend(text);
                let message = read_mended(&mended).ok_or_else(|| not("an object"))?;
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
        let (mut body, mut messages, mut around_bytes, mut first) = (Self::default(), None, 0, true);
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
            around_bytes += name.len() + value.len();
            if around_bytes <= AROUND_BYTES_MAX {
                body.around.add(&String::from_utf8_lossy(&name), value);
            }
        }
        json.end()?;
        body.messages = Messages::Many(messages.ok_or_else(no_batch)?.into_iter());
        if around_bytes > AROUND_BYTES_MAX {
            let detail = format!("The body has more than {AROUND_BYTES_MAX} bytes beside its messages.");
            return Err(Refused::new(detail));
        }
        Ok(body)
    }

    /// The messages that have no verdict yet.
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

    /// What a batch says of all its messages.
    pub fn batch_fields(&self) -> &BatchFields<'a> {
        &self.around
    }

    /// Says that Segment took the message in before: its size is no matter any more, and its time was corrected.
    pub fn exported(self) -> Self {
        Self { exported: true, ..self }
    }

    /// Says what a batch said that this message was a part of.
    pub fn with_batch_fields(self, around: BatchFields<'a>) -> Self {
        Self { around, ..self }
    }

    /// The next messages, at most so many, each judged alone; together they are not much larger than a portion. `call` is
    /// what the path says that a message is; `app` is theirs where no API key says which. `text` is what the body was read
    /// from.
    pub fn next(
        &mut self,
        messages_max: usize,
        text: &[u8],
        call: Option<Call>,
        app: &str,
        arrival: &Arrival<'_>,
    ) -> Accepted {
        let (received_at_ms, exported) = (arrival.received_at_ms, self.exported);
        let around = Surroundings { batch: &self.around, received_at_ms, app, exported };
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
            judge(&mut accepted, own, message, call, &around, arrival);
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

fn read_mended(mended: &Mended) -> Option<Object<'_>> {
    match Value::read(&mended.text) {
        Some(Value::Object(message)) => Some(message),
        Some(_) | None => None,
    }
}

/// Judges a message, which was read already or is to be read.
fn judge<'a>(
    accepted: &mut Accepted,
    text: &'a str,
    message: Option<Object<'a>>,
    call: Option<Call>,
    around: &Surroundings<'a>,
    arrival: &Arrival<'_>,
) {
    if text.len() > MESSAGE_BYTES_MAX && !around.exported {
        return accepted.add_refused(vec![too_large()]);
    }
    let message = match message {
        Some(message) => Some(Value::Object(message)),
        None => Value::read(text),
    };
    let event = match message {
        Some(Value::Object(message)) => event_of(call, message, text, Keep::Members, around),
        Some(_) => Err(FieldError::new("", "must be an object")),
        None => return judge_mended(accepted, text, Keep::Members, call, around, arrival),
    };
    match event {
        Ok(event) => accepted.add_encoded(&event.bytes, event.unchecked, arrival, rename),
        Err(error) => return accepted.add_refused(vec![error]),
    }
    // A value that an event cannot have is no reason to refuse its message.
    if let Some(errors) = accepted.take_refused() {
        if errors.iter().any(is_of_message) {
            return accepted.add_refused(errors);
        }
        judge_mended(accepted, text, Keep::Text, call, around, arrival);
    }
}

/// The same of one that cannot be read as it is, or not be kept so.
#[cold]
fn judge_mended(
    accepted: &mut Accepted,
    text: &str,
    keep: Keep,
    call: Option<Call>,
    around: &Surroundings<'_>,
    arrival: &Arrival<'_>,
) {
    let mended = mend(text);
    let Some(message) = read_mended(&mended) else {
        return accepted.add_refused(vec![FieldError::new("", "must be an object")]);
    };
    let keep = if keep == Keep::Members && mended.lossy { Keep::MembersAndText } else { keep };
    match event_of(call, message, text, keep, around) {
        Ok(event) => accepted.add_encoded(&event.bytes, event.unchecked, arrival, rename),
        Err(error) => accepted.add_refused(vec![error]),
    }
}

/// Whether it is about the message as a whole: what it belongs to, whose it is, or how large it is.
fn is_of_message(error: &FieldError) -> bool {
    ["", "/writeKey", "/anonymousId"].contains(&error.pointer.as_str())
}

/// Where the sender finds what is wrong with the event that was made of its message.
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

/// Of the whole body, but for a byte order mark.
fn reader(text: &str) -> JsonText<'_> {
    let mut json = JsonText::new(text);
    json.skip_mark();
    json
}

/// The texts of the messages in the array that is next.
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
