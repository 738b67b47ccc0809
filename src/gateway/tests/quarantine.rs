//! Quarantined input: what is kept, what it becomes when it is read again, and what is never kept.

use std::time::Duration;

use prost::Message as _;
use serde_json::{Value, json};

use super::keys::{Keyed, new, post};
use super::{BATCH, BINARY, INGEST, JSON, TestGateway, batch};
use crate::bus::{Bus, DeadLetter};
use crate::event::proto::{EventEnvelope, IngestEventBatchRequest, IngestEventRequest};
use crate::event::{EventRef, otlp};
use crate::gateway::Settings;
use crate::http::raw_client::RawReply;
use crate::quarantine::{Input, InputFormat, ReadSettings, ReplayOutcome, replay};

/// Smaller than the large events of these tests.
const EVENT_BYTES_MAX: usize = 400;

fn settings(quarantine_bytes_max: u64) -> Settings {
    Settings {
        event_bytes_max: EVENT_BYTES_MAX,
        quarantine_bytes_max: Some(quarantine_bytes_max),
        ..Settings::default()
    }
}

fn long(of: char) -> String {
    std::iter::repeat_n(of, 2_000).collect()
}

fn large(device: &str) -> Value {
    json!({"appId": "shop", "deviceId": device,
        "customEvent": {"eventName": "large", "properties": {"text": long('x')}}})
}

fn small() -> Value {
    json!({"appId": "shop", "deviceId": "small", "screenView": {"screenName": "home"}})
}

fn envelope(event: Value) -> EventEnvelope {
    serde_json::from_value(event).unwrap()
}

struct Case {
    path: &'static str,
    headers: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    forms: &'static [InputFormat],
}

/// Every form of input, including large events.
fn cases() -> Vec<Case> {
    let case = |path, headers, content_type, body: Vec<u8>, forms| Case { path, headers, content_type, body, forms };
    let text = |value: Value| value.to_string().into_bytes();
    let cloud_event = |id: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/tests", "type": "large", "appid": "shop",
            "data": {"text": long('c')}})
    };
    let message =
        |event: &str| json!({"type": "track", "event": event, "userId": "u", "properties": {"text": long('s')}});
    let record = json!({"timeUnixNano": "1763800000000000000", "eventName": "log", "body": {"stringValue": long('o')}});
    let export = |records: Vec<Value>| {
        let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]});
        let scopes = json!([{"scope": {"name": "lib", "version": "2"}, "logRecords": records}]);
        json!({"resourceLogs": [{"resource": resource, "scopeLogs": scopes}]}).to_string().into_bytes()
    };
    let mut other_record = record.clone();
    other_record["eventName"] = json!("other");
    // A record that was sent before would be the same event.
    let mut third_record = record.clone();
    third_record["eventName"] = json!("third");
    let lines = format!("{}\n\n {} \n", small(), large("line"));
    let single = IngestEventRequest { event: Some(envelope(large("protobuf"))) }.encode_to_vec();
    let events = [large("p1"), small(), large("p2")].map(envelope).to_vec();
    let context = json!({"app": {"version": "7"}, "ip": "10.0.0.1"});
    let segment = json!({"batch": [message("a"), message("b")], "context": context, "integrations": {"All": true}});
    vec![
        case(INGEST, "idempotency-key: k1", JSON, text(json!({"event": large("single")})), &[InputFormat::Json]),
        case(BATCH, "", JSON, batch([small(), large("b1"), large("b2")]).into(), &[InputFormat::JsonEvent; 2]),
        case(BATCH, "", "application/x-ndjson", lines.into(), &[InputFormat::JsonEvent]),
        case(INGEST, "", BINARY, single, &[InputFormat::Protobuf]),
        case(BATCH, "", BINARY, IngestEventBatchRequest { events }.encode_to_vec(), &[InputFormat::ProtobufEvent; 2]),
        case(INGEST, "", "application/cloudevents+json", text(cloud_event("c1")), &[InputFormat::CloudEvent]),
        case(
            BATCH,
            "",
            "application/cloudevents-batch+json",
            text(json!([cloud_event("c2"), cloud_event("c3")])),
            &[InputFormat::CloudEvent; 2],
        ),
        case(
            INGEST,
            "ce-specversion: 1.0\r\nce-id: c4\r\nce-source: /tests\r\nce-type: large%20one\r\nce-appid: shop",
            JSON,
            text(json!({"text": long('b')})),
            &[InputFormat::CloudEventBinary],
        ),
        case(
            "/v1/track",
            "authorization: Basic c2hvcDo=",
            JSON,
            text(message("single")),
            &[InputFormat::SegmentMessage],
        ),
        case("/v1/batch", "authorization: Basic c2hvcDo=", JSON, text(segment), &[InputFormat::SegmentMessage; 2]),
        case(
            "/v1/logs",
            "",
            BINARY,
            otlp::from_json(&export(vec![record.clone(), record, other_record.clone()])).unwrap(),
            &[InputFormat::Otlp; 3],
        ),
        case("/v1/logs", "", JSON, export(vec![third_record]), &[InputFormat::Otlp]),
    ]
}

