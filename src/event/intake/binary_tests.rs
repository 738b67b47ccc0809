//! Binary events that are stored as they were sent mean what prost reads in them; others are stored as prost writes them.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::Value;

use super::binary::check_counts;
use super::field_error::{Errors, Path};
use super::request::{self, Accepted};
use crate::event::codec::wire::{put_bytes, put_number};
use crate::event::proto::EventEnvelope;
use crate::event::samples::any_event;
use crate::event::{Arrival, EVENT_BYTES_MAX};

const WITH_ID: Arrival<'static> = Arrival {
    received_at_ms: 1_700_000_000_000,
    key_app: None,
    event_bytes_max: EVENT_BYTES_MAX,
    assigned_id: Some(uuid::Uuid::nil()),
};

/// The view and the message of the only event.
fn stored_view(accepted: &Accepted) -> (Value, EventEnvelope) {
    let stored = accepted.iter().next().expect("one event").expect("accepted");
    (stored.view(), EventEnvelope::decode(stored.bytes).expect("decode"))
}

/// What is stored of an event that prost decodes and encodes again, if that is valid.
fn prost_view(event: &[u8]) -> Option<(Value, EventEnvelope)> {
    let mut accepted = Accepted::default();
    accepted.add(&EventEnvelope::decode(event).ok()?, &WITH_ID);
    accepted.or_refused().ok().map(|accepted| stored_view(&accepted))
}

#[test]
fn an_unusual_encoding_is_stored_as_prost_reads_it() {
    let field = |number: u32, bytes: &[u8]| {
        let mut out = Vec::new();
        put_bytes(&mut out, number, bytes);
        out
    };
    let number = |number: u32, value: u64| {
        let mut out = Vec::new();
        put_number(&mut out, number, value);
        out
    };
    let names = [field(2, b"shop"), field(3, b"d")].concat();
    let entry = |key: &[u8], value: &[u8]| [field(1, key), value.to_vec()].concat();
    let text = |text: &[u8]| field(2, &field(3, text));
    let custom = |fields: &[u8]| [names.clone(), field(900, &[field(1, b"e"), fields.to_vec()].concat())].concat();
    let with_device = |device: &[u8]| [custom(b""), device.to_vec()].concat();
    let properties = |members: &[u8]| custom(&field(6, members));
    let group = [0xab, 1, 0xac, 1];
    let cases = [
        with_device(&[field(6, &number(7, 5)), field(6, &number(8, 6))].concat()),
        with_device(&[field(6, &field(2, b"1")), field(6, b"")].concat()),
        with_device(&field(6, &[field(2, b"1"), field(2, b"2"), number(1, 1), number(1, 2)].concat())),
        with_device(&field(6, &[field(2, b""), number(7, 0), number(13, 0)].concat())),
        with_device(&field(6, &[number(13, 2), number(7, 1 << 40 | 7), number(1, 1 << 32 | 1)].concat())),
        with_device(&field(6, &[number(16, 1), field(99, b"new")].concat())),
        with_device(&field(6, &group)),
        with_device(&[field(3, b"e"), field(8, b""), number(4, 0), field(77, b"new"), group.to_vec()].concat()),
        custom(&[field(2, &entry(b"k", &field(2, b"1"))), field(2, &entry(b"k", &field(2, b"2")))].concat()),
        custom(
            &[field(2, &entry(b"a", b"")), field(3, &entry(b"a", b"")), field(3, &entry(b"", &number(2, 0)))].concat(),
        ),
        custom(&field(2, &[field(2, b"value"), field(1, b"key"), field(1, b"last"), field(3, b"new")].concat())),
        custom(&field(2, &[field(1, b"k"), field(2, b"v"), group.to_vec()].concat())),
        custom(&field(2, &[group.to_vec(), field(1, b"k"), field(2, b"v")].concat())),
        properties(&[field(1, &entry(b"k", &text(b"1"))), field(1, &entry(b"k", &text(b"2")))].concat()),
        properties(&[field(1, &entry(b"k", &field(2, b""))), field(1, &entry(b"l", b""))].concat()),
        properties(&field(1, &entry(b"k", &field(2, &[field(3, b"1"), number(4, 1), number(4, 2)].concat())))),
        properties(&field(1, &entry(b"k", &[field(2, &number(1, 7)), text(b"t")].concat()))),
        properties(&field(
            1,
            &entry(b"k", &field(2, &field(6, &[field(1, &number(4, 1)), field(2, b"new")].concat()))),
        )),
        properties(
            &[field(1, &entry(b"k", &field(2, &[group.to_vec(), number(4, 1)].concat()))), group.to_vec()].concat(),
        ),
        custom(
            &[field(6, &field(1, &entry(b"a", &text(b"1")))), field(6, &field(1, &entry(b"b", &text(b"2"))))].concat(),
        ),
        [
            names.clone(),
            field(200, &[field(1, b"b"), field(4, &[13, 0, 0, 0, 0x80]), field(4, &[21, 0, 0, 128, 63])].concat()),
        ]
        .concat(),
    ];
    for event in cases {
        let expected = prost_view(&event).expect("prost reads it, and it is valid");
        let accepted = request::accept_binary_event(&event, &WITH_ID).expect("accept");
        assert_eq!(stored_view(&accepted), expected, "{event:02x?}");
        // It was not stored as sent: what the gateway adds is an id and a timestamp.
        let stored = accepted.iter().next().expect("one event").expect("accepted");
        assert!(!stored.bytes.starts_with(&event), "{event:02x?}");
    }
    for usual in [custom(b""), with_device(&field(6, b"")), properties(&field(1, &entry(b"k", &text("é".as_bytes()))))]
    {
        let accepted = request::accept_binary_event(&usual, &WITH_ID).expect("accept");
        assert_eq!(Some(stored_view(&accepted)), prost_view(&usual));
        assert!(accepted.iter().next().expect("one event").expect("accepted").bytes.starts_with(&usual));
    }
    let not_utf8 = [
        with_device(&field(8, b"\xff")),
        with_device(&field(6, &field(2, b"\xff"))),
        custom(&field(2, &entry(b"\xff", &field(2, b"v")))),
        custom(&field(2, &entry(b"k", &field(2, b"\xff")))),
        properties(&field(1, &entry(b"k", &text(b"\xff")))),
    ];
    for event in not_utf8 {
        assert!(request::accept_binary_event(&event, &WITH_ID).is_err(), "{event:02x?}");
    }
}

proptest! {
    #[test]
    fn what_is_stored_as_sent_means_what_prost_read(event in any_event(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut event = event.encode_to_vec();
        let position = at.index(event.len());
        event[position] = byte;
        let ours = request::accept_binary_event(&event, &WITH_ID);
        let mut errors = Errors::default();
        check_counts(&event, &Path::Root, &mut errors);
        // prost takes the last of several payloads.
        let expected = if errors.is_empty() { prost_view(&event) } else { None };
        prop_assert_eq!(ours.ok().map(|accepted| stored_view(&accepted)), expected);
    }
}
