//! CloudEvents in their three modes.
#![no_main]

use causality::event::cloud_event::{accept_batched, accept_binary, accept_structured};
use libfuzzer_sys::fuzz_target;

mod accepted;

fuzz_target!(|body: &[u8]| {
    let arrival = accepted::arrival();
    accepted::check(&accept_structured(body, &arrival));
    accepted::check(&accept_batched(body, 1_000, &arrival));
    for content_type in [None, Some("application/json"), Some("text/plain"), Some("image/png")] {
        let attributes = [("id", "1"), ("source", "/s"), ("type", "t"), ("specversion", "1.0"), ("x", "%")];
        let attributes = attributes.map(|(name, value)| (name, value.into()));
        accepted::check(&accept_binary(attributes, content_type, body, &arrival));
    }
});
