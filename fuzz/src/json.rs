//! Bodies in JSON, one event and many. What is accepted is JSON to another parser, means to the message's generated reader what
//! it means to the gateway, and is the same alone and in a batch.

use causality::event::proto::{IngestEventBatchRequest, IngestEventRequest};
use causality::event::request::{Accepted, Refused, accept_json_batch, accept_json_single};
use serde_json::Value;

use super::accepted::{self, Views, arrival, held_max, without_ids};
use super::metered::within;

const EVENTS_MAX: usize = 1_000;

pub fn run(body: &[u8]) {
    let single = within(held_max(body), || accept_json_single(body, &arrival()));
    let batch = within(held_max(body), || accept_json_batch(body, EVENTS_MAX, &arrival()));
    assert!(single.is_err() || batch.is_err(), "a body is one or the other");
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if let Ok(views) = check(body, &single) {
        check_in_batch(body, views);
        if let Ok(IngestEventRequest { event }) = serde_json::from_slice(body) {
            compare(&single, event.as_slice());
        }
    }
    if check(body, &batch).is_ok()
        && let Ok(IngestEventBatchRequest { events }) = serde_json::from_slice(body)
    {
        compare(&batch, &events);
    }
}

fn check(body: &[u8], result: &Result<Accepted, Refused>) -> Result<Views, Refused> {
    let views = accepted::check(result)?;
    if views.iter().all(Result::is_ok) {
        serde_json::from_slice::<Value>(body).expect("accepted JSON is JSON");
    }
    Ok(views)
}

/// The event of a single request is the same in a batch: the value of its only member is put into an array.
fn check_in_batch(body: &[u8], alone: Views) {
    let Ok(Value::Object(members)) = serde_json::from_slice(body) else { return };
    let Some(event) = members.values().next() else { return };
    // Numbers that are written anew would not be the same text; so it is only done where there are none to lose.
    if holds_float(event) {
        return;
    }
    let batch = format!(r#"{{"events":[{event}]}}"#);
    let batch = accept_json_batch(batch.as_bytes(), 1, &arrival()).expect("one event is a batch");
    assert_eq!(without_ids(alone), without_ids(accepted::check_events(&batch)));
}

fn holds_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(elements) => elements.iter().any(holds_float),
        Value::Object(members) => members.values().any(holds_float),
        _ => false,
    }
}

/// What the generated reader makes of the same text becomes the same events.
fn compare(ours: &Result<Accepted, Refused>, theirs: &[causality::event::proto::EventEnvelope]) {
    let Ok(ours) = ours else { return };
    assert_eq!(ours.len(), theirs.len());
    let mut read = Accepted::default();
    for event in theirs {
        read.add(event, &arrival());
    }
    for (ours, theirs) in ours.iter().zip(read.iter()) {
        let (Ok(ours), Ok(theirs)) = (ours, theirs) else { continue };
        let (ours, mut theirs) = (ours.view(), theirs.view());
        theirs["id"] = ours["id"].clone();
        assert!(is_close(&ours, &theirs), "{ours}\n{theirs}");
    }
}

/// The same, but for the last digits of numbers, which the other reader rounds.
pub fn is_close(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) else { return one == other };
            one == other || (one - other).abs() <= 1e-6 * one.abs().max(other.abs())
        }
        // An integer that a double does not hold is kept as text where anything may be sent.
        (Value::Number(one), Value::String(other)) => {
            let (Some(one), Ok(other)) = (one.as_f64(), other.parse::<f64>()) else { return false };
            one.abs() >= 2_f64.powi(53) && (one - other).abs() <= 1e-6 * one.abs()
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_close(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, one)| other.get(key).is_some_and(|other| is_close(one, other)))
        }
        (one, other) => one == other,
    }
}
