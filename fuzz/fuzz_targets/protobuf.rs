//! Bodies in protobuf, one event and many, and events as they come from a bus that others publish to.
#![no_main]

use causality::event::EventRef;
use causality::event::request::{accept_binary_batch, accept_binary_single};
use libfuzzer_sys::fuzz_target;

mod accepted;

fuzz_target!(|body: &[u8]| {
    let arrival = accepted::arrival();
    accepted::check(&accept_binary_single(body, &arrival));
    accepted::check(&accept_binary_batch(body, 1_000, &arrival));
    if let Ok(event) = EventRef::decode(body) {
        let (mut view, mut payload) = (Vec::new(), Vec::new());
        event.write_view_json(&mut view);
        event.write_payload_json(&mut payload);
        serde_json::from_slice::<serde_json::Value>(&view).expect("a view is JSON");
        serde_json::from_slice::<serde_json::Value>(&payload).expect("a payload is JSON");
        event.device();
        event.event_type();
    }
});
