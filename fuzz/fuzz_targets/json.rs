//! Bodies in JSON, one event and many. What is accepted is JSON to another parser, reads back whole, and grows no more
//! than its documentation says.
#![no_main]

use causality::event::request::{Accepted, Refused, accept_json_batch, accept_json_single};
use libfuzzer_sys::fuzz_target;

mod accepted;

fuzz_target!(|body: &[u8]| {
    let arrival = accepted::arrival();
    let single = accept_json_single(body, &arrival);
    let batch = accept_json_batch(body, 1_000, &arrival);
    for result in [&single, &batch] {
        check(body, result);
    }
    accepted::check(&single);
    accepted::check(&batch);
});

fn check(body: &[u8], result: &Result<Accepted, Refused>) {
    if result.as_ref().is_ok_and(|accepted| accepted.iter().all(|event| event.is_ok())) {
        let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
        serde_json::from_slice::<serde_json::Value>(body).expect("accepted JSON is JSON");
    }
}
