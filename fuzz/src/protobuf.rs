//! Bodies in protobuf, one event and many, and events as they come from a bus that others publish to.

use causality::event::proto::{IngestEventBatchRequest, IngestEventRequest};
use causality::event::request::{accept_binary_batch, accept_binary_single};
use causality::event::{EventRef, Int64};
use prost::Message as _;
use serde_json::Value;

use super::accepted::{self, arrival, held_max, without_ids};
use super::metered::within;

const EVENTS_MAX: usize = 1_000;

pub fn run(body: &[u8]) {
    let single = within(held_max(body), || accept_binary_single(body, &arrival()));
    let batch = within(held_max(body), || accept_binary_batch(body, EVENTS_MAX, &arrival()));
    let (single, batch) = (accepted::check(&single), accepted::check(&batch));
    // Both requests have their events in field 1: what is one event is a batch of one.
    match (single, &batch) {
        (Ok(single), Ok(batch)) => {
            IngestEventRequest::decode(body).expect("another reader decodes it");
            assert_eq!(without_ids(single), without_ids(batch.clone()));
        }
        (Ok(_), Err(refused)) => panic!("accepted alone, and refused as a batch: {refused:?}"),
        (Err(_), Ok(batch)) => assert!(batch.len() != 1 || batch[0].is_err(), "refused alone, accepted as a batch"),
        (Err(_), Err(_)) => {}
    }
    if let Ok(theirs) = IngestEventBatchRequest::decode(body) {
        match &batch {
            Ok(views) => assert_eq!(views.len(), theirs.events.len(), "each event has a verdict"),
            Err(_) => assert!(!(1..=EVENTS_MAX).contains(&theirs.events.len()), "what can be read is judged by item"),
        }
    }
    from_the_bus(body);
}

fn from_the_bus(bytes: &[u8]) {
    let Ok(event) = EventRef::decode(bytes) else { return };
    let (mut view, mut payload, mut quoted) = (Vec::new(), Vec::new(), Vec::new());
    event.write_view_json(&mut view);
    event.write_payload_json(&mut payload);
    event.write_view_json_with(&mut quoted, Int64::AsString);
    for json in [&view, &payload, &quoted] {
        serde_json::from_slice::<Value>(json).expect("a view is JSON");
    }
    event.device();
    event.event_type();
}
