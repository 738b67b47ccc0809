//! CloudEvents in their three modes: headers, an empty line, the body; or a body in JSON alone. An event is the same in
//! each mode, and nothing of it is lost.

use causality::event::cloud_event::{accept_batched, accept_binary, accept_structured};
use causality::event::request::{Accepted, Refused};
use causality::gateway::fuzzing;
use serde_json::{Map, Value, json};

use super::accepted::{self, arrival, held_max, without_ids};
use super::json::is_close;
use super::metered::within;
use super::request::split;

const EVENTS_MAX: usize = 1_000;
/// The member of the properties that holds the attributes.
const OWN: &str = "cloudevent";

pub fn run(input: &[u8]) {
    if matches!(input.trim_ascii_start().first(), Some(b'{' | b'[' | 0xef)) {
        run_json(input);
        run_data(input);
    } else if let Some((headers, body)) = split(input)
        && let Some(result) = within(held_max(body) + (1 << 20), || fuzzing::cloud_event(&headers, body, &arrival()))
    {
        let _ = accepted::check(&result);
    }
}

fn run_json(body: &[u8]) {
    let structured = within(held_max(body), || accept_structured(body, &arrival()));
    let batched = within(held_max(body), || accept_batched(body, EVENTS_MAX, &arrival()));
    let (structured, batched) = (accepted::check(&structured), accepted::check(&batched));
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let one = accept_batched(&[b"[", body, b"]"].concat(), EVENTS_MAX, &arrival());
    match (structured, accepted::check(&one)) {
        (Ok(views), Ok(one)) => {
            if let Ok(Value::Object(sent)) = serde_json::from_slice(body) {
                check_kept(&sent, views[0].as_ref().expect("what is accepted is valid"));
            }
            assert_eq!(without_ids(views), without_ids(one));
        }
        (Ok(_), Err(refused)) => panic!("accepted alone, and refused in a batch: {refused:?}"),
        (Err(_), Ok(one)) => assert!(one.len() != 1 || one[0].is_err(), "refused alone, accepted in a batch"),
        (Err(_), Err(_)) => {}
    }
    let sent: Vec<Value> = serde_json::from_slice(body).unwrap_or_default();
    for (sent, view) in sent.iter().zip(batched.unwrap_or_default()) {
        if let (Value::Object(sent), Ok(view)) = (sent, view) {
            check_kept(sent, &view);
        }
    }
}

/// The attributes and the data are where `docs/protocols.md` says.
fn check_kept(sent: &Map<String, Value>, view: &Value) {
    let event = &view["custom_event"];
    let properties = &event["properties"];
    assert_eq!(event["event_name"], sent["type"]);
    let mut own = properties[OWN].clone();
    let data = sent.get("data").unwrap_or(&Value::Null);
    match data {
        Value::Null => {}
        Value::Object(members) if !members.contains_key(OWN) => {
            let mut expected = members.clone();
            expected.insert(OWN.to_owned(), own.clone());
            assert!(is_close(&Value::Object(expected), properties), "{data}\n{properties}");
        }
        data => {
            assert!(is_close(data, &own["data"]), "{data}\n{own}");
            own["data"].take();
        }
    }
    for (name, value) in sent {
        let is_elsewhere = matches!(name.as_str(), "type" | "specversion" | "data");
        assert!(is_elsewhere || value.is_null() || is_close(value, &own[name]), "{name} is lost: {value}\n{view}");
    }
}

/// Any bytes are the data of an event in the binary mode; JSON is the same there and in the structured mode.
fn run_data(body: &[u8]) {
    for content_type in [None, Some("application/json"), Some("text/plain"), Some("image/png")] {
        let result = within(held_max(body), || binary(content_type, body));
        let Ok(views) = accepted::check(&result) else { continue };
        let Ok(data) = serde_json::from_slice::<Value>(body) else { continue };
        if content_type == Some("application/json") && !data.is_null() {
            let event = json!({"id": "1", "source": "/s", "type": "t", "specversion": "1.0", "x": "%",
                "datacontenttype": content_type, "data": data});
            check_kept(event.as_object().expect("it is one"), views[0].as_ref().expect("what is accepted is valid"));
        }
    }
}

fn binary(content_type: Option<&str>, body: &[u8]) -> Result<Accepted, Refused> {
    let attributes = [("id", "1"), ("source", "/s"), ("type", "t"), ("specversion", "1.0"), ("x", "%")];
    accept_binary(attributes.map(|(name, value)| (name, value.into())), content_type, body, &arrival())
}
