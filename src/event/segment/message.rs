//! Converts one message of Segment's API to an event (<https://segment.com/docs/connections/spec/>).
//!
//! Nothing is lost: values without a field of their own go to the event's `properties`, and those that are not
//! properties go under their member [`REST`].

use jiff::Timestamp;
use jiff::civil::DateTime;
use prost::Message as _;

use super::batch_fields::{BATCH, BatchFields};
use super::device::device_of;
use super::json::{Object, Value};
use super::mapping;
use super::repair::without;
use super::value::{properties, text};
use crate::event::codec::struct_writer::{StructWriter, put_payload};
use crate::event::intake::validate::{REQUIRED, Unchecked};
use crate::event::model::ids::{hashed_id, is_timestamp};
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{CustomEvent, EventEnvelope, ScreenView, UserProfileUpdate};
use crate::event::{FieldError, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, is_id};

/// The property for everything outside the message's properties.
const REST: &str = "$segment";
/// Its member for the original text, if the other members cannot represent all of it.
const TEXT: &str = "message";
/// The name of an event for a message of unknown type, if the type is not a valid name.
const OTHER: &str = "message";
const NO_IDENTITY: &str = "is required when there is no userId";
/// Maximum field names listed in a profile update.
const FIELDS_MAX: usize = 1_000;
/// Numbers from here on are milliseconds, smaller ones seconds: the year 1973 in one, 5138 in the other.
const MILLISECONDS_FROM: f64 = 1e11;
/// Bytes of an event besides the message.
const EVENT_BYTES: usize = 256;

/// The kinds of messages, called calls in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Track,
    Identify,
    Page,
    Screen,
    Group,
    Alias,
}

impl Call {
    /// The name in messages and in paths.
    pub fn name(self) -> &'static str {
        match self {
            Self::Track => "track",
            Self::Identify => "identify",
            Self::Page => "page",
            Self::Screen => "screen",
            Self::Group => "group",
            Self::Alias => "alias",
        }
    }

    /// Case-insensitive.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Group, Self::Alias]
            .into_iter()
            .find(|call| call.name().eq_ignore_ascii_case(name))
    }

    /// Whether the kind of the event implies this call.
    fn is_implied(self) -> bool {
        matches!(self, Self::Track | Self::Identify)
    }

    /// The member with the message's subject.
    fn subject(self) -> &'static str {
        match self {
            Self::Identify | Self::Group => "traits",
            Self::Track | Self::Page | Self::Screen | Self::Alias => "properties",
        }
    }
}

/// Values that apply to a message and come from outside of it.
pub(super) struct MessageContext<'a> {
    /// The fields of its batch. The message's own members take precedence.
    pub(super) batch: &'a BatchFields<'a>,
    pub(super) received_at_ms: i64,
    /// The app, if no API key determines it.
    pub(super) app: &'a str,
    /// The message was exported from Segment.
    pub(super) exported: bool,
}

/// How the event represents the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation {
    /// In typed fields and properties.
    Members,
    /// In members, and as its text, which says more than they can.
    MembersAndText,
    /// As its text only.
    Text,
}

/// An event that was converted from a message.
#[derive(Debug)]
pub(super) struct EncodedEvent {
    pub(super) bytes: Vec<u8>,
    pub(super) unchecked: Unchecked,
}

