//! Segment's API: the path in the first line, headers, an empty line, the body. Every message has a verdict, the reply
//! says what the verdicts say, and the texts of a message that is accepted are in its event.

use causality::gateway::fuzzing;
use serde_json::{Map, Value};

use super::accepted::{Views, check_events, held_max};
use super::metered::within;
use super::request::{first_line, split};

/// Messages that a reply tells of.
const TOLD_MAX: usize = 16;

pub fn run(input: &[u8]) {
    let Some((path, rest)) = first_line(input) else { return };
    let Some((headers, body)) = split(rest) else { return };
    let Ok(path) = std::str::from_utf8(path) else { return };
    let mut views = None;
    // The reply is made of the same events.
    let answered = within(held_max(body) + views_max(body), || {
        fuzzing::segment(path, &headers, body, |accepted| views = Some(check_events(accepted)))
    });
    let Some(answered) = answered else { return };
    let (status, bytes, bytes_max) = (answered.status, answered.body.len(), answered.body_bytes_max);
    assert!(bytes <= bytes_max, "a reply of {bytes} bytes, where {bytes_max} were held for it");
    let reply: Value = serde_json::from_slice(&answered.body).expect("a reply is JSON");
    let Some(views) = views else {
        assert_eq!(status, 400, "{reply}");
        return;
    };
    check_reply(status, &reply, &views, is_batch(path));
    let messages = messages(path, body);
    assert_eq!(messages.len(), views.len(), "each message has a verdict");
    for (message, view) in messages.iter().zip(&views) {
        if let (Value::Object(message), Ok(view)) = (message, view) {
            check_kept(message, view);
        }
    }
}

/// What [`check_events`] makes of the events while it looks at them.
fn views_max(body: &[u8]) -> usize {
    (64 << 20) + 1024 * body.len()
}

fn check_reply(status: u16, reply: &Value, views: &Views, is_batch: bool) {
    let refused: Vec<_> = (0..views.len()).filter(|index| views[*index].is_err()).collect();
    let none_stored = !views.is_empty() && refused.len() == views.len();
    assert_eq!(status, if none_stored { 400 } else { 200 }, "{reply}");
    assert_eq!(reply["success"] == true, !none_stored, "{reply}");
    let told = reply["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
    assert_eq!(told.len(), refused.len().min(TOLD_MAX), "{reply}");
    for (error, index) in told.iter().zip(refused) {
        let pointer = error["pointer"].as_str().expect("an error has a pointer");
        let place = if is_batch { format!("/batch/{index}") } else { String::new() };
        let rest = pointer.strip_prefix(&place).expect("errors come in the order of messages");
        assert!(rest.is_empty() || rest.starts_with('/'), "{pointer}");
    }
}

/// The messages of a body that was read.
fn messages(path: &str, body: &[u8]) -> Vec<Value> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let Ok(mut whole) = serde_json::from_slice::<Value>(body) else {
        // Deeper than this parser goes.
        return of_raw(path, body);
    };
    if is_batch(path) {
        return whole["batch"].as_array_mut().map(std::mem::take).unwrap_or_default();
    }
    vec![whole]
}

fn is_batch(path: &str) -> bool {
    ["/v1/batch", "/v1/b", "/v1/import"].contains(&path)
}

/// Nothing is known of them but how many there are.
fn of_raw(path: &str, body: &[u8]) -> Vec<Value> {
    #[derive(serde::Deserialize)]
    struct Batch<'a> {
        #[serde(borrow)]
        batch: Vec<&'a serde_json::value::RawValue>,
    }
    if is_batch(path) {
        let batch: Batch<'_> = serde_json::from_slice(body).expect("a batch that was read is one");
        return batch.batch.iter().map(|_| Value::Null).collect();
    }
    vec![Value::Null]
}

/// Nothing that was sent is lost: each text is somewhere in the event, or in the message that is kept as it was sent.
fn check_kept(message: &Map<String, Value>, view: &Value) {
    let mut kept = Vec::new();
    texts_of(view, &mut kept);
    let mut keyless = message.clone();
    keyless.remove("writeKey");
    // What properties cannot hold is kept as the text of its message.
    if kept.iter().any(|text| serde_json::from_str(text).is_ok_and(|whole: Value| whole.as_object() == Some(&keyless)))
    {
        return;
    }
    let mut sent = Vec::new();
    for (name, value) in &keyless {
        // The kind of a call is said by the event itself; times and numbers may be in another form.
        if name != "type" {
            texts_of(value, &mut sent);
        }
    }
    for text in sent {
        let is_kept = text.is_empty() || may_be_converted(text) || kept.contains(&text);
        assert!(is_kept, "{text:?} is lost\nsent {}\nkept {view}", Value::Object(message.clone()));
    }
}

fn may_be_converted(text: &str) -> bool {
    let text = text.trim();
    text.parse::<f64>().is_ok()
        || text.parse::<jiff::Timestamp>().is_ok()
        || text.parse::<jiff::civil::DateTime>().is_ok()
}

fn texts_of<'v>(value: &'v Value, texts: &mut Vec<&'v str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(elements) => elements.iter().for_each(|element| texts_of(element, texts)),
        Value::Object(members) => members.values().for_each(|member| texts_of(member, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
