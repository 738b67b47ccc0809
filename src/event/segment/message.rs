//! One message of Segment's API as an event (<https://segment.com/docs/connections/spec/>).
//!
//! Nothing that was sent is lost: what has no field of its own goes to the event's `properties`, what is not a property
//! itself under [`REST`] there.

use std::borrow::Cow;

use jiff::Timestamp;
use jiff::civil::DateTime;
use prost::Message as _;

use super::device::device_of;
use super::json::{Object, Value};
use super::mapping;
use super::value::{properties, text};
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{CustomEvent, EventEnvelope, ScreenView, UserProfileUpdate};
use crate::event::struct_writer::{StructWriter, put_payload};
use crate::event::{FieldError, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, is_id};

/// The property that holds what was sent beside the properties.
const REST: &str = "$segment";
/// Fields that a profile update names.
const FIELDS_MAX: usize = 1_000;
/// A number of at least this many is of milliseconds, a smaller one of seconds: the year 1973 and the year 5138.
const MILLISECONDS_FROM: f64 = 1e11;
/// What an event has beside what was sent.
const EVENT_BYTES: usize = 256;

/// The kinds of messages.
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
    /// As a message and the paths call it.
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

    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "track" => Self::Track,
            "identify" => Self::Identify,
            "page" => Self::Page,
            "screen" => Self::Screen,
            "group" => Self::Group,
            "alias" => Self::Alias,
            _ => return None,
        })
    }

    /// The member that holds what the message is about.
    fn subject(self) -> &'static str {
        match self {
            Self::Identify | Self::Group => "traits",
            Self::Track | Self::Page | Self::Screen | Self::Alias => "properties",
        }
    }
}

/// What a message does not say itself.
pub(super) struct Surroundings<'a> {
    /// Of a batch; a message's own members come first.
    pub(super) context: Option<&'a Object<'a>>,
    pub(super) integrations: Option<&'a Value<'a>>,
    pub(super) sent_at: Option<&'a Value<'a>>,
    pub(super) received_at_ms: i64,
    /// The app where no API key says which.
    pub(super) app: &'a str,
}

/// The event that a message is, encoded. `raw` is its JSON text: where an event cannot hold as many properties, they are
/// kept as that.
pub(super) fn event_of<'a>(
    call: Option<Call>,
    mut message: Object<'a>,
    raw: &'a str,
    around: &Surroundings<'a>,
) -> Result<Vec<u8>, FieldError> {
    let call = match (call, message.get("type").and_then(Value::as_str)) {
        (Some(call), _) => call,
        (None, Some(named)) => Call::named(named)
            .ok_or_else(|| FieldError::new("/type", "must be track, identify, page, screen, group or alias"))?,
        (None, None) => return Err(FieldError::new("/type", "is required")),
    };
    // The app and the key were read from it already; it is no property.
    message.remove("writeKey");
    let mut event = EventEnvelope {
        app_id: around.app.to_owned(),
        idempotency_key: take_id(&mut message, "messageId"),
        user_id: take_id(&mut message, "userId"),
        device_id: take_id(&mut message, "anonymousId"),
        timestamp_ms: take_time(&mut message, around),
        ..EventEnvelope::default()
    };
    let mut context = take_context(&mut message, around.context);
    if let (None, Some(integrations)) = (message.get("integrations"), around.integrations) {
        message.insert("integrations", integrations.clone());
    }
    if event.device_id.is_empty() {
        event.device_id = other_device_id(&context, &event.user_id);
    }
    event.session_id = session_id(&mut context);
    event.device_context = device_of(&mut context);
    if !context.is_empty() {
        message.insert("context", Value::Object(context));
    }
    let (payload, properties) = payload(call, message, &event.user_id, raw);
    let mut encoded = Vec::with_capacity(raw.len() + EVENT_BYTES);
    // Encoding to a vector does not run out of room.
    let _ = event.encode(&mut encoded);
    put_payload(&mut encoded, &payload, &properties);
    Ok(encoded)
}

