//! The columns of every file, one line each.
//!
//! This table drives the schema, the values of an event, reading rows back, sorting them and rewriting files. To add a
//! column, add its line at the end and its row in `docs/warehouse.md`. Field ids are positions, so lines must never be
//! moved or removed. A file without a column that is not `mandatory` is read as if the column were empty.

use std::borrow::Cow;

use crate::event::{DeviceRef, EventRef};

use super::define::columns;
use super::origin::Origin;

columns! {
    // name          kind and options                  value in an event or in its device context
    id:              Text(mandatory, bounds, bloom)  = |event, _| event.id;
    device_id:       Text(mandatory, bounds, bloom)  = |event, _| event.device_id;
    timestamp_ms:    Number(mandatory)               = |event, _| event.timestamp_ms;
    correlation_id:  Text(bounds)                    = |event, _| event.correlation_id;
    event_category:  Category(mandatory);
    event_type:      EventType(mandatory);
    platform:        DeviceText                      = |device| device.platform_name();
    os_version:      DeviceText                      = |device| device.os_version.into();
    app_version:     DeviceText                      = |device| device.app_version.into();
    build_number:    DeviceText                      = |device| device.build_number.into();
    device_model:    DeviceText                      = |device| device.device_model.into();
    manufacturer:    DeviceText                      = |device| device.manufacturer.into();
    screen_width:    DeviceNumber                    = |device| device.screen_width;
    screen_height:   DeviceNumber                    = |device| device.screen_height;
    locale:          DeviceText                      = |device| device.locale.into();
    timezone:        DeviceText                      = |device| device.timezone.into();
    network_type:    DeviceText                      = |device| device.network_type_name();
    carrier:         DeviceText                      = |device| device.carrier.into();
    is_jailbroken:   DeviceFlag                      = |device| device.is_jailbroken;
    is_emulator:     DeviceFlag                      = |device| device.is_emulator;
    sdk_version:     DeviceText                      = |device| device.sdk_version.into();
    payload_json:    Payload(mandatory);
    received_at_ms:  Number(mandatory)               = |_, origin| origin.received_at_ms;
    idempotency_key: Text(bounds)                    = |event, _| event.idempotency_key;
    stream_sequence: Number(mandatory)               = |_, origin| origin.sequence as i64;
    user_id:         Text(bounds, bloom)             = |event, _| event.user_id;
    session_id:      Text(bounds)                    = |event, _| event.session_id;
}

/// How a column is encoded and where its values come from. Only device columns are nullable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Mostly distinct texts.
    Text,
    Number,
    /// The category and the type of the event, which follow from its payload.
    Category,
    EventType,
    /// The payload as JSON.
    Payload,
    /// Values of the device context, NULL without one. Their texts repeat, so they have dictionaries.
    DeviceText,
    DeviceNumber,
    DeviceFlag,
}

impl Kind {
    pub(crate) fn is_nullable(self) -> bool {
        matches!(self, Self::DeviceText | Self::DeviceNumber | Self::DeviceFlag)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) options: Options,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Files of every version have it.
    pub(crate) mandatory: bool,
    /// Pages and chunks have the smallest and the largest value.
    pub(crate) bounds: bool,
    /// Chunks have a Bloom filter.
    pub(crate) bloom: bool,
}

impl Options {
    const NONE: Self = Self { mandatory: false, bounds: false, bloom: false };
}

pub(crate) const TEXTS: usize = count(Kind::Text);
pub(crate) const NUMBERS: usize = count(Kind::Number);
pub(crate) const DEVICE_TEXTS: usize = count(Kind::DeviceText);
pub(crate) const DEVICE_NUMBERS: usize = count(Kind::DeviceNumber);
pub(crate) const DEVICE_FLAGS: usize = count(Kind::DeviceFlag);

// Positions among the columns of their kind.
pub(crate) const ID: usize = position("id");
pub(crate) const DEVICE_ID: usize = position("device_id");
pub(crate) const USER_ID: usize = position("user_id");
pub(crate) const TIMESTAMP_MS: usize = position("timestamp_ms");
pub(crate) const STREAM_SEQUENCE: usize = position("stream_sequence");

/// The columns of one kind, in order.
pub(crate) fn of_kind(kind: Kind) -> impl Iterator<Item = &'static Column> {
    COLUMNS.iter().filter(move |column| column.kind == kind)
}

/// The values of an event in the columns that are filled row by row, each kind in table order.
pub(crate) struct Values<'a> {
    pub(crate) texts: [&'a str; TEXTS],
    pub(crate) numbers: [i64; NUMBERS],
}

/// The values of a device context, each kind in table order.
#[derive(Clone, Copy)]
pub(crate) struct DeviceValues<T> {
    pub(crate) texts: [T; DEVICE_TEXTS],
    pub(crate) numbers: [i32; DEVICE_NUMBERS],
    pub(crate) flags: [bool; DEVICE_FLAGS],
}

const fn count(kind: Kind) -> usize {
    let (mut count, mut at) = (0, 0);
    while at < COLUMNS.len() {
        if COLUMNS[at].kind as u8 == kind as u8 {
            count += 1;
        }
        at += 1;
    }
    count
}

const fn position(name: &str) -> usize {
    let mut at = 0;
    while at < COLUMNS.len() {
        if is_equal(COLUMNS[at].name, name) {
            let (mut before, mut position) = (0, 0);
            while before < at {
                if COLUMNS[before].kind as u8 == COLUMNS[at].kind as u8 {
                    position += 1;
                }
                before += 1;
            }
            return position;
        }
        at += 1;
    }
    panic!("there is no such column")
}

const fn is_equal(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// Fills an array from its beginning.
struct Filling<T, const N: usize> {
    values: [T; N],
    filled: usize,
}

impl<T, const N: usize> Filling<T, N> {
    #[inline(always)]
    fn push(&mut self, value: T) {
        self.values[self.filled] = value;
        self.filled += 1;
    }
}

// These only tell the compiler the types of the closures in the table.
#[inline(always)]
fn of_event<'a, T>(event: &EventRef<'a>, origin: Origin, value: impl FnOnce(&EventRef<'a>, Origin) -> T) -> T {
    value(event, origin)
}

#[inline(always)]
fn of_device<'a, T>(device: &DeviceRef<'a>, value: impl FnOnce(&DeviceRef<'a>) -> T) -> T {
    value(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_documented_with_their_types() {
        let documentation = include_str!("../../../docs/warehouse.md");
        for column in COLUMNS {
            let rows = documentation.lines().filter(|line| line.starts_with('|'));
            let name = format!("`{}`", column.name);
            let row = rows
                .map(|row| row.split('|').collect::<Vec<_>>())
                .find(|cells| cells.len() == 5 && cells[1].split(',').any(|documented| documented.trim() == name));
            let documented = row.unwrap_or_else(|| panic!("docs/warehouse.md has no row with {name}"))[2].trim();
            let expected = match column.kind {
                Kind::Number => "int64",
                Kind::DeviceNumber => "int32",
                Kind::DeviceFlag => "boolean",
                _ => "string",
            };
            assert_eq!(documented, expected, "{name}");
        }
    }

    #[test]
    fn positions_count_within_a_kind() {
        assert_eq!((ID, DEVICE_ID, USER_ID), (0, 1, 4));
        assert_eq!((TIMESTAMP_MS, STREAM_SEQUENCE), (0, 2));
        assert_eq!((TEXTS, NUMBERS, DEVICE_TEXTS, DEVICE_NUMBERS, DEVICE_FLAGS), (6, 3, 11, 2, 2));
    }
}
