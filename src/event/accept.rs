//! Whether an event may enter, and what it gets at the door: an id, a timestamp and the
//! app of the key it came with.

use std::cell::RefCell;

use data_encoding::HEXLOWER;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::invalid::{Errors, FieldError, Path};
use super::pattern::Pattern;
use super::rules::{MALFORMED, REQUIRED, Unchecked, check_integer, check_message, check_text};
use super::schema::{DEVICE_CONTEXT, EVENT_ENVELOPE, Field, Rules};
use super::stored::{Envelope, EventRef};
use super::wire::{DecodeError, put_bytes, put_number};

/// When an event arrived, for whom, and how large it may be.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// Milliseconds since the Unix epoch; the timestamp of an event without one.
    pub received_at_ms: i64,
    /// The app of the API key that the event came with.
    pub key_app: Option<&'a str>,
    /// Of the event as it is stored.
    pub event_bytes_max: usize,
    /// What an event without an id gets for one; nothing: a new one each.
    pub assigned_id: Option<Uuid>,
}

/// Checks the encoded event that begins at `start` and, when nothing is wrong with it, appends
/// the fields that the gateway assigns.
pub(super) fn admit(
    bytes: &mut Vec<u8>,
    start: usize,
    unchecked: Unchecked,
    arrival: &Arrival<'_>,
    at: &Path<'_>,
    errors: &mut Errors,
) {
    let Ok(event) = Envelope::read(&bytes[start..]) else {
        return errors.add(*at, MALFORMED);
    };
    let mut head = Head { at, errors };
    head.app(event.app_id, arrival.key_app);
    head.check(&event);
    if let Some(device) = event.device {
        check_message(&DEVICE_CONTEXT, device, unchecked, &Path::Field(at, "deviceContext"), errors);
    }
    match event.payload {
        Some((kind, payload)) => {
            check_message(kind.message, payload, unchecked, &Path::Field(at, kind.json_name), errors);
        }
        None => errors.add(*at, NO_PAYLOAD),
    }
    if !errors.is_empty() {
        return;
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
}

/// Whether an event of this size may be stored.
pub(super) fn check_size(size: usize, arrival: &Arrival<'_>) -> Result<(), String> {
    let size_max = arrival.event_bytes_max;
    if size <= size_max {
        return Ok(());
    }
    Err(format!("must have at most {size_max} bytes when it is encoded, and has {size}"))
}

pub(super) const OTHER_APP: &str = "must be the app of the API key";

/// Whether an event was refused for belonging to another app than the key that it came with.
pub fn is_of_other_app(errors: &[FieldError]) -> bool {
    errors.iter().any(|error| error.detail == OTHER_APP)
}

pub(super) const NO_PAYLOAD: &str = "exactly one payload is required";

thread_local! {
    /// Random bytes at hand, and how many of them are used up: one system call serves hundreds of ids.
    static RANDOM: RefCell<([u8; RANDOM_BYTES], usize)> = const { RefCell::new(([0; RANDOM_BYTES], RANDOM_BYTES)) };
}

const RANDOM_BYTES: usize = 2560;
const RANDOM_BYTES_OF_ID: usize = 10;

/// Checks the envelope's own fields.
struct Head<'p, 'e> {
    at: &'p Path<'p>,
    errors: &'e mut Errors,
}

impl Head<'_, '_> {
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
        let field = own(4);
        check_integer(field.rules, event.timestamp_ms, &Path::Field(self.at, field.json_name), self.errors);
        for (number, text) in [
            (1, event.id),
            (3, event.device_id),
            (5, event.correlation_id),
            (7, event.idempotency_key),
            (8, event.user_id),
            (9, event.session_id),
        ] {
            let field = own(number);
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

/// One of the envelope's own fields: they stand before the payloads, numbered from one.
#[inline]
fn own(number: usize) -> &'static Field {
    &EVENT_ENVELOPE.fields[number - 1]
}

/// Why the gateway would not have taken an event whose bytes came to the bus by another way. Only of what the stores
/// keep as text of its own: one of them cannot hold every character, nor index every length.
pub fn check_names(event: &EventRef<'_>) -> Result<(), DecodeError> {
    if !is_app_id(event.app_id) {
        return Err(DecodeError::new("its app_id is not one of an app"));
    }
    if !is_id(event.id) {
        return Err(DecodeError::new("its id is too long or has control characters"));
    }
    Ok(())
}

/// Whether an event may have this for an id, of itself, a device, a user, a session, or as its idempotency key.
pub fn is_id(text: &str) -> bool {
    is_allowed(own(1).rules, text.as_bytes())
}

/// Stands for an id that an event cannot have.
pub(super) fn hashed(id: &str) -> String {
    format!("sha256:{}", HEXLOWER.encode(digest(&SHA256, id.as_bytes()).as_ref()))
}

/// Whether an event may have happened at this time.
pub(super) fn is_time(milliseconds: i64) -> bool {
    milliseconds > 0 && own(4).rules.max.is_none_or(|max| milliseconds <= max)
}

/// Whether events and keys may belong to an app of this name.
pub fn is_app_id(text: impl AsRef<[u8]>) -> bool {
    let text = text.as_ref();
    !text.is_empty() && is_allowed(own(2).rules, text)
}

fn is_allowed(rules: &Rules, text: &[u8]) -> bool {
    rules.bytes_max.is_none_or(|bytes_max| text.len() <= bytes_max)
        && rules.pattern.is_none_or(|pattern| pattern.allows(text))
}

/// A UUIDv7 of the given time.
pub fn new_id(now_ms: i64) -> Hyphenated {
    let id = match random() {
        Some(random) => uuid::Builder::from_unix_timestamp_millis(now_ms.max(0).cast_unsigned(), &random).into_uuid(),
        None => Uuid::now_v7(),
    };
    id.hyphenated()
}

fn random() -> Option<[u8; RANDOM_BYTES_OF_ID]> {
    RANDOM.with_borrow_mut(|(bytes, used)| {
        if *used + RANDOM_BYTES_OF_ID > RANDOM_BYTES {
            SystemRandom::new().fill(bytes).ok()?;
            *used = 0;
        }
        let taken = bytes[*used..].first_chunk().copied();
        *used += RANDOM_BYTES_OF_ID;
        taken
    })
}
