//! Log records of OpenTelemetry, in protobuf and in JSON.
#![no_main]

use causality::event::otlp::{Export, from_json};
use libfuzzer_sys::fuzz_target;

mod accepted;

fuzz_target!(|body: &[u8]| {
    check(body);
    if let Ok(protobuf) = from_json(body) {
        assert!(protobuf.len() <= body.len(), "{} of {}", protobuf.len(), body.len());
        check(&protobuf);
    }
});

fn check(body: &[u8]) {
    let arrival = accepted::arrival();
    let Ok(mut export) = Export::open(body) else { return };
    let mut records = 0;
    while let Some(accepted) = export.next(100, &arrival) {
        records += accepted.len();
        accepted::check(&Ok(accepted));
    }
    assert_eq!(records, export.len());
}
