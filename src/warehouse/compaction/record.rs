//! One row as bytes, while rows are sorted: what is compared comes first, the device context last.
//!
//! ```text
//! timestamp_ms i64 │ stream_sequence i64 │ received_at_ms i64 │ device_id │ id │ six more texts
//! │ event_category │ event_type │ 1: a device context follows, to the end of the record; 0: none
//! ```
//!
//! Texts have their length as a LEB128 varint before them. Records live as long as one process: there is no older form.

use std::cmp::Ordering;

use crate::warehouse::WarehouseError;
use crate::warehouse::columns::device::RowDevice;
use crate::warehouse::columns::row::StoredRow;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::varint::{put_varint, take_text};

const HEAD_BYTES: usize = 24;

/// What settles nearly every comparison: the time, and the first bytes of the device's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    timestamp_ms: i64,
    device: u64,
}

impl Key {
    pub(super) fn of(row: &StoredRow<'_>) -> Self {
        Self { timestamp_ms: row.timestamp_ms, device: prefix(row.device_id.as_bytes()) }
    }

    pub(super) fn of_record(record: &[u8]) -> Option<Self> {
        let mut rest = record.get(HEAD_BYTES..)?;
        let device = prefix(take_text(&mut rest)?.as_bytes());
        Some(Self { timestamp_ms: number(record, 0), device })
    }
}

fn prefix(text: &[u8]) -> u64 {
    let mut first = [0; 8];
    let length = text.len().min(8);
    first[..length].copy_from_slice(&text[..length]);
    u64::from_be_bytes(first)
}

fn number(record: &[u8], at: usize) -> i64 {
    record.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_le_bytes)
}

pub(super) fn put(out: &mut Vec<u8>, row: &StoredRow<'_>) {
    for number in [row.timestamp_ms, row.stream_sequence, row.received_at_ms] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let texts = [
        row.device_id,
        row.id,
        row.correlation_id,
        row.payload_json,
        row.idempotency_key,
        row.user_id,
        row.session_id,
        row.event_category,
        row.event_type,
    ];
    for text in texts {
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
    let mut text = || take_text(&mut rest);
    Some(StoredRow {
        timestamp_ms: number(record, 0),
        stream_sequence: number(record, 8),
        received_at_ms: number(record, 16),
        device_id: text()?,
        id: text()?,
        correlation_id: text()?,
        payload_json: text()?,
        idempotency_key: text()?,
        user_id: text()?,
        session_id: text()?,
        event_category: text()?,
        event_type: text()?,
        device: match rest.split_first()? {
            (0, []) => None,
            (1, packed) => Some(RowDevice::Packed(packed)),
            _ => return None,
        },
    })
}

/// The order of rows with equal keys: by all of the device's id, then what makes rows that repeat others neighbours.
pub(super) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let parts = |record| {
        let (device_id, id) = ids(record).unwrap_or_default();
        (device_id, number(record, 8), id)
    };
    parts(one).cmp(&parts(other))
}

fn ids(record: &[u8]) -> Option<(&str, &str)> {
    let mut rest = record.get(HEAD_BYTES..)?;
    Some((take_text(&mut rest)?, take_text(&mut rest)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::columns::device::{DEVICE_TEXTS, PlainDevice, StoredDevice};

    fn stored<'a>(timestamp_ms: i64, device_id: &'a str, stream_sequence: i64, id: &'a str) -> StoredRow<'a> {
        let plain = PlainDevice { screen_width: -1, screen_height: 7, is_jailbroken: false, is_emulator: true };
        let device = StoredDevice { texts: ["phone"; DEVICE_TEXTS], plain };
        StoredRow {
            id,
            device_id,
            timestamp_ms,
            correlation_id: "c",
            event_category: "commerce",
            event_type: "purchase",
            device: (id != "bare").then_some(RowDevice::Read(device)),
            payload_json: "{}",
            received_at_ms: 3,
            idempotency_key: "",
            stream_sequence,
            user_id: "u",
            session_id: "",
        }
    }

    #[test]
    fn a_row_comes_back_and_its_bytes_are_refused_when_cut() {
        for id in ["a", "bare", &"x".repeat(300)] {
            let mut bytes = Vec::new();
            put(&mut bytes, &stored(-5, "d", 9, id));
            let back = row(&bytes).unwrap();
            assert_eq!((back.timestamp_ms, back.stream_sequence, back.received_at_ms), (-5, 9, 3));
            assert_eq!((back.id, back.device_id, back.payload_json, back.event_type), (id, "d", "{}", "purchase"));
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
            (Key::of_record(&bytes).unwrap(), bytes)
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
            assert_eq!(order, Ordering::Less, "{:?}", row(&pair[1].1).unwrap().device_id);
        }
    }
}
