//! Random damage to bodies of other protocols: each is accepted or refused, and what is accepted is a valid event.

use proptest::prelude::*;

use super::cloud_event::{accept_batched, accept_binary, accept_structured};
use super::intake::request::{Accepted, Refused};
use super::otlp::{Export, from_json};
use super::{Arrival, EVENT_BYTES_MAX, EventRef};

const ARRIVAL: Arrival<'static> = Arrival {
    received_at_ms: 1_700_000_000_000,
    key_app: Some("shop"),
    event_bytes_max: EVENT_BYTES_MAX,
    assigned_id: None,
};
const SEEDS: [&[u8]; 4] = [
    include_bytes!("../../fuzz/seeds/cloud_events/structured"),
    include_bytes!("../../fuzz/seeds/cloud_events/batch"),
    include_bytes!("../../fuzz/seeds/otlp/json"),
    include_bytes!("../../fuzz/seeds/otlp/protobuf"),
];

fn check(result: &Result<Accepted, Refused>) -> usize {
    let Ok(accepted) = result else { return 0 };
    for event in accepted.iter() {
        match event {
            Ok(event) => {
                let read = EventRef::decode(event.bytes).expect("an accepted event decodes");
                let mut view = Vec::new();
                read.write_view_json(&mut view);
                serde_json::from_slice::<serde_json::Value>(&view).expect("a view is JSON");
            }
            Err(errors) => assert!(!errors.is_empty(), "a refused event says why"),
        }
    }
    accepted.len()
}

fn check_export(body: &[u8]) -> usize {
    let Ok(mut export) = Export::open(body) else { return 0 };
    let mut records = 0;
    while let Some(accepted) = export.next(2, &ARRIVAL) {
        records += check(&Ok(accepted));
    }
    assert_eq!(records, export.len());
    records
}

fn check_all(body: &[u8]) -> usize {
    let mut events = check(&accept_structured(body, &ARRIVAL)) + check(&accept_batched(body, 10, &ARRIVAL));
    for content_type in [None, Some("text/plain"), Some("image/png")] {
        let attributes = [("id", "1"), ("source", "/s"), ("type", "t"), ("specversion", "1.0")];
        let attributes = attributes.map(|(name, value)| (name, value.into()));
        events += check(&accept_binary(attributes, content_type, body, &ARRIVAL));
    }
    events += check_export(body);
    if let Ok(protobuf) = from_json(body) {
        assert!(protobuf.len() <= body.len(), "{} of {}", protobuf.len(), body.len());
        events += check_export(&protobuf);
    }
    events
}

#[test]
fn seeds_are_events() {
    for seed in SEEDS {
        // Every seed is also the data of a CloudEvent, as text and as an image, in addition to what it is.
        assert!(check_all(seed) > 2, "{}", String::from_utf8_lossy(seed));
    }
}

proptest! {
    #[test]
    fn damaged_bodies_are_read_or_refused(
        seed in 0..SEEDS.len(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3), 1..6),
    ) {
        let mut body = SEEDS[seed].to_vec();
        for (at, byte, what) in changes {
            let at = at.index(body.len().max(1)).min(body.len());
            match what {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => _ = body.remove(at),
                _ => body.insert(at, byte),
            }
        }
        check_all(&body);
    }
}
