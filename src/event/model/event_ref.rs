//! A stored event, read in place from its protobuf bytes.
//!
//! Invariant: an event that [`EventRef::decode`] returns is well-formed down to the last nested value, so writing its
//! JSON cannot fail. When a field occurs twice, the last occurrence counts.

use std::borrow::Cow;

use super::device_ref::DeviceRef;
use super::envelope::Envelope;
use crate::event::codec::well_formed::check_message;
use crate::event::codec::wire::{DecodeError, Reader, text};
use crate::event::schema::limits::{STORED_BYTES_MAX, STORED_VALUES_MAX};
use crate::event::schema::tables::{DEVICE_CONTEXT, Kind};

/// Nesting depth of messages in one event. Each JSON level of a custom event's `properties` takes up to three.
const MESSAGE_DEPTH_MAX: usize = 128;

/// A smaller event cannot have more than [`STORED_VALUES_MAX`] values of at least two bytes each.
const TRUSTED_BYTES_MAX: usize = 64 << 10;

const NO_PAYLOAD: DecodeError = DecodeError::new("no payload");
const TOO_LARGE: DecodeError = DecodeError::new("it has more than 16 MiB");

#[derive(Clone, Copy, Debug)]
pub struct EventRef<'a> {
    pub id: &'a str,
    pub app_id: &'a str,
    pub device_id: &'a str,
    pub timestamp_ms: i64,
    pub correlation_id: &'a str,
    pub idempotency_key: &'a str,
    pub user_id: &'a str,
    pub session_id: &'a str,
    /// Bytes of the device context, if present. [`EventRef::device`] reads them.
    pub device_bytes: Option<&'a [u8]>,
    pub kind: &'static Kind,
    /// The payload message's bytes.
    pub payload: &'a [u8],
    /// The whole encoded event.
    pub bytes: &'a [u8],
}

impl<'a> EventRef<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let event = Self::read(bytes)?;
        event.check()?;
        Ok(event)
    }

    /// Decodes bytes that [`request`](crate::event::request) once accepted: reads only the envelope. Checking the rest
    /// again would cost more than all other work on most events. Large events are checked nevertheless: an older
    /// version or another publisher may have let in one that takes many times its size in memory.
    pub fn decode_admitted(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let event = Self::read(bytes)?;
        if bytes.len() > TRUSTED_BYTES_MAX {
            event.check()?;
        }
        Ok(event)
    }

    fn check(&self) -> Result<(), DecodeError> {
        if self.bytes.len() > STORED_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        let mut values = STORED_VALUES_MAX;
        check_message(self.kind.message, self.payload, MESSAGE_DEPTH_MAX, &mut values)?;
        check_message(&DEVICE_CONTEXT, self.device_bytes.unwrap_or_default(), MESSAGE_DEPTH_MAX, &mut values)
    }

    /// Reads only the envelope.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let envelope = Envelope::read(bytes)?;
        let (kind, payload) = envelope.payload.ok_or(NO_PAYLOAD)?;
        Ok(Self {
            id: text(envelope.id)?,
            app_id: text(envelope.app_id)?,
            device_id: text(envelope.device_id)?,
            timestamp_ms: envelope.timestamp_ms,
            correlation_id: text(envelope.correlation_id)?,
            idempotency_key: text(envelope.idempotency_key)?,
            user_id: text(envelope.user_id)?,
            session_id: text(envelope.session_id)?,
            device_bytes: envelope.device,
            kind,
            payload,
            bytes,
        })
    }

    /// The app id and the timestamp, without the rest of the envelope.
    pub fn app_and_timestamp(bytes: &'a [u8]) -> Result<(&'a str, i64), DecodeError> {
        let (mut app_id, mut timestamp_ms) = ("", 0);
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                2 => app_id = value.text()?,
                4 => timestamp_ms = value.varint()?.cast_signed(),
                _ => {}
            }
        }
        Ok((app_id, timestamp_ms))
    }

    /// The device context, if present.
    pub fn device(&self) -> Option<DeviceRef<'a>> {
        self.device_bytes.map(|bytes| DeviceRef::decode(bytes).unwrap_or_default())
    }

    pub fn category(&self) -> &'static str {
        self.kind.category
    }

    /// The event type. For a custom event, its `event_name` in lower case.
    pub fn event_type(&self) -> Cow<'a, str> {
        if !self.kind.is_custom() {
            return Cow::Borrowed(self.kind.event_type);
        }
        let mut name = "";
        let mut reader = Reader::new(self.payload);
        while let Ok(Some((number, value))) = reader.next() {
            if number == 1 {
                name = value.text().unwrap_or_default();
            }
        }
        lower_case(name)
    }
}

/// The type of a custom event with this name.
pub(crate) fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.to_lowercase())
    }
}
