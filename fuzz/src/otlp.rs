//! Log records of OpenTelemetry, in protobuf and in JSON. Each record has a verdict, the same in whatever portions the
//! records are read, and a key that is the same whenever the request is sent, and that no other record of it has.

use std::collections::HashSet;

use causality::event::otlp::{Export, from_json};
use causality::event::{Arrival, FieldError};
use serde_json::Value;

use super::accepted::{Views, arrival, check_events, held_max, without_ids};
use super::metered::within;

/// An attribute with which senders give keys of their own.
const OWN_KEY: &[u8] = b"log.record.uid";

pub fn run(body: &[u8]) {
    check(body);
    if let Ok(protobuf) = within(held_max(body), || from_json(body)) {
        assert!(protobuf.len() <= body.len(), "{} of {}", protobuf.len(), body.len());
        check(&protobuf);
    }
}

fn check(body: &[u8]) {
    let Some(views) = events(body, 100, arrival().received_at_ms) else { return };
    let one_by_one = events(body, 1, arrival().received_at_ms).expect("what was read is read again");
    assert_eq!(without_ids(views.clone()), without_ids(one_by_one));
    let later = events(body, 7, arrival().received_at_ms + 60_000).expect("what was read is read again");
    assert_eq!(keys(&views).collect::<Vec<_>>(), keys(&later).collect::<Vec<_>>());
    if !body.windows(OWN_KEY.len()).any(|part| part == OWN_KEY) {
        let mut seen = HashSet::new();
        for key in keys(&views).flatten().filter(|key| !key.is_empty()) {
            assert!(seen.insert(key), "two records have the key {key}");
        }
    }
}

/// Nothing when the body is refused as a whole.
fn events(body: &[u8], events_max: usize, received_at_ms: i64) -> Option<Views> {
    let mut export = within(held_max(body), || Export::open(body)).ok()?;
    let arrival = Arrival { received_at_ms, ..arrival() };
    let mut views = Views::new();
    while let Some(accepted) = within(held_max(body), || export.next(events_max, &arrival)) {
        assert!((1..=events_max).contains(&accepted.len()));
        views.extend(check_events(&accepted));
    }
    assert_eq!(views.len() + export.unread_records(), export.len(), "each record has a verdict");
    Some(views)
}

fn keys(views: &[Result<Value, Vec<FieldError>>]) -> impl Iterator<Item = Option<&str>> {
    views.iter().map(|view| view.as_ref().ok()?["idempotency_key"].as_str())
}
