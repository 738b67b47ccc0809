//! What holds of every event that was accepted, whatever form it came in.

use causality::event::proto::EventEnvelope;
use causality::event::request::{Accepted, Refused, accept_binary_single, accept_json_single};
use causality::event::{Arrival, EVENT_BYTES_MAX, EventRef, FieldError, Int64};
use prost::Message as _;
use serde_json::Value;

/// What the names of fields may take in a view, besides six times the event's bytes.
const NAMES_BYTES_MAX: usize = 100_000;
/// What a client is told of one body.
const ERRORS_BYTES_MAX: usize = 1 << 20;

pub fn arrival() -> Arrival<'static> {
    Arrival {
        received_at_ms: 1_763_800_000_000,
        key_app: Some("shop"),
        event_bytes_max: EVENT_BYTES_MAX,
        assigned_id: None,
    }
}

/// What reading a body may hold at its peak: events, and what is wrong with them.
pub fn held_max(body: &[u8]) -> usize {
    (4 << 20) + 128 * body.len()
}

/// The view of each event, or what is wrong with it.
pub type Views = Vec<Result<Value, Vec<FieldError>>>;

/// Checks all that was accepted, and returns it in a form to compare.
pub fn check(result: &Result<Accepted, Refused>) -> Result<Views, Refused> {
    match result {
        Ok(accepted) => Ok(check_events(accepted)),
        Err(refused) => {
            assert!(!refused.detail.is_empty() || !refused.errors.is_empty(), "a refusal says why");
            Err(refused.clone())
        }
    }
}

pub fn check_events(accepted: &Accepted) -> Views {
    let mut views = Views::new();
    let mut error_bytes = 0;
    for event in accepted.iter() {
        views.push(match event {
            Ok(event) => Ok(check_event(&event)),
            Err(errors) => {
                assert!(!errors.is_empty(), "a refused event says why");
                error_bytes += errors.iter().map(|error| error.pointer.len() + error.detail.len()).sum::<usize>();
                Err(errors.to_vec())
            }
        });
    }
    assert_eq!(views.len(), accepted.len(), "each event has a verdict");
    assert!(error_bytes <= ERRORS_BYTES_MAX, "{error_bytes} bytes of errors");
    views
}

fn check_event(event: &EventRef<'_>) -> Value {
    assert!(event.bytes.len() <= EVENT_BYTES_MAX);
    let read = EventRef::decode(event.bytes).expect("an accepted event decodes");
    assert!(!read.id.is_empty() && !read.app_id.is_empty() && !read.device_id.is_empty() && read.timestamp_ms > 0);
    EventRef::decode_admitted(event.bytes).expect("an accepted event decodes");
    let mut text = Vec::new();
    read.write_view_json(&mut text);
    assert!(text.len() <= 6 * event.bytes.len() + NAMES_BYTES_MAX, "{} of {}", text.len(), event.bytes.len());
    let view: Value = serde_json::from_slice(&text).expect("a view is JSON");
    assert_eq!(view, read.view());
    let mut quoted = Vec::new();
    read.write_view_json_with(&mut quoted, Int64::AsString);
    serde_json::from_slice::<Value>(&quoted).expect("a view with quoted integers is JSON");
    assert_eq!(EventRef::app_and_timestamp(event.bytes), Ok((read.app_id, read.timestamp_ms)));
    check_again(event.bytes, &view);
    view
}

/// An event that was accepted is accepted again, by its bytes and as JSON that another writer made of them, and stays
/// the same.
fn check_again(bytes: &[u8], view: &Value) {
    let mut body = Vec::with_capacity(bytes.len() + 8);
    prost::encoding::bytes::encode(1, &bytes.to_vec(), &mut body);
    // It says which app it belongs to.
    let arrival = Arrival { key_app: None, ..arrival() };
    assert_eq!(only_view(accept_binary_single(&body, &arrival)), *view, "as protobuf");
    let message = EventEnvelope::decode(bytes).expect("another reader decodes it");
    let mut body = br#"{"event":"#.to_vec();
    if let Err(error) = serde_json::to_writer(&mut body, &message) {
        // Enums are open in protobuf, and have names only in the other writer's JSON.
        return assert!(error.to_string().starts_with("Invalid variant "), "another writer writes it: {error}");
    }
    body.push(b'}');
    assert_eq!(only_view(accept_json_single(&body, &arrival)), *view, "as JSON");
}

fn only_view(result: Result<Accepted, Refused>) -> Value {
    let accepted = result.expect("an accepted event is accepted again");
    let mut events = accepted.iter();
    let event = events.next().expect("there is one event").expect("it is valid");
    assert!(events.next().is_none(), "there is one event");
    event.view()
}

/// The views without the ids, which are made anew each time.
pub fn without_ids(views: Views) -> Views {
    let without_id = |mut view: Value| {
        view["id"].take();
        view
    };
    views.into_iter().map(|view| view.map(without_id)).collect()
}
