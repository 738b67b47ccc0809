//! Converts events to messages of Segment's API, as its mobile SDKs send them.
//!
//! Invariant: the id of an event is the `messageId` of its message, and its time takes [`TEXT_TIME_LEN`] bytes.

use jiff::Timestamp;
use prost::Message as _;
use serde_json::{Map, Value, json};

use super::patch::write_decimal;
use crate::event::EventRef;
use crate::event::proto::{DeviceContext, EventEnvelope, NetworkType, Platform};

/// Length of a time such as `2026-01-31T23:59:59.999Z`.
pub(super) const TEXT_TIME_LEN: usize = 24;
/// Offset of its milliseconds.
const MS_AT: usize = 20;

/// Track calls that Segment's specification names, by kind of event.
const TRACKS: [(&str, &str); 14] = [
    ("product_view", "Product Viewed"),
    ("add_to_cart", "Product Added"),
    ("remove_from_cart", "Product Removed"),
    ("checkout_start", "Checkout Started"),
    ("checkout_step", "Checkout Step Completed"),
    ("purchase_complete", "Order Completed"),
    ("purchase_failed", "Payment Failed"),
    ("app_start", "Application Opened"),
    ("app_background", "Application Backgrounded"),
    ("app_foreground", "Application Foregrounded"),
    ("app_crash", "Application Crashed"),
    ("user_signup", "Signed Up"),
    ("user_login", "Signed In"),
    ("user_logout", "Signed Out"),
];
/// Properties with other names in the specification.
const PROPERTIES: [(&str, &str); 4] = [
    ("product_name", "name"),
    ("items", "products"),
    ("step_number", "step"),
    ("launch_source", "referring_application"),
];

pub(super) fn message(event: &EventEnvelope) -> Result<Value, String> {
    let bytes = event.encode_to_vec();
    let view = EventRef::decode(&bytes).map_err(|error| format!("read a sample event: {error}"))?.view();
    let payload = event.payload.as_ref().map(crate::event::Kind::of).ok_or("a sample event is empty")?;
    let mut properties = match &view[payload.field] {
        Value::Object(fields) => segment_properties(fields),
        _ => Map::new(),
    };
    let mut message = json!({
        "messageId": event.id,
        "timestamp": text_time(event.timestamp_ms as u64),
        "userId": event.user_id,
        "anonymousId": event.device_id,
        "context": event.device_context.as_ref().map(context),
        "integrations": {},
    });
    message["context"]["sessionId"] = event.session_id.clone().into();
    let (call, subject) = match payload.field {
        "screen_view" => {
            message["name"] = properties.remove("screen_name").unwrap_or_default();
            message["category"] = properties.remove("screen_class").unwrap_or_default();
            ("screen", "properties")
        }
        "user_profile_update" => ("identify", "traits"),
        kind => {
            let known = TRACKS.iter().find(|(field, _)| *field == kind).map(|(_, name)| Value::from(*name));
            let own_name = properties.remove("event_name");
            message["event"] = known.or(own_name).unwrap_or_else(|| kind.replace('_', " ").into());
            ("track", "properties")
        }
    };
    message["type"] = call.into();
    message[subject] = properties.into();
    Ok(message)
}

/// The fields of a payload under Segment's names, with money in units.
fn segment_properties(fields: &Map<String, Value>) -> Map<String, Value> {
    let renamed = fields.iter().map(|(name, value)| {
        let name = PROPERTIES.iter().find(|(field, _)| field == name).map_or(name.as_str(), |(_, property)| property);
        match (name.strip_suffix("_cents"), value) {
            (Some(name), Value::Number(cents)) => {
                (name.to_owned(), (cents.as_f64().unwrap_or_default() / 100.0).into())
            }
            (_, Value::Array(items)) => {
                let items = items
                    .iter()
                    .map(|item| item.as_object().map_or_else(|| item.clone(), |item| segment_properties(item).into()));
                (name.to_owned(), items.collect())
            }
            _ => (name.to_owned(), value.clone()),
        }
    });
    renamed.collect()
}

fn context(device: &DeviceContext) -> Value {
    let (os, library) = match device.platform() {
        Platform::Ios => ("iOS", "analytics-ios"),
        Platform::Android => ("Android", "analytics-android"),
        _ => ("macOS", "analytics.js"),
    };
    let wifi = device.network_type() == NetworkType::Wifi;
    json!({
        "app": {"version": device.app_version, "build": device.build_number},
        "device": {"manufacturer": device.manufacturer, "model": device.device_model},
        "library": {"name": library, "version": device.sdk_version},
        "locale": device.locale,
        "network": {"carrier": device.carrier, "cellular": !wifi, "wifi": wifi},
        "os": {"name": os, "version": device.os_version},
        "screen": {"width": device.screen_width, "height": device.screen_height},
        "timezone": device.timezone,
    })
}

/// RFC 3339, with milliseconds.
pub(super) fn text_time(ms: u64) -> String {
    let at = Timestamp::from_millisecond(ms as i64).unwrap_or_default();
    format!("{at:.3}")
}

/// Formats times of the last second, which differ only in their second and milliseconds.
pub(super) struct TextTimes {
    second: u64,
    this: String,
    last: String,
}

impl TextTimes {
    pub(super) fn until(ms: u64) -> Self {
        Self { second: ms / 1_000, this: text_time(ms), last: text_time(ms.saturating_sub(1_000)) }
    }

    pub(super) fn write(&self, out: &mut [u8], ms: u64) {
        let text = if ms / 1_000 == self.second { &self.this } else { &self.last };
        out.copy_from_slice(text.as_bytes());
        write_decimal(&mut out[MS_AT..MS_AT + 3], ms % 1_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_text() {
        let now_ms = 1_760_000_000_123;
        let times = TextTimes::until(now_ms);
        for age in [0, 1, 123, 124, 999, 1_000] {
            let mut out = [0; TEXT_TIME_LEN];
            times.write(&mut out, now_ms - age);
            let at: Timestamp = std::str::from_utf8(&out).unwrap().parse().unwrap();
            assert_eq!(at.as_millisecond(), (now_ms - age) as i64);
        }
    }
}
