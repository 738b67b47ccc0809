//! A stored event, read in place from its protobuf bytes.
//!
//! Invariant: what [`EventRef::decode`] reads is well-formed down to the last nested value, so
//! that writing its JSON afterwards cannot fail. A field that comes twice counts as it came last.

use std::borrow::Cow;

use super::json_view::{self, Int64};
use super::limits::{STORED_BYTES_MAX, STORED_VALUES_MAX};
use super::schema::{DEVICE_CONTEXT, Enum, Kind, Message, NETWORK_TYPE, PLATFORM, STRUCT, Shape};
use super::wire::{DecodeError, Reader, TOO_DEEP, Value, WRONG_TYPE, text};

/// Nested messages in one event. Each JSON level of a custom event's `properties` takes up to three.
const MESSAGE_DEPTH_MAX: usize = 128;

/// Nothing that is smaller can hold more than [`STORED_VALUES_MAX`] values, each of at least two bytes.
const TRUSTED_BYTES_MAX: usize = 64 << 10;

const NO_PAYLOAD: DecodeError = DecodeError::new("no payload");
const TOO_LARGE: DecodeError = DecodeError::new("it has more than 16 MiB");
const TOO_MANY_VALUES: DecodeError =
    DecodeError::new("its lists, maps and properties hold more than 50000 values together");

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
    /// The device context's bytes, when one was sent; [`EventRef::device`] reads them.
    pub device_bytes: Option<&'a [u8]>,
    pub kind: &'static Kind,
    /// The payload message's bytes.
    pub payload: &'a [u8],
    /// The whole event, as it was decoded from.
    pub bytes: &'a [u8],
}

/// The device context, when one was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceRef<'a> {
    pub platform: i32,
    pub os_version: &'a str,
    pub app_version: &'a str,
    pub build_number: &'a str,
    pub device_model: &'a str,
    pub manufacturer: &'a str,
    pub screen_width: i32,
    pub screen_height: i32,
    pub locale: &'a str,
    pub timezone: &'a str,
    pub network_type: i32,
    pub carrier: &'a str,
    pub is_jailbroken: bool,
    pub is_emulator: bool,
    pub sdk_version: &'a str,
}

impl<'a> EventRef<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let event = Self::read(bytes)?;
        event.check()?;
        Ok(event)
    }

    /// Of bytes that [`super::request`] once accepted: only the envelope is looked at. Checking the
    /// rest a second time would cost more than all else that is done with most events. What is large is
    /// checked all the same: older versions and other publishers may have let in what takes many times its size.
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

    /// Looks at the envelope only.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
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

    /// The app id and the timestamp, which [`EventRef::decode_admitted`] would read as well.
    pub fn place(bytes: &'a [u8]) -> Result<(&'a str, i64), DecodeError> {
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

    /// The device context, when one was sent.
    pub fn device(&self) -> Option<DeviceRef<'a>> {
        self.device_bytes.map(|bytes| DeviceRef::decode(bytes).unwrap_or_default())
    }

    pub fn category(&self) -> &'static str {
        self.kind.category
    }

    /// Of a custom event its lower-cased `event_name`.
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

    /// Appends the payload's object in the rule view: snake_case, enum names, defaults included. A message
    /// that was not sent is absent.
    pub fn write_payload_json(&self, out: &mut Vec<u8>) {
        json_view::write_payload(out, self);
    }

    /// Appends the whole rule view. Messages that were not sent (`device_context`, those of the payload) are
    /// absent; every other field of the envelope and of its payload is there, the payload under its field's name.
    pub fn write_view_json(&self, out: &mut Vec<u8>) {
        json_view::write_event(out, self, Int64::AsNumber);
    }

    /// The same with 64-bit integers as the reader needs them.
    pub fn write_view_json_with(&self, out: &mut Vec<u8>, int64: Int64) {
        json_view::write_event(out, self, int64);
    }

    /// The rule view as a value.
    pub fn view(&self) -> serde_json::Value {
        let mut json = Vec::with_capacity(2 * self.payload.len() + 1024);
        self.write_view_json(&mut json);
        serde_json::from_slice(&json).unwrap_or_default()
    }
}

/// The envelope's own fields as they stand; what is nested in it is not looked at, nor whether texts are UTF-8.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) id: &'a [u8],
    pub(super) app_id: &'a [u8],
    pub(super) device_id: &'a [u8],
    pub(super) timestamp_ms: i64,
    pub(super) correlation_id: &'a [u8],
    pub(super) idempotency_key: &'a [u8],
    pub(super) user_id: &'a [u8],
    pub(super) session_id: &'a [u8],
    pub(super) device: Option<&'a [u8]>,
    pub(super) payload: Option<(&'static Kind, &'a [u8])>,
}

