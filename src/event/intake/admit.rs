//! Validates an event and fills in what the gateway assigns: an id, a timestamp, and the app of the API key.

use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::field_error::{Errors, FieldError, Path};
use super::json_reader::JsonReader;
use super::validate::{MALFORMED, REQUIRED, Unchecked, check_integer, check_message, check_text};
use crate::event::codec::json_text::Malformed;
use crate::event::codec::wire::{put_bytes, put_number};
use crate::event::model::envelope::Envelope;
use crate::event::model::ids::{is_app_id, new_id};
use crate::event::schema::pattern::Pattern;
use crate::event::schema::tables::{DEVICE_CONTEXT, EVENT_ENVELOPE, envelope_field};

/// When an event arrived, for which app, and how large it may be.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Milliseconds since the Unix epoch. The timestamp of an event without one.
    pub received_at_ms: i64,
    /// The app of the API key that the request had.
    pub key_app: Option<&'a str>,
    /// Limit on the stored event.
    pub event_bytes_max: usize,
    /// The id of an event without one. `None` assigns a new id to each.
    pub assigned_id: Option<Uuid>,
}

/// Validates the encoded event that starts at `start`. If it is valid, appends the fields that the gateway assigns.
/// Returns whether it was canonical: see [`check_message`].
pub(crate) fn admit(
    bytes: &mut Vec<u8>,
    start: usize,
    unchecked: Unchecked,
    arrival: &Arrival<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) -> bool {
    let Ok(event) = Envelope::read(&bytes[start..]) else {
        errors.add(*at, MALFORMED);
        return false;
    };
    let mut envelope = EnvelopeCheck { at, errors };
    envelope.app(event.app_id, arrival.key_app);
    let mut canonical = true;
    if unchecked != Unchecked::AppAndPayload {
        canonical = event.is_canonical();
        envelope.check(&event);
        let device = event.device.map(|device| (&DEVICE_CONTEXT, "deviceContext", device));
        let payload = event.payload.map(|(kind, payload)| (kind.message, kind.json_name, payload));
        for (message, name, bytes) in [device, payload].into_iter().flatten() {
            canonical &= check_message(message, bytes, unchecked, &Path::Field(at, name), errors);
        }
    }
    if event.payload.is_none() {
        errors.add(*at, NO_PAYLOAD);
    }
    if !errors.is_empty() {
        return canonical;
    }
    let (id, app, timestamp) = (event.id.is_empty(), event.app_id.is_empty(), event.timestamp_ms == 0);
    if id {
        let id = arrival.assigned_id.map_or_else(|| new_id(arrival.received_at_ms), Uuid::hyphenated);
        put_bytes(bytes, 1, id.encode_lower(&mut [0; Hyphenated::LENGTH]).as_bytes());
    }
    if let (true, Some(app)) = (app, arrival.key_app) {
        put_bytes(bytes, 2, app.as_bytes());
    }
    if timestamp {
        put_number(bytes, 4, arrival.received_at_ms.cast_unsigned());
    }
    if let Err(detail) = check_size(bytes.len() - start, arrival) {
        errors.add(*at, detail);
    }
    canonical
}

/// Reads the JSON event that is the reader's next value, validates it and fills it in, or adds its errors.
pub(crate) fn admit_json(reader: &mut JsonReader<'_>, arrival: &Arrival<'_>, at: &Path<'_>) -> Result<(), Malformed> {
    let start = reader.out.len();
    reader.breaks_rules = false;
    reader.message(&EVENT_ENVELOPE, at)?;
    if reader.errors.is_empty() {
        let unchecked = if reader.breaks_rules { Unchecked::All } else { Unchecked::AppAndPayload };
        admit(&mut reader.out, start, unchecked, arrival, at, &mut reader.errors);
    }
    Ok(())
}

/// Checks the size of a stored event.
pub(crate) fn check_size(size: usize, arrival: &Arrival<'_>) -> Result<(), String> {
    let size_max = arrival.event_bytes_max;
    if size <= size_max {
        return Ok(());
    }
    Err(format!("must have at most {size_max} bytes when it is encoded, and has {size}"))
}

pub(crate) const OTHER_APP: &str = "must be the app of the API key";

/// Whether an event was refused because its app is not that of the API key.
pub fn is_of_other_app(errors: &[FieldError]) -> bool {
    errors.iter().any(|error| error.detail == OTHER_APP)
}

pub(crate) const NO_PAYLOAD: &str = "exactly one payload is required";

/// Validates the envelope's own fields.
struct EnvelopeCheck<'p, 'e> {
    at: &'p Path<'p>,
    errors: &'e mut Errors,
}

impl EnvelopeCheck<'_, '_> {
    fn app(&mut self, app_id: &[u8], key_app: Option<&str>) {
        match key_app {
            Some(_) if app_id.is_empty() => {}
            None if app_id.is_empty() => self.refuse("appId", REQUIRED),
            Some(app) if app.as_bytes() != app_id => self.refuse("appId", OTHER_APP),
            _ if !is_app_id(app_id) => self.refuse("appId", Pattern::AppId.detail()),
            _ => {}
        }
    }

    fn check(&mut self, event: &Envelope<'_>) {
        let field = envelope_field(4);
        check_integer(field.rules, event.timestamp_ms, &Path::Field(self.at, field.json_name), self.errors);
        for (number, text) in [
            (1, event.id),
            (3, event.device_id),
            (5, event.correlation_id),
            (7, event.idempotency_key),
            (8, event.user_id),
            (9, event.session_id),
        ] {
            let field = envelope_field(number);
            if field.rules.required && text.is_empty() {
                self.refuse(field.json_name, REQUIRED);
            } else {
                check_text(field.rules, text, &Path::Field(self.at, field.json_name), self.errors);
            }
        }
    }

    fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        self.errors.add(Path::Field(self.at, name), detail);
    }
}
