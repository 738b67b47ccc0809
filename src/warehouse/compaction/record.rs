//! A row as bytes, while rows are sorted.
//!
//! ```text
//! numbers i64, in table order │ texts, in table order │ payload_json │ event_category │ event_type
//! │ u8 1 and the device context, to the end of the record; or u8 0
//! ```
//!
//! A LEB128 varint with its length precedes each text. Records live only as long as the process, so there are no versions.

use std::cmp::Ordering;

use crate::base::varint::{put_varint, take_text};
use crate::warehouse::WarehouseError;
use crate::warehouse::columns::device::RowDevice;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::columns::table::{self, NUMBERS, TEXTS, Values};
use crate::warehouse::error::WarehouseErrorKind;

const NUMBER_BYTES: usize = 8;
const HEAD_BYTES: usize = NUMBERS * NUMBER_BYTES;

/// Decides nearly every comparison: the time, and the first bytes of the device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowKey {
    timestamp_ms: i64,
    device: u64,
}

impl RowKey {
    pub(super) fn of(row: &StoredRow<'_>) -> Self {
        Self { timestamp_ms: row.timestamp_ms(), device: prefix(row.device_id().as_bytes()) }
    }

    pub(super) fn of_record(record: &[u8]) -> Option<Self> {
        let (device_id, _) = ids(record)?;
        Some(Self { timestamp_ms: number(record, table::TIMESTAMP_MS), device: prefix(device_id.as_bytes()) })
    }
}

fn prefix(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(8);
    first[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(first)
}

fn number(record: &[u8], position: usize) -> i64 {
    let bytes = record.get(position * NUMBER_BYTES..).and_then(|rest| rest.first_chunk());
    bytes.map_or(0, |bytes| i64::from_le_bytes(*bytes))
}

pub(super) fn put(out: &mut Vec<u8>, row: &StoredRow<'_>) {
    for number in row.values.numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for text in row.values.texts.into_iter().chain([row.payload_json, row.event_category, row.event_type]) {
        put_varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    out.push(u8::from(row.device.is_some()));
    match &row.device {
        None => {}
        Some(RowDevice::Read(device)) => device.pack(out),
        Some(RowDevice::Packed(packed)) => out.extend_from_slice(packed),
    }
}

pub(super) fn row(record: &[u8]) -> Result<StoredRow<'_>, WarehouseError> {
    parse(record).ok_or_else(|| WarehouseError::new(WarehouseErrorKind::Encode, "read sorted row"))
}

fn parse(record: &[u8]) -> Option<StoredRow<'_>> {
    let mut rest = record.get(HEAD_BYTES..)?;
    let mut texts = [""; TEXTS];
    for text in &mut texts {
        *text = take_text(&mut rest)?;
    }
    Some(StoredRow {
        values: Values { texts, numbers: std::array::from_fn(|position| number(record, position)) },
        payload_json: take_text(&mut rest)?,
        event_category: take_text(&mut rest)?,
        event_type: take_text(&mut rest)?,
        device: match rest.split_first()? {
            (0, []) => None,
            (1, packed) => Some(RowDevice::Packed(packed)),
            _ => return None,
        },
    })
}

/// The order of rows with equal keys: by device id, then so that repeated rows become neighbours.
pub(super) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let parts = |record| {
        let (device_id, id) = ids(record).unwrap_or_default();
        (device_id, number(record, table::STREAM_SEQUENCE), id)
    };
    parts(one).cmp(&parts(other))
}

/// The device id and the id.
fn ids(record: &[u8]) -> Option<(&str, &str)> {
    // They are the first two texts.
    const { assert!(table::ID == 0 && table::DEVICE_ID == 1) };
    let mut rest = record.get(HEAD_BYTES..)?;
    let id = take_text(&mut rest)?;
    Some((take_text(&mut rest)?, id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::columns::table::{DEVICE_TEXTS, DeviceValues};

    fn stored<'a>(timestamp_ms: i64, device_id: &'a str, stream_sequence: i64, id: &'a str) -> StoredRow<'a> {
        let device = DeviceValues { texts: ["phone"; DEVICE_TEXTS], numbers: [-1, 7], flags: [false, true] };
        let mut values = Values { texts: ["text"; TEXTS], numbers: [3; NUMBERS] };
        (values.texts[table::ID], values.texts[table::DEVICE_ID]) = (id, device_id);
        values.numbers[table::TIMESTAMP_MS] = timestamp_ms;
        values.numbers[table::STREAM_SEQUENCE] = stream_sequence;
        StoredRow {
            values,
            event_category: "commerce",
            event_type: "purchase",
            payload_json: "{}",
            device: (id != "bare").then_some(RowDevice::Read(device)),
        }
    }

    #[test]
    fn a_row_survives_the_round_trip_and_truncated_bytes_are_an_error() {
        for id in ["a", "bare", &"x".repeat(300)] {
            let mut bytes = Vec::new();
            put(&mut bytes, &stored(-5, "d", 9, id));
            let back = row(&bytes).unwrap();
            assert_eq!((back.timestamp_ms(), back.stream_sequence(), back.values.numbers), (-5, 9, [-5, 3, 9]));
            assert_eq!((back.id(), back.device_id(), back.payload_json, back.event_type), (id, "d", "{}", "purchase"));
            let mut again = Vec::new();
            put(&mut again, &back);
            assert_eq!(again, bytes);
            assert!(row(&bytes[..10]).is_err());
        }
    }

    #[test]
    fn rows_are_ordered_by_time_device_sequence_and_id() {
        let bytes = |(time, device, sequence, id)| {
            let mut bytes = Vec::new();
            put(&mut bytes, &stored(time, device, sequence, id));
            (RowKey::of_record(&bytes).unwrap(), bytes)
        };
        let ordered = [
            (-1, "z", 9, "z"),
            (0, "", 9, "z"),
            (0, "device-1", 9, "z"),
            (0, "device-10", 8, "z"),
            (0, "device-10", 9, "a"),
            (0, "device-10", 9, "b"),
            (0, "device-2", 1, "a"),
            (1, "a", 1, "a"),
        ];
        for pair in ordered.map(bytes).windows(2) {
            let order = pair[0].0.cmp(&pair[1].0).then_with(|| compare(&pair[0].1, &pair[1].1));
            assert_eq!(order, Ordering::Less, "{:?}", row(&pair[1].1).unwrap().device_id());
        }
    }
}