async fn send(gateway: &TestGateway, case: &Case) -> RawReply {
    post(&mut gateway.client().await, case.path, case.headers, case.content_type, &case.body).await
}

/// The oldest first.
async fn letters(bus: &Bus) -> Vec<DeadLetter> {
    let mut letters = bus.dead_letters(None, 1_000).await.unwrap();
    letters.reverse();
    letters
}

async fn replay_all(bus: &Bus) {
    for letter in letters(bus).await {
        let replayed = replay(bus, &letter, ReadSettings::default()).await.unwrap();
        assert!(matches!(replayed, ReplayOutcome::Accepted { duplicates: 0, .. }), "{replayed:?} {letter:?}");
    }
}

/// The stored events without what depends on their arrival.
async fn views(gateway: &TestGateway) -> Vec<String> {
    let stored = gateway.stored().await as usize;
    let view = |payload: &Vec<u8>| {
        let mut view = EventRef::decode(payload).unwrap().view();
        view["id"].take();
        view["timestamp_ms"].take();
        view.to_string()
    };
    let mut views: Vec<String> = gateway.payloads(stored).await.iter().map(view).collect();
    views.sort();
    views
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_form_is_quarantined_and_reprocessed() {
    let (limited, open) = (TestGateway::start(settings(1 << 20)).await, TestGateway::start(Settings::default()).await);
    let mut expected = Vec::new();
    for case in cases() {
        let (refused, taken) = (send(&limited, &case).await, send(&open, &case).await);
        let (path, count) = (case.path, case.forms.len().to_string());
        assert_eq!(
            refused.header("x-quarantined"),
            Some(&*count),
            "{path}: {}",
            String::from_utf8_lossy(&refused.body)
        );
        assert!(matches!(refused.status, 200 | 400), "{path}: {}", refused.head);
        assert_eq!((taken.status, taken.header("x-quarantined")), (200, None), "{path}");
        expected.extend(case.forms.iter().map(|form| form.name()));
    }
    let kept = letters(&limited.bus).await;
    let inputs: Vec<Input> = kept.iter().map(|letter| Input::read(&letter.payload).unwrap()).collect();
    assert_eq!(inputs.iter().map(|input| input.format.as_str()).collect::<Vec<_>>(), expected);
    for (letter, input) in kept.iter().zip(&inputs) {
        assert!(letter.is_input() && letter.subject.ends_with(".limit"), "{letter:?}");
        assert!(letter.reason.contains("must have at most 400 bytes"), "{letter:?}");
        assert_eq!((input.errors.len(), input.request_id.len()), (1, 36));
        // For a log record the app comes from its resource, which is not searched.
        assert!(input.app == "shop" || input.format == "otlp", "{input:?}");
    }
    assert_eq!(&*inputs[1].data, large("b1").to_string().as_bytes(), "as it came");

    // Nothing has changed: each input stays refused.
    let same = ReadSettings { event_bytes_max: EVENT_BYTES_MAX, ..ReadSettings::default() };
    for letter in &kept {
        let replayed = replay(&limited.bus, letter, same).await.unwrap();
        assert!(matches!(replayed, ReplayOutcome::StillInvalid { .. }), "{replayed:?}");
    }
    let stay: Vec<_> = letters(&limited.bus).await.into_iter().map(|letter| (letter.id, letter.reason)).collect();
    assert_eq!(stay, kept.iter().map(|letter| (letter.id, letter.reason.clone())).collect::<Vec<_>>());

    replay_all(&limited.bus).await;
    assert!(letters(&limited.bus).await.is_empty());
    assert_eq!(views(&limited).await, views(&open).await);
    assert_eq!(replay(&limited.bus, &kept[0], ReadSettings::default()).await.unwrap(), ReplayOutcome::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quarantined_events_keep_their_time_and_get_one_id() {
    let gateway = TestGateway::start(settings(1 << 20)).await;
    let body = batch([large("d")]);
    assert_eq!(gateway.client().await.post(BATCH, JSON, &body).await.header("x-quarantined"), Some("1"));
    let letter = letters(&gateway.bus).await.remove(0);
    let input = Input::read(&letter.payload).unwrap();
    replay_all(&gateway.bus).await;
    let payloads = gateway.payloads(1).await;
    let event = EventRef::decode(&payloads[0]).unwrap();
    assert_eq!((event.id, event.timestamp_ms), (&*input.id, letter.published_at_ms));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_bodies_are_quarantined_too() {
    let gateway = TestGateway::start(Settings { batch_events_max: 1, ..settings(1 << 20) }).await;
    let mut client = gateway.client().await;
    let body = batch([small(), small()]);
    for (path, content_type, body) in [
        (BATCH, JSON, body.as_str()),
        (BATCH, "application/x-ndjson", &format!("{}\n{}", small(), small())),
        (BATCH, JSON, "{\"events\":["),
        (INGEST, JSON, "\u{feff}{}"),
        ("/v1/batch", JSON, "{"),
        ("/v1/logs", JSON, "{\"resourceLogs\":1}"),
        ("/v1/logs", BINARY, "\u{1}"),
    ] {
        let reply = client.post(path, content_type, body).await;
        assert_eq!((reply.status, reply.header("x-quarantined")), (400, Some("1")), "{path} {body}");
    }
    let kept = letters(&gateway.bus).await;
    assert_eq!(Input::read(&kept[0].payload).unwrap().data, body);
    for letter in &kept[..2] {
        let replayed = replay(&gateway.bus, letter, ReadSettings::default()).await.unwrap();
        assert_eq!(replayed, ReplayOutcome::Accepted { events: 2, duplicates: 0 });
    }
    for letter in &kept[2..] {
        let replayed = replay(&gateway.bus, letter, ReadSettings::default()).await.unwrap();
        assert!(matches!(replayed, ReplayOutcome::StillInvalid { .. }), "{replayed:?}");
    }
    let payloads = gateway.payloads(4).await;
    let ids: std::collections::BTreeSet<_> =
        payloads.iter().map(|payload| EventRef::decode(payload).unwrap().id.to_owned()).collect();
    assert_eq!(ids.len(), 4, "each event has an id of its own");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quarantine_is_bounded_and_refusals_stay_refusals() {
    let gateway = TestGateway::start(settings(6_000)).await;
    let mut client = gateway.client().await;
    let body = json!({"event": large("d")}).to_string();
    let mut kept = 0;
    let mut post = async || {
        let reply = client.post(INGEST, JSON, &body).await;
        assert_eq!((reply.status, reply.json()["detail"].clone()), (400, json!("The event is not valid.")));
        reply.header("x-quarantined").is_some()
    };
    while post().await {
        kept += 1;
    }
    assert_eq!((kept, letters(&gateway.bus).await.len()), (2, 2));
    assert!(gateway.readiness.report().to_string().contains("quarantine_max_bytes is used up"));
    let newest = letters(&gateway.bus).await[1].id;
    assert!(gateway.bus.delete_dead_letter(newest).await.unwrap());
    let again = async { while !post().await {} };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("there is room again");
    assert!(!gateway.readiness.report().to_string().contains("quarantine_max_bytes"));
    assert!(!post().await);
    assert_eq!(gateway.stored().await, 0);
}

#[tokio::test]
async fn nothing_is_quarantined_when_the_bus_is_full() {
    let gateway = TestGateway::start_with_room(settings(1 << 20), 64 << 10).await;
    let reply = gateway.client().await.post(INGEST, JSON, json!({"event": large("d")}).to_string()).await;
    assert_eq!((reply.status, reply.header("x-quarantined")), (400, None));
    assert!(letters(&gateway.bus).await.is_empty());
}

#[tokio::test]
async fn nothing_is_quarantined_if_off_or_too_large() {
    let off = TestGateway::start(Settings { event_bytes_max: EVENT_BYTES_MAX, ..Settings::default() }).await;
    let body = json!({"event": large("d")}).to_string();
    assert_eq!(off.client().await.post(INGEST, JSON, &body).await.header("x-quarantined"), None);
    let on = TestGateway::start(settings(64 << 20)).await;
    let body = format!("{{\"event\":{{\"color\":\"{}\"}}}}", "x".repeat(1_100_000));
    let reply = on.client().await.post(INGEST, JSON, &body).await;
    assert_eq!((reply.status, reply.header("x-quarantined")), (400, None));
    assert!(letters(&off.bus).await.is_empty() && letters(&on.bus).await.is_empty());
}

#[tokio::test]
async fn only_input_of_authenticated_callers_is_quarantined() {
    let keyed = Keyed::start_with(settings(1 << 20)).await;
    let key = keyed.key(new("shop", "web")).await;
    let bus = &keyed.gateway.bus;
    // Removes what was sent before the key was known.
    bus.purge_dead_letters(None).await.unwrap();
    let (mine, wrong) = (format!("X-API-Key: {key}"), format!("X-API-Key: {}", "0".repeat(64)));
    let other = json!({"event": {"appId": "other", "deviceId": "d", "appStart": {}}}).to_string();
    let invalid_message = |key: &str| json!({"writeKey": key, "event": 7}).to_string();
    for (path, headers, content_type, body, status) in [
        (INGEST, "", JSON, "{}", 401),
        (INGEST, &*wrong, JSON, "{}", 401),
        (INGEST, &*mine, JSON, &*other, 403),
        (INGEST, &*mine, "text/html", "{}", 415),
        ("/v1/track", "", JSON, "{", 400),
        ("/v1/track", "", JSON, &*invalid_message("unknown"), 401),
    ] {
        let reply = keyed.post(path, headers, content_type, body.as_bytes()).await;
        assert_eq!((reply.status, reply.header("x-quarantined")), (status, None), "{path} {headers} {body}");
    }
    assert!(letters(bus).await.is_empty());
    let reply = keyed.post("/v1/track", "", JSON, invalid_message(&key).as_bytes()).await;
    assert_eq!((reply.status, reply.header("x-quarantined")), (400, Some("1")));
    let letter = letters(bus).await.remove(0);
    let input = Input::read(&letter.payload).unwrap();
    assert_eq!((input.key_app.as_deref(), &*input.app), (Some("shop"), "shop"));
    let masked = invalid_message(&"*".repeat(key.len()));
    assert_eq!(input.data, masked, "the key is no one's to read");
}
