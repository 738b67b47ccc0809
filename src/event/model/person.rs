//! The person that an event is about, for erasure.
//!
//! Invariant: ids are compared whole and case-sensitively, and only those of the envelope. Payloads are not searched
//! for mentions of people. Knows nothing about where events are stored.

use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::envelope::Envelope;
use crate::event::codec::wire::Reader;

/// Nesting depth to which a third party's document is searched.
const DEPTH_MAX: usize = 128;
/// A longer value of `group_by` is stored as its SHA-256.
pub const GROUP_BYTES_MAX: usize = 256;

/// A device or user, in one app or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub id: PersonId,
    pub app_id: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersonId {
    Device(String),
    User(String),
}

impl PersonId {
    /// The envelope field with this id.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Device(_) => "device_id",
            Self::User(_) => "user_id",
        }
    }

    pub fn text(&self) -> &str {
        match self {
            Self::Device(id) | Self::User(id) => id,
        }
    }

    /// Whether a client of any supported protocol uses this name for the id.
    pub fn is_called(&self, name: &str) -> bool {
        self.names().contains(&name)
    }

    /// Names of the id in all supported protocols.
    fn names(&self) -> &'static [&'static str] {
        match self {
            Self::Device(_) => &["device_id", "deviceId", "anonymousId", "deviceid", "device.id"],
            Self::User(_) => &["user_id", "userId", "userid", "user.id"],
        }
    }
}

impl Person {
    /// Whether a stored event is about this person. `None` if the bytes are not an event.
    pub fn has_event(&self, bytes: &[u8]) -> Option<bool> {
        let envelope = Envelope::read(bytes).ok()?;
        let id = match self.id {
            PersonId::Device(_) => envelope.device_id,
            PersonId::User(_) => envelope.user_id,
        };
        Some(id == self.id.text().as_bytes() && self.is_in_app(envelope.app_id))
    }

    /// Whether a document that this product wrote is about an event of this person: a message of a rule or anomaly to
    /// webhooks and subjects, or an event in the rule view.
    pub fn has_document(&self, json: &[u8]) -> bool {
        if self.unescaped_id().is_some_and(|id| !contains(json, id.as_bytes())) {
            return false;
        }
        let Ok(document) = serde_json::from_slice::<Value>(json) else { return false };
        let is = |value: &Value| value.as_str() == Some(self.id.text());
        let field = self.id.field();
        let theirs = is(&document[field]) || is(&document["event"][field]) || is(&document["details"]["group"]);
        theirs && document["app_id"].as_str().is_none_or(|app| self.is_in_app(app.as_bytes()))
    }

    /// Whether a third party's document has this id under one of the names for it. An app id next to it, if any, must
    /// match too.
    pub fn is_named_in(&self, document: &Value) -> bool {
        self.is_named_within(document, DEPTH_MAX)
    }

    fn is_named_within(&self, value: &Value, depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        match value {
            Value::Object(members) => {
                let text = |name: &str| members.get(name).and_then(Value::as_str);
                let app = text("app_id").or_else(|| text("appId"));
                let is = |value: Option<&Value>| value.and_then(Value::as_str) == Some(self.id.text());
                let named = self.id.names().iter().any(|name| is(members.get(*name)));
                // An OpenTelemetry attribute.
                let is_attribute = text("key").is_some_and(|key| self.id.is_called(key))
                    && is(members.get("value").and_then(|value| value.get("stringValue")));
                ((named || is_attribute) && app.is_none_or(|app| self.is_in_app(app.as_bytes())))
                    || members.values().any(|member| self.is_named_within(member, depth))
            }
            Value::Array(elements) => elements.iter().any(|element| self.is_named_within(element, depth)),
            _ => false,
        }
    }

    /// Whether any field of an encoded message, at any depth, equals the id. Field names are unknown here.
    pub fn is_in_message(&self, bytes: &[u8]) -> bool {
        self.is_within_message(bytes, DEPTH_MAX)
    }

    fn is_within_message(&self, bytes: &[u8], depth: usize) -> bool {
        let Some(depth) = depth.checked_sub(1) else { return false };
        let id = self.id.text().as_bytes();
        // A shorter message cannot contain it.
        let mut reader = Reader::new(if bytes.len() > id.len() { bytes } else { b"" });
        while let Ok(Some((_, value))) = reader.next() {
            if let Ok(inner) = value.bytes()
                && (inner == id || self.is_within_message(inner, depth))
            {
                return true;
            }
        }
        false
    }

    pub fn is_in_app(&self, app_id: &[u8]) -> bool {
        self.app_id.as_ref().is_none_or(|app| app.as_bytes() == app_id)
    }

