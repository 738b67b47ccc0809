//! CloudEvents 1.0. Each becomes a custom event; `docs/protocols.md` describes the mapping of attributes.
//!
//! Invariant: an accepted CloudEvent loses nothing. If its data is an object, that becomes `properties`; everything
//! else is their member `cloudevent`.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::codec::decimal;
use super::codec::json_text::{Malformed, Token};
use super::codec::struct_members;
use super::codec::wire::{Reader, Value, map_entry, put_bytes, put_number};
use super::intake::admit::Arrival;
use super::intake::field_error::{FieldError, Path};
use super::intake::json_reader::{DUPLICATE, HALF_A_PAIR, JsonReader};
use super::intake::request::{Accepted, Refused, json_text};
use super::intake::validate::{REQUIRED, Unchecked};
use super::model::ids::{hashed_id, is_id, is_timestamp};
use super::schema::limits::ID_BYTES_MAX;
use super::schema::pattern::has_control;

/// The member of `properties` for everything outside the data.
const OWN: &str = "cloudevent";
const CUSTOM_EVENT: u32 = 900;
const PROPERTIES: u32 = 6;
const VERSION: &str = "1.0";

/// The value of an attribute.
enum Attribute<'a> {
    Text(Cow<'a, str>),
    Number(f64),
    /// A number that a double cannot represent.
    Large(&'a str),
    Bool(bool),
}

impl Attribute<'_> {
    fn timestamp_ms(&self) -> Option<i64> {
        match self {
            Self::Text(text) => text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond),
            Self::Number(_) | Self::Large(_) | Self::Bool(_) => None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Data {
    #[default]
    Absent,
    /// The members of an object.
    Object,
    /// The content of a `google.protobuf.Value`.
    Other,
    /// Bytes in base64.
    Base64,
}

/// One CloudEvent as read.
#[derive(Default)]
struct CloudEvent<'a> {
    attributes: Vec<(Cow<'a, str>, Attribute<'a>)>,
    data: Data,
    /// The data, encoded as `data` says.
    bytes: Vec<u8>,
    errors: Vec<FieldError>,
}

/// One event in the JSON event format (structured mode).
pub fn accept_structured(body: &[u8], arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut reader = json_reader(body)?;
    let event = read(&mut reader)?;
    reader.json.end()?;
    let mut accepted = Accepted::default();
    event.add_to(&mut accepted, arrival);
    accepted.or_refused()
}

/// Events in the JSON batch format, each validated on its own.
pub fn accept_batched(body: &[u8], events_max: usize, arrival: &Arrival<'_>) -> Result<Accepted, Refused> {
    let mut reader = json_reader(body)?;
    if reader.json.peek()? != Token::Array {
        return Err(invalid("", "must be an array"));
    }
    reader.json.enter();
    let mut accepted = Accepted::default();
    while reader.json.element(accepted.is_empty())? {
        if accepted.len() == events_max {
            return Err(invalid("", &format!("must have at most {events_max} events")));
        }
        reader.json.peek()?;
        let from = reader.json.position();
        read(&mut reader)?.add_to(&mut accepted, arrival);
        accepted.set_source(|| from..reader.json.position());
    }
    reader.json.end()?;
    Ok(accepted)
}

/// One event with its attributes in headers (binary mode).
pub fn accept_binary<'a>(
    attributes: impl IntoIterator<Item = (&'a str, Cow<'a, str>)>,
    content_type: Option<&'a str>,
    body: &[u8],
    arrival: &Arrival<'_>,
) -> Result<Accepted, Refused> {
    let mut event = CloudEvent::default();
    for (name, value) in attributes {
        event.set(Cow::Borrowed(name), Attribute::Text(value));
    }
    if let Some(content_type) = content_type {
        event.attributes.retain(|(name, _)| name != "datacontenttype");
        event.set("datacontenttype".into(), Attribute::Text(content_type.into()));
    }
    event.take_data(content_type, body)?;
    let mut accepted = Accepted::default();
    event.add_to(&mut accepted, arrival);
    accepted.or_refused()
}

fn json_reader(body: &[u8]) -> Result<JsonReader<'_>, Refused> {
    let mut reader = JsonReader::new(json_text(body)?);
    reader.exact = true;
    reader.json.skip_mark();
    Ok(reader)
}

fn invalid(pointer: &str, detail: &str) -> Refused {
    let errors = vec![FieldError::new(pointer, detail)];
    Refused { detail: "The request is not valid.".to_owned(), errors }
}