/// The payload, and the members of its properties.
fn payload<'a>(call: Call, mut message: Object<'a>, user_id: &str, raw: &str) -> (Payload, Vec<u8>) {
    message.remove("type");
    let subject = message.remove(call.subject());
    let mut own = match subject {
        Some(Value::Object(own)) => own,
        None | Some(Value::Null) => Object::default(),
        Some(other) => {
            message.insert(call.subject(), other);
            Object::default()
        }
    };
    let payload = match call {
        Call::Track => {
            let name = text(&mut message, &["event"]);
            let known = mapping::known(&name, &mut own, user_id);
            if known.is_some() {
                message.insert("event", Value::String(name.clone().into()));
            }
            known.unwrap_or_else(|| custom(if name.is_empty() { "track" } else { &name }))
        }
        Call::Identify => Payload::UserProfileUpdate(UserProfileUpdate {
            user_id: user_id.to_owned(),
            fields_updated: own.iter().take(FIELDS_MAX).map(|(name, _)| name.clone().into_owned()).collect(),
            properties: None,
        }),
        Call::Page | Call::Screen => screen(call, &mut message, &own),
        Call::Group => custom("group"),
        Call::Alias => custom("alias"),
    };
    message.retain(|value| *value != Value::Null);
    if !message.is_empty()
        && let Some(taken) = own.insert(REST, Value::Object(message))
        && let Some(Value::Object(rest)) = own.get_mut(REST)
    {
        // A message may have a member of this name beside a property of it.
        let taken = match rest.remove(REST) {
            Some(other) => Value::Array(vec![taken, other]),
            None => taken,
        };
        rest.insert(REST, taken);
    }
    let kept = properties(&own, PROPERTIES_VALUES_MAX, PROPERTIES_DEPTH_MAX, KEY_BYTES_MAX);
    (payload, kept.unwrap_or_else(|| as_sent(raw)))
}

/// The text of a message without its write key, which is a secret.
fn without_key(raw: &str) -> Cow<'_, str> {
    let Ok(mut message) = serde_json::from_str::<serde_json::Map<_, _>>(raw) else { return raw.into() };
    match message.remove("writeKey") {
        Some(_) => serde_json::Value::Object(message).to_string().into(),
        None => raw.into(),
    }
}

/// The message as the text that it was, but for its write key.
fn as_sent(raw: &str) -> Vec<u8> {
    let mut members = Vec::with_capacity(raw.len() + EVENT_BYTES);
    let mut writer = StructWriter::new(&mut members);
    let rest = writer.begin_member(REST);
    let object = writer.begin_object();
    let message = writer.begin_member("message");
    writer.text(&without_key(raw));
    writer.end_member(message);
    writer.end(object);
    writer.end_member(rest);
    members
}

fn custom(name: &str) -> Payload {
    Payload::CustomEvent(CustomEvent { event_name: name.to_owned(), ..CustomEvent::default() })
}

/// A page without a name is called by its path, title or address.
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

/// A text, or a number written out, that can be an id. Another one stays in the message.
fn take_id(message: &mut Object<'_>, name: &str) -> String {
    let fits = match message.get(name) {
        Some(Value::String(id)) => is_id(id),
        Some(Value::Number(_)) => true,
        _ => false,
    };
    if fits { text(message, &[name]) } else { String::new() }
}

/// When it happened by this server's clock: the sender's clock is told by when it says that it sent.
fn take_time(message: &mut Object<'_>, around: &Surroundings<'_>) -> i64 {
    let sent_at = message.get("sentAt").or(around.sent_at).and_then(time_ms);
    for name in ["originalTimestamp", "timestamp"] {
        let Some(happened_at) = message.get(name).and_then(time_ms) else { continue };
        message.remove(name);
        let corrected = sent_at.map_or(happened_at, |sent_at| around.received_at_ms - (sent_at - happened_at));
        return if corrected > 0 { corrected } else { happened_at.max(0) };
    }
    0
}

fn time_ms(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::String(text) => {
            let text = text.trim();
            let at = text.parse::<Timestamp>().ok().or_else(|| {
                // Without an offset it is UTC.
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

fn take_context<'a>(message: &mut Object<'a>, of_batch: Option<&Object<'a>>) -> Object<'a> {
    let mut context = match message.remove("context") {
        Some(Value::Object(context)) => context,
        Some(other) => {
            message.insert("context", other);
            return Object::default();
        }
        None => Object::default(),
    };
    for (name, value) in of_batch.into_iter().flat_map(Object::iter) {
        if !context.contains(name) {
            context.insert(name.clone(), value.clone());
        }
    }
    context
}

fn other_device_id(context: &Object<'_>, user_id: &str) -> String {
    let of_device = context.get("device").and_then(|device| device.get("id")).and_then(Value::as_str);
    of_device.filter(|id| !id.is_empty() && is_id(id)).unwrap_or(user_id).to_owned()
}

/// As RudderStack's SDKs call it.
fn session_id(context: &mut Object<'_>) -> String {
    take_id(context, "sessionId")
}