    /// The id, if JSON encodes it without escapes, so that documents contain these exact bytes.
    pub fn unescaped_id(&self) -> Option<&str> {
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\' && byte < 0x7f;
        Some(self.id.text()).filter(|id| id.bytes().all(plain))
    }

    /// The group key of anomaly windows that are grouped by this id.
    pub fn group(&self) -> String {
        let text = Value::from(self.id.text()).to_string();
        if text.len() <= GROUP_BYTES_MAX {
            return text;
        }
        let digest = digest(&SHA256, text.as_bytes());
        format!("\"sha256:{}\"", data_encoding::HEXLOWER.encode(digest.as_ref()))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(text, part).is_some()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::json;

    use super::*;
    use crate::event::proto::EventEnvelope;

    fn device(id: &str) -> Person {
        Person { id: PersonId::Device(id.to_owned()), app_id: None }
    }

    fn user(id: &str) -> Person {
        Person { id: PersonId::User(id.to_owned()), app_id: None }
    }

    fn in_app(person: Person, app: &str) -> Person {
        Person { app_id: Some(app.to_owned()), ..person }
    }

    fn event(app: &str, device: &str, user: &str) -> Vec<u8> {
        let event: EventEnvelope = serde_json::from_value(json!({
            "appId": app, "deviceId": device, "userId": user, "id": "e", "buttonTap": {"buttonId": "phone"},
        }))
        .unwrap();
        event.encode_to_vec()
    }

    #[test]
    fn an_event_belongs_to_the_person_in_its_envelope() {
        let bytes = event("shop", "phone", "ann");
        for (person, theirs) in [
            (device("phone"), true),
            (device("phon"), false),
            (device("phone1"), false),
            (device("ann"), false),
            (user("ann"), true),
            (user("phone"), false),
            (in_app(device("phone"), "shop"), true),
            (in_app(device("phone"), "sho"), false),
        ] {
            assert_eq!(person.has_event(&bytes), Some(theirs), "{person:?}");
        }
        assert_eq!(device("phone").has_event(b"\xff"), None);
    }

    #[test]
    fn a_document_belongs_to_the_person_of_its_event() {
        let rule =
            json!({"app_id": "shop", "device_id": "phone", "event": {"user_id": "a\"nn", "x": {"device_id": "q"}}});
        let anomaly = json!({"app_id": "shop", "device_id": "other", "user_id": "", "details": {"group": "phone"}});
        let of = |person: Person, document: &Value| person.has_document(document.to_string().as_bytes());
        assert!(of(device("phone"), &rule) && of(user("a\"nn"), &rule) && of(device("phone"), &anomaly));
        assert!(of(in_app(device("phone"), "shop"), &rule) && !of(in_app(device("phone"), "web"), &rule));
        assert!(!of(device("q"), &rule) && !of(device("phone2"), &anomaly) && !of(user("phone2"), &rule));
        assert!(!device("phone").has_document(b"\"phone\""));
    }

    #[test]
    fn ids_are_found_under_the_names_of_all_protocols() {
        let document =
            json!({"batch": [{"anonymousId": "phone", "context": {"user": [{"userId": "ann"}]}}], "appId": "web"});
        assert!(device("phone").is_named_in(&document) && user("ann").is_named_in(&document));
        assert!(!device("ann").is_named_in(&document) && !user("web").is_named_in(&document));
        let attributes =
            json!([{"key": "user.id", "value": {"stringValue": "ann"}}, {"key": "x", "value": {"stringValue": "bob"}}]);
        assert!(user("ann").is_named_in(&attributes) && !user("bob").is_named_in(&attributes));
        let document = json!({"app_id": "shop", "device_id": "phone"});
        assert!(
            in_app(device("phone"), "shop").is_named_in(&document)
                && !in_app(device("phone"), "web").is_named_in(&document)
        );
    }

    #[test]
    fn ids_in_a_message_are_compared_whole() {
        let bytes = [&[0x0a, 42][..], &event("shop", "phone", "ann")].concat();
        let length = bytes.len() - 2;
        let bytes = [&[0x0a, length as u8][..], &bytes[2..]].concat();
        assert!(device("phone").is_in_message(&bytes) && user("ann").is_in_message(&bytes));
        assert!(!device("phon").is_in_message(&bytes) && !device("phone").is_in_message(b"phone"));
    }

    #[test]
    fn a_long_id_is_grouped_by_its_digest() {
        assert_eq!(device("a\"b").group(), r#""a\"b""#);
        let long = device(&"x".repeat(256)).group();
        assert!(long.starts_with("\"sha256:") && long.len() == 64 + 9, "{long}");
    }
}