/// Reads the next value as a CloudEvent.
fn read<'a>(reader: &mut JsonReader<'a>) -> Result<CloudEvent<'a>, Malformed> {
    let mut event = CloudEvent::default();
    reader.out.clear();
    if reader.json.peek()? != Token::Object {
        reader.wrong("must be an object", &Path::Root)?;
        event.errors = std::mem::take(&mut reader.errors).into_item_result().err().unwrap_or_default();
        return Ok(event);
    }
    reader.json.enter();
    let mut first = true;
    while let Some(key) = reader.json.member(first)? {
        first = false;
        let at = Path::Field(&Path::Root, key.raw);
        let token = reader.json.peek()?;
        let name = match key.plain() {
            Cow::Borrowed(_) => Cow::Borrowed(key.raw),
            Cow::Owned(name) => Cow::Owned(String::from_utf8_lossy(&name).into_owned()),
        };
        let is_data = matches!(&*name, "data" | "data_base64");
        match token {
            // Null means absent.
            Token::Null => reader.json.word(token)?,
            _ if is_data && event.data != Data::Absent => reader.wrong("must not come beside other data", &at)?,
            _ if name == "data" => {
                event.data = if reader.free_value(&at)? { Data::Object } else { Data::Other };
            }
            Token::String if name == "data_base64" => {
                let text = reader.json.string()?.plain();
                if BASE64.decode(&text).is_err() {
                    event.note("/data_base64", "must be base64");
                }
                event.data = Data::Base64;
                reader.out.extend_from_slice(&text);
            }
            Token::String => {
                let value = match reader.json.string()? {
                    plain if !plain.escaped => Cow::Borrowed(plain.raw),
                    escaped => {
                        let mut text = Vec::with_capacity(escaped.raw.len());
                        if !escaped.unescape(&mut text) {
                            event.note(&at.pointer(), HALF_A_PAIR);
                        }
                        Cow::Owned(String::from_utf8_lossy(&text).into_owned())
                    }
                };
                event.set(name, Attribute::Text(value));
            }
            Token::Number if !is_data => {
                let number = reader.json.number()?;
                let value = match decimal::needs_text(number) {
                    true => Attribute::Large(number),
                    false => Attribute::Number(number.parse().unwrap_or(f64::NAN)),
                };
                event.set(name, value);
            }
            Token::True | Token::False if !is_data => {
                reader.json.word(token)?;
                event.set(name, Attribute::Bool(token == Token::True));
            }
            _ => reader.wrong("must be a string", &at)?,
        }
    }
    event.bytes.clone_from(&reader.out);
    event.errors.extend(std::mem::take(&mut reader.errors).into_item_result().err().unwrap_or_default());
    Ok(event)
}

/// The same as the limit on request headers. Each name is compared with those before it.
const ATTRIBUTES_MAX: usize = 100;
/// Errors reported for one event.
const ATTRIBUTE_ERRORS_MAX: usize = 4;

impl<'a> CloudEvent<'a> {
    fn set(&mut self, name: Cow<'a, str>, value: Attribute<'a>) {
        if self.attributes.iter().any(|(known, _)| *known == name) {
            self.note(&Path::Field(&Path::Root, &name).pointer(), DUPLICATE);
        } else if self.attributes.len() == ATTRIBUTES_MAX {
            self.note("", "must have at most 100 attributes");
        } else {
            self.attributes.push((name, value));
        }
    }

    fn note(&mut self, pointer: &str, detail: &str) {
        if self.errors.len() < ATTRIBUTE_ERRORS_MAX {
            self.errors.push(FieldError::new(pointer, detail));
        }
    }

