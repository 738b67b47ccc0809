//! One message of Segment's API as an event (<https://segment.com/docs/connections/spec/>).
//!
//! Nothing that was sent is lost: what has no field of its own goes to the event's `properties`, what is not a property
//! itself under [`REST`] there.

use jiff::Timestamp;
use jiff::civil::DateTime;
use prost::Message as _;

use super::batch::{BATCH, BatchFields};
use super::device::device_of;
use super::json::{Object, Value};
use super::mapping;
use super::mend::without;
use super::value::{properties, text};
use crate::event::codec::struct_writer::{StructWriter, put_payload};
use crate::event::intake::validate::{REQUIRED, Unchecked};
use crate::event::model::ids::{hashed, is_time};
use crate::event::proto::event_envelope::Payload;
use crate::event::proto::{CustomEvent, EventEnvelope, ScreenView, UserProfileUpdate};
use crate::event::{FieldError, KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX, is_id};

/// The property that holds what was sent beside the properties.
const REST: &str = "$segment";
/// The member of it that holds the text that was sent, where members do not say all of it.
const TEXT: &str = "message";
/// What a message of a type that is not known is called where it cannot be called by that.
const OTHER: &str = "message";
const NO_IDENTITY: &str = "is required when there is no userId";
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

    /// Whatever its letters' case.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Track, Self::Identify, Self::Page, Self::Screen, Self::Group, Self::Alias]
            .into_iter()
            .find(|call| call.name().eq_ignore_ascii_case(name))
    }

    /// Whether an event that it became can be nothing else.
    fn is_told(self) -> bool {
        matches!(self, Self::Track | Self::Identify)
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
    pub(super) batch: &'a BatchFields<'a>,
    pub(super) received_at_ms: i64,
    /// The app where no API key says which.
    pub(super) app: &'a str,
    /// Segment took the message in before.
    pub(super) exported: bool,
}

/// How what was sent is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// In typed fields and properties.
    Members,
    /// And as its text, which says more than they can.
    MembersAndText,
    /// As its text alone.
    Text,
}

/// The event that a message is.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) bytes: Vec<u8>,
    pub(super) unchecked: Unchecked,
}

/// The event that a message is, encoded. `raw` is its JSON text: where an event cannot hold as many properties, they are
/// kept as that.
pub(super) fn event_of<'a>(
    call: Option<Call>,
    mut message: Object<'a>,
    raw: &'a str,
    keep: Keep,
    around: &Surroundings<'a>,
) -> Result<Encoded, FieldError> {
    let kind = match (call, message.get("type")) {
        (Some(call), _) => Some(call),
        (None, None | Some(Value::Null)) => return Err(FieldError::new("/type", REQUIRED)),
        // What is no kind that is known is kept all the same.
        (None, Some(named)) => named.as_str().and_then(Call::named),
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
    let mut context = around.batch.join(&mut message);
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
    let text = Text { raw, kind, batch: around.batch };
    let (payload, kept) = match keep {
        Keep::Members => payload(kind, message, &event.user_id),
        Keep::MembersAndText => {
            message.insert(TEXT, Value::String(without(raw, "writeKey").into_owned().into()));
            payload(kind, message, &event.user_id)
        }
        Keep::Text => (custom(kind.map_or(OTHER, Call::name)), None),
    };
    let unchecked = if kept.is_some() { Unchecked::AllButProperties } else { Unchecked::All };
    let properties = kept.unwrap_or_else(|| text.properties());
    let mut bytes = Vec::with_capacity(raw.len() + EVENT_BYTES);
    // Encoding to a vector does not run out of room.
    let _ = event.encode(&mut bytes);
    put_payload(&mut bytes, &payload, &properties);
    Ok(Encoded { bytes, unchecked })
}

/// Leaves the type in the message where its event does not say it.
fn keep_type(kind: Option<Call>, message: &mut Object<'_>) {
    let Some(call) = kind else { return };
    let sent = message.get("type").filter(|sent| **sent != Value::Null);
    match sent {
        Some(sent) if call.is_told() && sent.as_str() == Some(call.name()) => _ = message.remove("type"),
        Some(_) => {}
        None if call.is_told() => _ = message.remove("type"),
        None => _ = message.insert("type", Value::String(call.name().into())),
    }
}

/// The payload, and the members of its properties; none when an event may not have them.
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
        // A message may have a member of this name beside a property of it.
        let taken = match rest.remove(REST) {
            Some(other) => Value::Array(vec![taken, other]),
            None => taken,
        };
        rest.insert(REST, taken);
    }
    (payload, properties(&own, PROPERTIES_VALUES_MAX, PROPERTIES_DEPTH_MAX, KEY_BYTES_MAX))
}

/// The name stays in the message where the event cannot say it.
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

/// A message as the text that it was.
struct Text<'a> {
    raw: &'a str,
    kind: Option<Call>,
    batch: &'a BatchFields<'a>,
}

impl Text<'_> {
    /// Its text but for its write key, which is a secret, and what neither that nor the event says.
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
        if let Some(call) = self.kind.filter(|call| !call.is_told()) {
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

/// A text, or a number written out. Of one that cannot be an id it is the hash, and the id stays in the message.
fn take_id(message: &mut Object<'_>, name: &str) -> String {
    let mut hash = None;
    let taken = message.remove_if(name, |value| match value {
        Value::String(id) if !is_id(id) => {
            hash = Some(hashed(id));
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

/// When it happened by this server's clock: the sender's clock is told by when it says that it sent. A time that an event
/// cannot have stays in the message.
fn take_time(message: &mut Object<'_>, around: &Surroundings<'_>) -> i64 {
    if around.exported
        && let Some(time) = message.get("timestamp").and_then(time_ms).filter(|time| is_time(*time))
    {
        message.remove("timestamp");
        return time;
    }
    let sent_at = message.get("sentAt").and_then(time_ms).or_else(|| around.batch.sent_at().and_then(time_ms));
    for name in ["originalTimestamp", "timestamp"] {
        let Some(happened_at) = message.get(name).and_then(time_ms) else { continue };
        let corrected = sent_at.map_or(happened_at, |sent_at| around.received_at_ms - (sent_at - happened_at));
        if let Some(time) = [corrected, happened_at].into_iter().find(|time| is_time(*time)) {
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

/// The device that the context names, or else the user; or else whatever was sent in the place of an id.
fn other_device_id(context: &Object<'_>, user_id: &str, message: &Object<'_>) -> String {
    match context.get("device").and_then(|device| device.get("id")) {
        Some(Value::String(id)) if is_id(id) && !id.is_empty() => return id.clone().into_owned(),
        Some(Value::String(id)) if !id.is_empty() => return hashed(id),
        Some(Value::Number(id)) => return id.to_string(),
        _ if !user_id.is_empty() => return user_id.to_owned(),
        _ => {}
    }
    let sent = ["anonymousId", "userId"].into_iter().filter_map(|name| message.get(name));
    let sent = sent.filter(|value| **value != Value::Null).find_map(|value| serde_json::to_string(value).ok());
    sent.map(|text| hashed(&text)).unwrap_or_default()
}
