//! Random events of every kind, for property tests. Walks the field tables and writes protobuf bytes, so new fields are
//! covered without a change here.

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng};
use prost::Message as _;

use super::codec::wire::{put_bytes, put_double, put_float, put_number};
use super::proto::EventEnvelope;
use super::schema::pattern::Pattern;
use super::schema::tables::{DEVICE_CONTEXT, Field, Kind, Message, Rules, Shape};

/// A valid event of the kind at `position` in [`Kind::all`].
pub(crate) fn event(position: usize, seed: [u8; 32]) -> EventEnvelope {
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let kind = &Kind::all()[position];
    let mut bytes = Vec::new();
    for (number, text) in [(1, "id"), (2, "shop"), (3, "device"), (5, ""), (7, "key é"), (8, ""), (9, "s")] {
        put_bytes(&mut bytes, number, text.as_bytes());
    }
    put_number(&mut bytes, 4, u64::from(rng.next_u32()) + 1);
    if rng.next_u32().is_multiple_of(2) {
        let device = message(&DEVICE_CONTEXT, &mut rng);
        put_bytes(&mut bytes, 6, &device);
    }
    let payload = message(kind.message, &mut rng);
    put_bytes(&mut bytes, kind.number, &payload);
    EventEnvelope::decode(bytes.as_slice()).expect("decode sample")
}

pub(super) fn any_event() -> impl Strategy<Value = EventEnvelope> {
    (0..Kind::all().len(), any::<[u8; 32]>()).prop_map(|(position, seed)| event(position, seed))
}

fn message(message: &Message, rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for field in message.fields {
        if field.rules.required || !rng.next_u32().is_multiple_of(4) {
            value(&mut bytes, field, rng);
        }
    }
    bytes
}

fn value(out: &mut Vec<u8>, field: &Field, rng: &mut TestRng) {
    match &field.shape {
        Shape::String => put_bytes(out, field.number, text(field.rules.pattern, rng).as_bytes()),
        Shape::Bool => put_number(out, field.number, u64::from(rng.next_u32() % 2)),
        Shape::Int32 => put_number(out, field.number, integer(field.rules, rng) as i32 as i64 as u64),
        Shape::Int64 => put_number(out, field.number, integer(field.rules, rng) as u64),
        Shape::Enum(names) => put_number(out, field.number, u64::from(rng.next_u32()) % names.names.len() as u64),
        Shape::Float => put_float(out, field.number, rng.next_u32() as f32 / 1000.0 - 10.0),
        Shape::Double => put_double(out, field.number, double(rng)),
        Shape::Message(inner) | Shape::Payload(inner) => put_bytes(out, field.number, &message(inner, rng)),
        Shape::Struct => put_bytes(out, field.number, &object(3, rng)),
        Shape::List(element) => (0..rng.next_u32() % 4).for_each(|_| value(out, element, rng)),
        Shape::Map(entry) => {
            for key in 0..rng.next_u32() % 4 {
                let mut bytes = Vec::new();
                put_bytes(&mut bytes, 1, format!("k{key}\"").as_bytes());
                value(&mut bytes, entry, rng);
                put_bytes(out, field.number, &bytes);
            }
        }
    }
}

fn integer(rules: &Rules, rng: &mut TestRng) -> i64 {
    match (rules.min, rules.max) {
        (Some(min), Some(max)) => min + i64::from(rng.next_u32()) % (max - min + 1),
        (Some(min), None) => min + (i64::from(rng.next_u32() >> (rng.next_u32() % 32)) & 0x7fff_ffff),
        _ => (rng.next_u64() >> (rng.next_u32() % 64)) as i64,
    }
}

fn text(pattern: Option<Pattern>, rng: &mut TestRng) -> String {
    const LETTERS: [char; 14] =
        ['a', 'Z', '0', ' ', '"', '\\', '/', '\n', '\u{1}', '\u{7f}', 'é', '世', '🦀', '\u{2028}'];
    match pattern {
        Some(Pattern::Currency) => "EUR".into(),
        Some(Pattern::NoControl | Pattern::AppId) => format!("Event_{}", rng.next_u32() % 100),
        _ => (0..1 + rng.next_u32() % 20).map(|_| LETTERS[rng.next_u32() as usize % LETTERS.len()]).collect(),
    }
}

fn object(depth: u32, rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    for key in 0..rng.next_u32() % 4 {
        let mut entry = Vec::new();
        put_bytes(&mut entry, 1, format!("key {key}").as_bytes());
        put_bytes(&mut entry, 2, &any_value(depth, rng));
        put_bytes(&mut bytes, 1, &entry);
    }
    bytes
}

fn any_value(depth: u32, rng: &mut TestRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    match rng.next_u32() % if depth == 0 { 5 } else { 7 } {
        0 => put_number(&mut bytes, 1, 0),
        1 => put_double(&mut bytes, 2, double(rng)),
        2 => put_bytes(&mut bytes, 3, text(None, rng).as_bytes()),
        3 => put_number(&mut bytes, 4, 1),
        4 => put_number(&mut bytes, 4, 0),
        5 => put_bytes(&mut bytes, 5, &object(depth - 1, rng)),
        _ => {
            let mut list = Vec::new();
            (0..rng.next_u32() % 3).for_each(|_| put_bytes(&mut list, 1, &any_value(depth - 1, rng)));
            put_bytes(&mut bytes, 6, &list);
        }
    }
    bytes
}

/// A double with few decimal digits, so that every parser reads back the same bits.
fn double(rng: &mut TestRng) -> f64 {
    let whole = f64::from(rng.next_u32() as i32);
    [whole, whole / 8.0, whole / 1e6, whole * 1e12][rng.next_u32() as usize % 4]
}
