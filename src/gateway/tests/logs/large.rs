//! Exports of many records whose resource is much larger than each record, and records whose name is not valid for an
//! event: each is stored or rejected individually.

use prost::Message as _;
use serde_json::{Value, json};

use super::super::TestGateway;
use super::otlp::NumberAndText;
use super::{JSON, LOGS, PROTOBUF, export, otlp, record, service, stored, text};
use crate::gateway::Settings;

/// What the SDKs' detectors report for a container in a cluster.
fn in_kubernetes() -> Vec<otlp::KeyValue> {
    let mut attributes = service();
    for name in [
        "k8s.cluster.name",
        "k8s.namespace.name",
        "k8s.node.name",
        "k8s.pod.name",
        "k8s.pod.uid",
        "k8s.deployment.name",
        "k8s.replicaset.name",
        "k8s.container.name",
        "container.id",
        "container.image.name",
        "container.runtime",
        "cloud.provider",
        "cloud.account.id",
        "cloud.region",
        "cloud.availability_zone",
        "host.id",
        "host.name",
        "host.type",
        "os.type",
        "process.command_line",
        "process.runtime.name",
        "process.runtime.version",
        "telemetry.sdk.language",
    ] {
        attributes.push(text(name, &"a-value-of-usual-length-".repeat(2)));
    }
    attributes
}

/// Records with distinct timestamps.
fn numbered(from: u64, count: u64) -> Vec<otlp::LogRecord> {
    let record = |n| otlp::LogRecord { time_unix_nano: super::TIME_NS + n, ..record("e") };
    (from..from + count).map(record).collect()
}

fn partial(reply: &[u8]) -> NumberAndText {
    otlp::Response::decode(reply).unwrap().partial_success.unwrap_or_default()
}

#[tokio::test]
async fn batches_of_common_exporters_are_stored_completely() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let eight = in_kubernetes().into_iter().take(8).collect();
    let mut count = 0;
    for (resource, records) in [(in_kubernetes(), 512), (eight, 500), (in_kubernetes(), 8_192)] {
        let body = export(resource, numbered(count, records)).encode_to_vec();
        // A retry stores nothing twice.
        for _ in 0..2 {
            let reply = client.post(LOGS, PROTOBUF, &body).await;
            assert_eq!((reply.status, reply.body.len()), (200, 0), "{records}");
        }
        count += records;
        assert_eq!(gateway.stored().await, count);
    }
}

#[tokio::test]
async fn too_large_records_are_rejected_individually() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    // No event has room for the first resource; with the second, some of the records fit.
    let huge = (0..5).map(|n| text(&n.to_string(), &"x".repeat(250_000))).chain(service()).collect();
    let large = (0..3).map(|n| text(&n.to_string(), &"x".repeat(250_000))).chain(service()).collect();
    let mut all = export(huge, vec![record("e"); 20_000]);
    all.resource_logs.extend(export(service(), vec![record("fits")]).resource_logs);
    let reply = client.post(LOGS, PROTOBUF, all.encode_to_vec()).await;
    assert_eq!(reply.status, 200);
    let message = "20000 of 20001 log records were rejected. The first: \
                   must have at most 1000000 bytes with its resource and its scope";
    assert_eq!(partial(&reply.body), NumberAndText { number: 20_000, text: message.into() });
    assert_eq!(gateway.stored().await, 1);

    let discarding = TestGateway::discarding(Settings::default()).await;
    let mut client = discarding.client().await;
    let reply = client.post(LOGS, PROTOBUF, export(large, numbered(0, 1_000)).encode_to_vec()).await;
    let rejected = partial(&reply.body);
    let first = "must have at most 256 MiB together with the records before it";
    assert_eq!((reply.status, rejected.number), (200, 1_000 - (256 << 20) / 750_260), "{}", rejected.text);
    assert!(rejected.text.contains(first), "{}", rejected.text);
}

#[tokio::test]
async fn records_beyond_the_limit_are_counted_as_rejected() {
    let gateway = TestGateway::discarding(Settings::default()).await;
    let mut client = gateway.client().await;
    let empty = vec![otlp::LogRecord::default(); 100_002];
    let reply = client.post(LOGS, PROTOBUF, export(service(), empty).encode_to_vec()).await;
    let message = "2 of 100002 log records were rejected. The first: it comes after 100000 others";
    assert_eq!(reply.status, 200);
    assert_eq!(partial(&reply.body), NumberAndText { number: 2, text: message.into() });
}

#[tokio::test]
async fn invalid_names_and_ids_are_kept_as_attributes() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let long = "n".repeat(257);
    let of_record = otlp::LogRecord {
        attributes: ["user.id", "session.id", "log.record.uid"].map(|name| text(name, &long)).into(),
        ..record(&long)
    };
    let resource = ["device.id", "service.instance.id"].map(|name| text(name, "a\nb"));
    let body = export(resource.into_iter().chain(service()).collect(), vec![of_record, record("a\nb")]);
    let reply = client.post(LOGS, PROTOBUF, body.encode_to_vec()).await;
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    let events = stored(&gateway, 2).await;
    for (event, name) in events.iter().zip([&*long, "a\nb"]) {
        let custom = &event["customEvent"];
        assert_eq!((&custom["eventName"], &custom["properties"]["event_name"]), (&json!("log"), &json!(name)));
        assert_eq!((&event["deviceId"], &event["userId"]), (&json!("shop"), &Value::Null));
        assert_eq!(custom["properties"]["resource"]["device.id"], "a\nb");
    }
    assert_eq!(events[0]["customEvent"]["properties"]["attributes"]["log.record.uid"], json!(long));
    assert!(events[0]["idempotencyKey"].as_str().unwrap().starts_with("otlp:"));
    // Half of a surrogate pair, which no UTF-8 text can contain.
    let half = r#"{"resourceLogs": [{"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "s"}}]},
        "scopeLogs": [{"logRecords": [{"eventName": "e", "body": {"stringValue": "a\ud83db"}}]}]}]}"#;
    assert_eq!(client.post(LOGS, JSON, half).await.json(), json!({}));
    assert_eq!(stored(&gateway, 1).await[0]["customEvent"]["properties"]["body"], "a\u{fffd}b");
}