/// Converts a message to an encoded event. `raw` is its JSON text, which is kept if the message has more properties
/// than an event may have.
pub(super) fn event_of<'a>(
    call: Option<Call>,
    mut message: Object<'a>,
    raw: &'a str,
    representation: Representation,
    outer: &MessageContext<'a>,
) -> Result<EncodedEvent, FieldError> {
    let kind = match (call, message.get("type")) {
        (Some(call), _) => Some(call),
        (None, None | Some(Value::Null)) => return Err(FieldError::new("/type", REQUIRED)),
        // An unknown type is accepted too.
        (None, Some(named)) => named.as_str().and_then(Call::named),
    };
    // The write key was read before. It is not a property.
    message.remove("writeKey");
    let mut event = EventEnvelope {
        app_id: outer.app.to_owned(),
        idempotency_key: take_id(&mut message, "messageId"),
        user_id: take_id(&mut message, "userId"),
        device_id: take_id(&mut message, "anonymousId"),
        timestamp_ms: take_time(&mut message, outer),
        ..EventEnvelope::default()
    };
    let mut context = outer.batch.join(&mut message);
    if event.device_id.is_empty() {
        event.device_id = other_device_id(&context, &event.user_id, &message);
    }
    if event.device_id.is_empty() {
        return Err(FieldError::new("/anonymousId", NO_IDENTITY));
    }
    event.session_id = take_id(&mut context, "sessionId");
    event.device_context = device_of(&mut context);
    if !context.is_empty() {
        message.insert("context", Value::Object(context));
    }
    keep_type(kind, &mut message);
    let text = Text { raw, kind, batch: outer.batch };
    let (payload, kept) = match representation {
        Representation::Members => payload(kind, message, &event.user_id),
        Representation::MembersAndText => {
            message.insert(TEXT, Value::String(without(raw, "writeKey").into_owned().into()));
            payload(kind, message, &event.user_id)
        }
        Representation::Text => (custom(kind.map_or(OTHER, Call::name)), None),
    };
    let unchecked = if kept.is_some() { Unchecked::AllButProperties } else { Unchecked::All };
    let properties = kept.unwrap_or_else(|| text.properties());
    let mut bytes = Vec::with_capacity(raw.len() + EVENT_BYTES);
    // Encoding to a vector does not run out of room.
    let _ = event.encode(&mut bytes);
    put_payload(&mut bytes, &payload, &properties);
    Ok(EncodedEvent { bytes, unchecked })
}

/// Keeps the type in the message unless the event implies it.
fn keep_type(kind: Option<Call>, message: &mut Object<'_>) {
    let Some(call) = kind else { return };
    let sent = message.get("type").filter(|sent| **sent != Value::Null);
    match sent {
        Some(sent) if call.is_implied() && sent.as_str() == Some(call.name()) => _ = message.remove("type"),
        Some(_) => {}
        None if call.is_implied() => _ = message.remove("type"),
        None => _ = message.insert("type", Value::String(call.name().into())),
    }
}

/// The payload, and the encoded members of its properties. `None` if they exceed a limit.
fn payload(kind: Option<Call>, mut message: Object<'_>, user_id: &str) -> (Payload, Option<Vec<u8>>) {
    let subject_name = kind.map_or("properties", Call::subject);
    let subject = message.remove(subject_name);
    let mut own = match subject {
        Some(Value::Object(own)) => own,
        None | Some(Value::Null) => Object::default(),
        Some(other) => {
            message.insert(subject_name, other);
            Object::default()
        }
    };
    let payload = match kind {
        Some(Call::Track) => track(&mut message, &mut own, user_id),
        Some(Call::Identify) => Payload::UserProfileUpdate(UserProfileUpdate {
            user_id: user_id.to_owned(),
            fields_updated: own.iter().take(FIELDS_MAX).map(|(name, _)| name.clone().into_owned()).collect(),
            properties: None,
        }),
        Some(call @ (Call::Page | Call::Screen)) => screen(call, &mut message, &own),
        Some(call @ (Call::Group | Call::Alias)) => custom(call.name()),
        None => {
            let named = message.get("type").and_then(Value::as_str);
            custom(named.filter(|name| !name.is_empty() && is_id(name)).unwrap_or(OTHER))
        }
    };
    message.retain(|value| *value != Value::Null);
    if !message.is_empty()
        && let Some(taken) = own.insert(REST, Value::Object(message))
        && let Some(Value::Object(rest)) = own.get_mut(REST)
    {
        // A message may have both a member and a property of this name.
        let taken = match rest.remove(REST) {
            Some(other) => Value::Array(vec![taken, other]),
            None => taken,
        };
        rest.insert(REST, taken);
    }
    (payload, properties(&own, PROPERTIES_VALUES_MAX, PROPERTIES_DEPTH_MAX, KEY_BYTES_MAX))
}

/// The payload of a track call. The name stays in the message if the event cannot represent it.
fn track(message: &mut Object<'_>, own: &mut Object<'_>, user_id: &str) -> Payload {
    let name = text(message, &["event"]);
    let known = mapping::known(&name, own, user_id);
    let is_said = known.is_none() && is_id(&name);
    let payload = known.unwrap_or_else(|| custom(if is_said && !name.is_empty() { &name } else { Call::Track.name() }));
    if !is_said {
        message.insert("event", Value::String(name.into()));
    }
    payload
}

/// The text of a message.
struct Text<'a> {
    raw: &'a str,
    kind: Option<Call>,
    batch: &'a BatchFields<'a>,
}

