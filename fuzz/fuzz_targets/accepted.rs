//! What holds of every event that was accepted, whatever form it came in.

use causality::event::request::{Accepted, Refused};
use causality::event::{Arrival, EVENT_BYTES_MAX, EventRef};

/// What the names of fields may take in a view, besides six times the event's bytes.
const NAMES_BYTES_MAX: usize = 100_000;
/// What a client is told of one body.
const ERRORS_BYTES_MAX: usize = 1 << 20;

pub fn arrival() -> Arrival<'static> {
    Arrival { received_at_ms: 1_763_800_000_000, key_app: Some("shop"), event_bytes_max: EVENT_BYTES_MAX, assigned_id: None }
}

pub fn check(result: &Result<Accepted, Refused>) {
    let accepted = match result {
        Ok(accepted) => accepted,
        Err(refused) => {
            assert!(!refused.detail.is_empty() || !refused.errors.is_empty(), "a refusal says why");
            return;
        }
    };
    let mut error_bytes = 0;
    for event in accepted.iter() {
        match event {
            Ok(event) => check_event(&event),
            Err(errors) => {
                assert!(!errors.is_empty(), "a refused event says why");
                error_bytes += errors.iter().map(|error| error.pointer.len() + error.detail.len()).sum::<usize>();
            }
        }
    }
    assert!(error_bytes <= ERRORS_BYTES_MAX, "{error_bytes} bytes of errors");
}

fn check_event(event: &EventRef<'_>) {
    assert!(event.bytes.len() <= EVENT_BYTES_MAX);
    let read = EventRef::decode(event.bytes).expect("an accepted event decodes");
    assert!(!read.id.is_empty() && !read.app_id.is_empty() && read.timestamp_ms != 0);
    let mut view = Vec::new();
    read.write_view_json(&mut view);
    assert!(view.len() <= 6 * event.bytes.len() + NAMES_BYTES_MAX, "{} of {}", view.len(), event.bytes.len());
    let parsed: serde_json::Value = serde_json::from_slice(&view).expect("a view is JSON");
    assert_eq!(parsed, read.view());
    EventRef::place(event.bytes).expect("an accepted event has a place");
}