    fn attribute(&self, name: &str) -> Option<&Attribute<'a>> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The text of an attribute. `None` if it is empty or not text.
    fn text(&self, name: &str) -> Option<&str> {
        match self.attribute(name) {
            Some(Attribute::Text(text)) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    /// Reads the data of the binary mode by its content type: JSON, text or bytes.
    fn take_data(&mut self, content_type: Option<&str>, body: &[u8]) -> Result<(), Refused> {
        if body.is_empty() {
            return Ok(());
        }
        if content_type.is_none_or(is_json) {
            let mut reader = json_reader(body)?;
            let object = reader.free_value(&Path::Field(&Path::Root, "data"))?;
            reader.json.end()?;
            self.data = if object { Data::Object } else { Data::Other };
            self.errors.extend(std::mem::take(&mut reader.errors).into_item_result().err().unwrap_or_default());
            self.bytes = reader.out;
            return Ok(());
        }
        match std::str::from_utf8(body) {
            Ok(text) if content_type.is_some_and(is_text) => {
                self.data = Data::Other;
                put_bytes(&mut self.bytes, 3, text.as_bytes());
            }
            _ => {
                self.data = Data::Base64;
                self.bytes = BASE64.encode(body).into_bytes();
            }
        }
        Ok(())
    }

    /// Validates the event and adds it.
    fn add_to(mut self, accepted: &mut Accepted, arrival: &Arrival<'_>) {
        let time = self.check();
        if !self.errors.is_empty() {
            self.errors.truncate(ATTRIBUTE_ERRORS_MAX);
            return accepted.add_refused(self.errors);
        }
        let device = ["deviceid", "subject", "source"].into_iter().find(|name| self.text(name).is_some());
        let device = device.unwrap_or("source");
        let bytes = self.encode(self.text(device).unwrap_or_default(), time);
        accepted.add_encoded(&bytes, Unchecked::All, arrival, |error| rename(error, device));
    }

    /// Checks the attributes. Returns the time in milliseconds, or 0 without one.
    fn check(&mut self) -> i64 {
        if !self.errors.is_empty() {
            return 0;
        }
        let mut errors = Vec::new();
        for name in ["id", "source", "specversion", "type"] {
            if self.text(name).is_none() {
                errors.push(FieldError::new(format!("/{name}"), REQUIRED));
            }
        }
        if self.text("specversion").is_some_and(|version| version != VERSION) {
            errors.push(FieldError::new("/specversion", "must be 1.0"));
        }
        let mut milliseconds = 0;
        match self.attribute("time") {
            None => {}
            Some(Attribute::Text(text)) if text.is_empty() => {}
            Some(time) => match time.timestamp_ms() {
                // A time outside the range of an event stays in the attribute only.
                Some(time) if is_timestamp(time) => milliseconds = time,
                Some(_) => {}
                None => errors.push(FieldError::new("/time", "must be a time as RFC 3339 has it")),
            },
        }
        self.errors = errors;
        milliseconds
    }

    fn encode(&self, device: &str, time: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(2 * self.bytes.len() + 512);
        let text = |name| self.text(name).unwrap_or_default();
        let key = idempotency_key(text("source"), text("id"));
        let app = text("appid");
        if !app.is_empty() {
            put_bytes(&mut out, 2, app.as_bytes());
        }
        for (number, value) in
            [(3, device), (5, text("correlationid")), (7, &*key), (8, text("userid")), (9, text("sessionid"))]
        {
            // An invalid id stays in its attribute, and the event has its hash.
            match is_id(value) {
                true if value.is_empty() => {}
                true => put_bytes(&mut out, number, value.as_bytes()),
                false => put_bytes(&mut out, number, hashed_id(value).as_bytes()),
            }
        }
        if time != 0 {
            put_number(&mut out, 4, time.cast_unsigned());
        }
        let mut payload = Vec::with_capacity(self.bytes.len() + 256);
        put_bytes(&mut payload, 1, text("type").as_bytes());
        put_bytes(&mut payload, PROPERTIES, &self.properties());
        put_bytes(&mut out, CUSTOM_EVENT, &payload);
        out
    }

    fn properties(&self) -> Vec<u8> {
        let mut own = Vec::with_capacity(256);
        for (name, value) in &self.attributes {
            match value {
                // `type` is the event's name, and `specversion` is always the same.
                Attribute::Text(_) if matches!(&**name, "type" | "specversion") => {}
                Attribute::Text(text) => struct_members::put_text(&mut own, name, text),
                Attribute::Number(number) => struct_members::put_float(&mut own, name, *number),
                Attribute::Large(number) => struct_members::put_text(&mut own, name, number),
                Attribute::Bool(value) => struct_members::put_bool(&mut own, name, *value),
            }
        }
        let whole = self.data == Data::Object && !has_member(&self.bytes, OWN);
        match self.data {
            Data::Absent => {}
            Data::Object if whole => {}
            Data::Object => struct_members::put_object(&mut own, "data", &self.bytes),
            Data::Other => struct_members::put_value(&mut own, "data", &self.bytes),
            Data::Base64 => {
                let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
                struct_members::put_text(&mut own, "data_base64", text);
            }
        }
        let mut members = if whole { self.bytes.clone() } else { Vec::new() };
        struct_members::put_object(&mut members, OWN, &own);
        members
    }
}

/// Source and id together identify an event.
fn idempotency_key(source: &str, id: &str) -> String {
    let plain = |text: &str| !text.contains(' ') && !has_control(text.as_bytes());
    if source.len() + 1 + id.len() <= ID_BYTES_MAX && plain(source) && !has_control(id.as_bytes()) {
        // A URI has no space, so no other pair gives the same text.
        return format!("{source} {id}");
    }
    hashed_id(&format!("{}:{source}{id}", source.len()))
}

/// Translates the pointer of an error to the attribute or the data.
fn rename(error: &mut FieldError, device: &str) {
    let own = format!("/customEvent/properties/{OWN}");
    error.rename(&[
        ("/customEvent/eventName", "/type"),
        (&own, ""),
        ("/customEvent/properties", "/data"),
        ("/deviceId", &format!("/{device}")),
        ("/timestampMs", "/time"),
        ("/appId", "/appid"),
        ("/userId", "/userid"),
        ("/sessionId", "/sessionid"),
        ("/correlationId", "/correlationid"),
    ]);
}

fn has_member(members: &[u8], name: &str) -> bool {
    let mut reader = Reader::new(members);
    while let Ok(Some((_, Value::Bytes(entry)))) = reader.next() {
        if map_entry(entry).0 == name.as_bytes() {
            return true;
        }
    }
    false
}

/// A media type without parameters.
fn essence(content_type: &str) -> &str {
    content_type.split(';').next().unwrap_or_default().trim()
}

fn ends_with(text: &str, end: &str) -> bool {
    text.len() >= end.len() && text.as_bytes()[text.len() - end.len()..].eq_ignore_ascii_case(end.as_bytes())
}

fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    ends_with(essence, "/json") || ends_with(essence, "+json")
}

fn is_text(content_type: &str) -> bool {
    let essence = essence(content_type);
    let text = essence.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"));
    text || ends_with(essence, "/xml") || ends_with(essence, "+xml")
}