impl<'a> Envelope<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut envelope = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => envelope.id = value.bytes()?,
                2 => envelope.app_id = value.bytes()?,
                3 => envelope.device_id = value.bytes()?,
                4 => envelope.timestamp_ms = value.varint()?.cast_signed(),
                5 => envelope.correlation_id = value.bytes()?,
                6 => envelope.device = Some(value.bytes()?),
                7 => envelope.idempotency_key = value.bytes()?,
                8 => envelope.user_id = value.bytes()?,
                9 => envelope.session_id = value.bytes()?,
                _ => {
                    if let Some(kind) = Kind::by_number(number) {
                        envelope.payload = Some((kind, value.bytes()?));
                    }
                }
            }
        }
        Ok(envelope)
    }
}

impl<'a> DeviceRef<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        let mut reader = Reader::new(bytes);
        while let Some((number, value)) = reader.next()? {
            match number {
                1 => device.platform = value.varint()? as i32,
                2 => device.os_version = value.text()?,
                3 => device.app_version = value.text()?,
                4 => device.build_number = value.text()?,
                5 => device.device_model = value.text()?,
                6 => device.manufacturer = value.text()?,
                7 => device.screen_width = value.varint()? as i32,
                8 => device.screen_height = value.varint()? as i32,
                9 => device.locale = value.text()?,
                10 => device.timezone = value.text()?,
                11 => device.network_type = value.varint()? as i32,
                12 => device.carrier = value.text()?,
                13 => device.is_jailbroken = value.varint()? != 0,
                14 => device.is_emulator = value.varint()? != 0,
                15 => device.sdk_version = value.text()?,
                _ => {}
            }
        }
        Ok(device)
    }
}

impl DeviceRef<'_> {
    /// `PLATFORM_IOS` and so on; a number without a name as itself.
    pub fn platform_name(&self) -> Cow<'static, str> {
        name_or_number(&PLATFORM, self.platform)
    }

    pub fn network_type_name(&self) -> Cow<'static, str> {
        name_or_number(&NETWORK_TYPE, self.network_type)
    }
}

fn name_or_number(names: &Enum, number: i32) -> Cow<'static, str> {
    names.name(number).map_or_else(|| number.to_string().into(), Cow::Borrowed)
}

/// The type of a custom event called `name`.
pub(super) fn lower_case(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|byte| byte.is_ascii() && !byte.is_ascii_uppercase()) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(name.to_lowercase())
    }
}

/// Walks a message and all that it holds, which may be so many `values` in lists and maps.
pub(super) fn check_message(
    message: &Message,
    bytes: &[u8],
    depth: usize,
    values: &mut usize,
) -> Result<(), DecodeError> {
    let depth = depth.checked_sub(1).ok_or(TOO_DEEP)?;
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.next()? {
        if let Some((_, field)) = message.field(number) {
            check_value(&field.shape, value, depth, values)?;
        }
    }
    Ok(())
}

fn check_value(shape: &Shape, value: Value<'_>, depth: usize, values: &mut usize) -> Result<(), DecodeError> {
    match (shape, value) {
        (Shape::String, value) => value.text().map(|_| ()),
        (Shape::Bool | Shape::Int32 | Shape::Int64 | Shape::Enum(_), Value::Varint(_))
        | (Shape::Float, Value::Fixed32(_))
        | (Shape::Double, Value::Fixed64(_)) => Ok(()),
        (Shape::Message(message) | Shape::Payload(message), value) => {
            check_message(message, value.bytes()?, depth, values)
        }
        (Shape::Struct, value) => check_message(&STRUCT, value.bytes()?, depth, values),
        (Shape::List(element), value) => {
            *values = values.checked_sub(1).ok_or(TOO_MANY_VALUES)?;
            check_value(&element.shape, value, depth, values)
        }
        (Shape::Map(entry), value) => {
            *values = values.checked_sub(1).ok_or(TOO_MANY_VALUES)?;
            let mut reader = Reader::new(value.bytes()?);
            while let Some((number, value)) = reader.next()? {
                match number {
                    1 => value.text().map(|_| ())?,
                    2 => check_value(&entry.shape, value, depth, values)?,
                    _ => {}
                }
            }
            Ok(())
        }
        _ => Err(WRONG_TYPE),
    }
}