impl Text<'_> {
    /// Properties with the text of the message, without its write key, which is a secret, and everything that neither
    /// the text nor the event says.
    fn properties(&self) -> Vec<u8> {
        let mut members = Vec::with_capacity(self.raw.len() + EVENT_BYTES);
        let mut writer = StructWriter::new(&mut members);
        let rest = writer.begin_member(REST);
        let object = writer.begin_object();
        let mut put = |name, text: &str| {
            let member = writer.begin_member(name);
            writer.text(text);
            writer.end_member(member);
        };
        put(TEXT, &without(self.raw, "writeKey"));
        if let Some(call) = self.kind.filter(|call| !call.is_implied()) {
            put("type", call.name());
        }
        if let Some(batch) = self.batch.text() {
            put(BATCH, &batch);
        }
        writer.end(object);
        writer.end_member(rest);
        members
    }
}

fn custom(name: &str) -> Payload {
    Payload::CustomEvent(CustomEvent { event_name: name.to_owned(), ..CustomEvent::default() })
}

/// The payload of a page or screen call. A page without a name gets its path, title or address.
fn screen(call: Call, message: &mut Object<'_>, own: &Object<'_>) -> Payload {
    let named = text(message, &["name"]);
    let of_page = || ["path", "title", "url"].iter().find_map(|name| own.get(name)?.as_str());
    let screen_name = if named.is_empty() { of_page().unwrap_or_default().to_owned() } else { named };
    if screen_name.is_empty() {
        return custom(if call == Call::Page { "page" } else { "screen" });
    }
    let screen_class = text(message, &["category"]);
    Payload::ScreenView(ScreenView { screen_name, screen_class, ..ScreenView::default() })
}

/// Takes an id that is text or a number. For an invalid id, returns its hash and leaves the id in the message.
fn take_id(message: &mut Object<'_>, name: &str) -> String {
    let mut hash = None;
    let taken = message.remove_if(name, |value| match value {
        Value::String(id) if !is_id(id) => {
            hash = Some(hashed_id(id));
            false
        }
        Value::String(_) | Value::Number(_) => true,
        _ => false,
    });
    match taken {
        Some(Value::String(id)) => id.into_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => hash.unwrap_or_default(),
    }
}

/// The time of the message by this server's clock. The difference to the sender's clock follows from the time at which
/// it says it sent the message. A time that an event cannot have stays in the message.
fn take_time(message: &mut Object<'_>, outer: &MessageContext<'_>) -> i64 {
    if outer.exported
        && let Some(time) = message.get("timestamp").and_then(time_ms).filter(|time| is_timestamp(*time))
    {
        message.remove("timestamp");
        return time;
    }
    let sent_at = message.get("sentAt").and_then(time_ms).or_else(|| outer.batch.sent_at().and_then(time_ms));
    for name in ["originalTimestamp", "timestamp"] {
        let Some(happened_at) = message.get(name).and_then(time_ms) else { continue };
        let corrected = sent_at.map_or(happened_at, |sent_at| outer.received_at_ms - (sent_at - happened_at));
        if let Some(time) = [corrected, happened_at].into_iter().find(|time| is_timestamp(*time)) {
            message.remove(name);
            return time;
        }
    }
    0
}

fn time_ms(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::String(text) => {
            let text = text.trim();
            let at = text.parse::<Timestamp>().ok().or_else(|| {
                // Without an offset, the time is UTC.
                text.parse::<DateTime>().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
            });
            at.map(Timestamp::as_millisecond)
        }
        Value::Number(number) => {
            let number = number.as_f64().filter(|number| (0.0..1e15).contains(number))?;
            Some(if number >= MILLISECONDS_FROM { number as i64 } else { (number * 1000.0) as i64 })
        }
        _ => None,
    }
}

/// The device id in the context, else the user id, else a hash of whatever was sent as an id.
fn other_device_id(context: &Object<'_>, user_id: &str, message: &Object<'_>) -> String {
    match context.get("device").and_then(|device| device.get("id")) {
        Some(Value::String(id)) if is_id(id) && !id.is_empty() => return id.clone().into_owned(),
        Some(Value::String(id)) if !id.is_empty() => return hashed_id(id),
        Some(Value::Number(id)) => return id.to_string(),
        _ if !user_id.is_empty() => return user_id.to_owned(),
        _ => {}
    }
    let sent = ["anonymousId", "userId"].into_iter().filter_map(|name| message.get(name));
    let sent = sent.filter(|value| **value != Value::Null).find_map(|value| serde_json::to_string(value).ok());
    sent.map(|text| hashed_id(&text)).unwrap_or_default()
}
