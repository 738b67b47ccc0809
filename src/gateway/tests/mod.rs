//! The gateway over real sockets and a real embedded bus: its replies, and what the bus stores.

mod bad_input;
mod bodies;
mod cloud_events;
mod cors;
mod idempotency;
mod keys;
mod limits;
mod logs;
mod quarantine;
mod segment;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::base::supervisor::Tasks;
use crate::bus::{Bus, ConsumerSpec, EmbeddedSettings};
use crate::event::EventRef;
use crate::event::proto::{
    EventEnvelope, IngestEventBatchRequest, IngestEventBatchResponse, IngestEventRequest, IngestEventResponse,
};
use crate::gateway::{Destination, Settings, serve};
use crate::http::raw_client::RawClient;
use crate::http::{Drained, Limits, MemoryBudget, Readiness};

pub(super) const INGEST: &str = "/v1/events/ingest";
pub(super) const BATCH: &str = "/v1/events/batch";
pub(super) const JSON: &str = "application/json";
pub(super) const BINARY: &str = "application/x-protobuf";

pub(super) struct TestGateway {
    pub(super) address: SocketAddr,
    pub(super) bus: Bus,
    pub(super) readiness: Readiness,
    stop: CancellationToken,
    drained: oneshot::Receiver<Drained>,
    _dir: TempDir,
}

impl TestGateway {
    pub(super) async fn start(settings: Settings) -> Self {
        Self::start_with_room(settings, 1 << 30).await
    }

    /// Stores nothing.
    pub(super) async fn discarding(settings: Settings) -> Self {
        Self::start_to(settings, 1 << 20, |_| Destination::Discard).await
    }

    pub(super) async fn start_with_room(settings: Settings, bus_bytes_max: u64) -> Self {
        Self::start_to(settings, bus_bytes_max, Destination::Bus).await
    }

    async fn start_to(settings: Settings, bus_bytes_max: u64, destination: fn(Bus) -> Destination) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedSettings {
            dir: dir.path().to_owned(),
            bytes_max: bus_bytes_max,
            age_max: Duration::from_secs(3_600),
            dead_letter_age_max: Duration::from_secs(3_600),
            dedup_window: Duration::from_secs(600),
            tail_bytes_max: 1 << 20,
        })
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, readiness) = (CancellationToken::new(), Readiness::new());
        let (done, drained) = oneshot::channel();
        let serving = serve(listener, settings, destination(bus.clone()), readiness.clone(), stop.clone());
        Tasks::default().spawn(async move {
            let _ = done.send(serving.await);
        });
        Self { address, bus, readiness, stop, drained, _dir: dir }
    }

    pub(super) async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    pub(super) async fn stored(&self) -> u64 {
        self.bus.status().await.unwrap().messages
    }

    /// The payloads in the bus, in order.
    pub(super) async fn payloads(&self, count: usize) -> Vec<Vec<u8>> {
        let spec = ConsumerSpec {
            name: "test".into(),
            filter: "events.>".into(),
            matches_most: false,
            coarse_acks: false,
            ack_wait: Duration::from_secs(60),
            max_deliver: 5,
            pending_max: 10_000,
        };
        let mut subscription = self.bus.subscribe(spec).await.unwrap();
        let mut payloads = Vec::new();
        while payloads.len() < count {
            let deliveries = subscription.fetch(1_000, 1 << 20).await.unwrap();
            let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
            subscription.acker().ack(&receipts).await.unwrap();
            payloads.extend(deliveries.into_iter().map(|delivery| delivery.payload().to_vec()));
        }
        payloads
    }

    async fn stop(self) -> Drained {
        self.stop.cancel();
        let drained = self.drained.await.unwrap();
        self.bus.close().await;
        drained
    }
}

pub(super) fn event(device: &str) -> Value {
    json!({"appId": "shop", "deviceId": device, "screenView": {"screenName": "home"}})
}

pub(super) fn single(device: &str) -> String {
    json!({"event": event(device)}).to_string()
}

pub(super) fn batch(events: impl IntoIterator<Item = Value>) -> String {
    json!({"events": events.into_iter().collect::<Vec<_>>()}).to_string()
}

fn envelope(device: &str) -> EventEnvelope {
    serde_json::from_value(event(device)).unwrap()
}

#[tokio::test]
async fn accepted_events_are_on_the_bus() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let reply = client.post(INGEST, JSON, single("d1")).await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(JSON)));
    let id = reply.json()["eventId"].as_str().unwrap().to_owned();
    assert_eq!(reply.json(), json!({"eventId": id, "status": "accepted", "duplicate": false}));
    let payloads = gateway.payloads(1).await;
    let stored = EventRef::decode(&payloads[0]).unwrap();
    assert_eq!((stored.id, stored.app_id, stored.device_id), (id.as_str(), "shop", "d1"));
    assert_eq!(gateway.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn json_needs_no_content_type() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let body = single("d1");
    client.send(format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(client.post(INGEST, "text/plain;charset=UTF-8", body).await.status, 200);
    assert_eq!(gateway.stored().await, 2);
}

#[tokio::test]
async fn batch_items_are_validated_individually() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let nameless = json!({"appId": "shop", "screenView": {"screenName": "home"}});
    let body = batch([event("d1"), nameless, json!({"appId": 7}), event("d2")]);
    let reply = client.post(BATCH, JSON, body).await;
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    assert_eq!((&reply["acceptedCount"], &reply["rejectedCount"]), (&json!(2), &json!(2)));
    let results = reply["results"].as_array().unwrap();
    assert_eq!(
        results[1],
        json!({"index": 1, "eventId": "", "status": "rejected", "error": "/deviceId: is required", "code": 400})
    );
    assert_eq!(results[2]["status"], "rejected");
    assert!(results[2]["error"].as_str().unwrap().starts_with("/appId: "), "{}", results[2]);
    for (index, device) in [(0, "d1"), (3, "d2")] {
        let id = &results[index]["eventId"];
        assert_eq!(results[index], json!({"index": index, "eventId": id, "status": "accepted"}), "{device}");
    }
    assert_eq!(gateway.stored().await, 2);
}

#[tokio::test]
async fn binary_is_answered_in_binary() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    for media_type in [BINARY, "application/protobuf", "application/octet-stream"] {
        let body = IngestEventRequest { event: Some(envelope("d1")) }.encode_to_vec();
        let reply = client.post(INGEST, media_type, body).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(media_type)));
        let reply = IngestEventResponse::decode(&*reply.body).unwrap();
        assert_eq!((reply.status.as_str(), reply.event_id.len(), reply.duplicate), ("accepted", 36, false));
    }
    let events = vec![envelope("d1"), envelope(""), envelope("d2")];
    let reply = client.post(BATCH, BINARY, IngestEventBatchRequest { events }.encode_to_vec()).await;
    let reply = IngestEventBatchResponse::decode(&*reply.body).unwrap();
    assert_eq!((reply.accepted_count, reply.rejected_count), (2, 1));
    let outcomes: Vec<_> = reply.results.iter().map(|result| (result.index, result.status.as_str())).collect();
    assert_eq!(outcomes, [(0, "accepted"), (1, "rejected"), (2, "accepted")]);
    assert_eq!(reply.results[1].error, "/deviceId: is required");
    assert_eq!(gateway.stored().await, 5);
}

#[tokio::test]
async fn an_idempotency_key_is_stored_once() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let mut keyed = event("d1");
    keyed["idempotencyKey"] = json!("k1");
    let body = json!({"event": keyed}).to_string();
    let first = client.post(INGEST, JSON, &body).await.json();
    assert_eq!((&first["duplicate"], first["eventId"].as_str().unwrap().len()), (&json!(false), 36));
    let again = client.post(INGEST, JSON, &body).await;
    assert_eq!((again.status, &again.json()["status"]), (200, &json!("accepted")));
    assert_eq!((&again.json()["duplicate"], &again.json()["eventId"]), (&json!(true), &first["eventId"]));
    keyed["id"] = json!("one of the sender's own");
    let named = client.post(INGEST, JSON, json!({"event": keyed.clone()}).to_string()).await.json();
    assert_eq!(named["eventId"], first["eventId"], "the first event stands");
    keyed["id"] = json!("");
    let (mut other_app, mut new_key) = (keyed.clone(), keyed.clone());
    other_app["appId"] = json!("other");
    new_key["idempotencyKey"] = json!("k2");
    let reply = client.post(BATCH, JSON, batch([keyed, other_app, new_key.clone(), new_key])).await.json();
    let duplicates: Vec<_> =
        reply["results"].as_array().unwrap().iter().map(|result| result["duplicate"] == true).collect();
    assert_eq!((&reply["acceptedCount"], duplicates), (&json!(4), vec![true, false, false, true]));
    let ids: Vec<_> = reply["results"].as_array().unwrap().iter().map(|result| result["eventId"].clone()).collect();
    assert!(ids[0] == first["eventId"] && ids[2] == ids[3] && ids[1] != ids[2] && ids[1] != ids[0], "{ids:?}");
    assert_eq!(gateway.stored().await, 3);
}

#[tokio::test]
async fn probes_answer() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/health").await.json(), json!({"status": "ok"}));
    assert_eq!(client.get("/ready").await.json(), json!({"status": "ready", "components": {"bus": "ok"}}));
    let head = client.head("/health").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("15")));
    gateway.readiness.set_draining();
    let reply = client.get("/ready").await;
    assert_eq!((reply.status, &reply.json()["status"]), (503, &json!("draining")));
    assert_eq!(client.get("/health").await.status, 200);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let requests: String = (0..50)
        .map(|n| {
            let mut event = event("d1");
            event["id"] = json!(format!("id-{n}"));
            let body = json!({"event": event}).to_string();
            format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        })
        .collect();
    client.send(requests).await;
    for n in 0..50 {
        assert_eq!(client.reply().await.json()["eventId"], format!("id-{n}"));
    }
    assert_eq!(gateway.stored().await, 50);
}

#[tokio::test]
async fn http2_streams_share_a_connection() {
    let gateway = TestGateway::start(Settings::default()).await;
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    Tasks::default().spawn(async move { connection.await.unwrap() });
    let requests = (0..100).map(|n| {
        let mut sender = sender.clone();
        async move {
            let body = Full::new(Bytes::from(batch((0..10).map(|_| event(&format!("d{n}"))))));
            let request = Request::post(format!("http://t{BATCH}")).body(body).unwrap();
            let reply = sender.send_request(request).await.unwrap();
            serde_json::from_slice::<Value>(&reply.into_body().collect().await.unwrap().to_bytes()).unwrap()
        }
    });
    for reply in futures_util::future::join_all(requests).await {
        assert_eq!(reply["acceptedCount"], 10);
    }
    assert_eq!(gateway.stored().await, 1_000);
    assert_eq!(gateway.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn slow_bodies_time_out() {
    let settings = Settings { body_timeout: Duration::from_millis(100), ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let mut client = gateway.client().await;
    client.send(format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{{")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (408, Some("close")));
    assert_eq!(reply.json()["detail"], "The body did not arrive in time.");
    assert!(client.closed().await);
    assert_eq!(gateway.stored().await, 0);
}

#[tokio::test]
async fn a_large_body_is_refused_declared_or_not() {
    let settings = Settings { body_bytes_max: 10_000, ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let mut declared = gateway.client().await;
    declared.send(format!("POST {BATCH} HTTP/1.1\r\nhost: t\r\ncontent-length: 10001\r\n\r\n")).await;
    assert_eq!(declared.reply().await.status, 413, "refused before the body is sent");
    let mut chunked = gateway.client().await;
    chunked.send(format!("POST {BATCH} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n")).await;
    for _ in 0..3 {
        chunked.send(format!("1000\r\n{}\r\n", " ".repeat(0x1000))).await;
    }
    let reply = chunked.reply().await;
    assert_eq!((reply.status, reply.json()["detail"].as_str()), (413, Some("The body is too large.")));
    assert!(chunked.closed().await);
    assert_eq!(gateway.stored().await, 0);
}

#[tokio::test]
async fn drain_completes_the_request_in_flight() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let body = single("d1");
    let (first, rest) = body.split_at(10);
    client.send(format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\ncontent-length: {}\r\n\r\n{first}", body.len())).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    gateway.stop.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.send(rest).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert_eq!(gateway.stored().await, 1);
    assert_eq!(gateway.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn a_full_bus_is_reported_and_recovered_from() {
    let gateway = TestGateway::start_with_room(Settings::default(), 256 * 1024).await;
    let mut client = gateway.client().await;
    let body = batch((0..100).map(|_| event(&"d".repeat(200))));
    let mut accepted = 0;
    let refused = loop {
        let reply = client.post(BATCH, JSON, &body).await;
        if reply.status != 200 {
            break reply;
        }
        accepted += reply.json()["acceptedCount"].as_u64().unwrap();
        assert!(accepted < 10_000, "the bus never fills");
    };
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("2")));
    assert_eq!(refused.json()["detail"], "The event store is full; send again later.");
    // A single event may still fit where a batch did not.
    let single = loop {
        let reply = client.post(INGEST, JSON, json!({"event": event(&"d".repeat(200))}).to_string()).await;
        if reply.status != 200 {
            break reply;
        }
        accepted += 1;
        assert!(accepted < 10_000, "the bus never fills");
    };
    assert_eq!((single.status, single.header("retry-after")), (503, Some("2")));
    let ready = client.get("/ready").await;
    assert_eq!(ready.status, 503);
    assert!(ready.json()["components"]["bus"].as_str().unwrap().contains("full"), "{}", ready.json());
    assert_eq!(gateway.stored().await, accepted, "what was refused is not stored");

    gateway.payloads(usize::try_from(accepted).unwrap()).await;
    gateway.bus.purge_acknowledged().await.unwrap();
    let mut readiness = gateway.readiness.watch();
    while !gateway.readiness.ready() {
        tokio::time::timeout(Duration::from_secs(10), readiness.changed()).await.expect("ready without traffic");
    }
    assert_eq!(client.get("/ready").await.status, 200);
    assert_eq!(client.post(BATCH, JSON, &body).await.status, 200);
}

#[tokio::test]
async fn a_closed_bus_is_unavailable() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    gateway.bus.close().await;
    for (path, body) in [(INGEST, single("d1")), (BATCH, batch([event("d1"), json!({})]))] {
        let reply = client.post(path, JSON, body).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
        assert_eq!(reply.json()["detail"], "The server is stopping; send again later.");
    }
    let reply = client.post(BATCH, JSON, batch([json!({})])).await;
    assert_eq!(reply.status, 200, "a batch of invalid events has its verdicts, whatever the bus");
}

#[tokio::test]
async fn bodies_share_a_memory_budget() {
    let http = Limits { memory: MemoryBudget::new(128 * 1024), ..Limits::default() };
    let gateway = TestGateway::start(Settings { http, ..Settings::default() }).await;
    let (mut large, mut small) = (gateway.client().await, gateway.client().await);
    let body = batch((0..1_000).map(|_| event(&"d".repeat(200))));
    let reply = large.post(BATCH, JSON, body).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
    assert_eq!(small.post(INGEST, JSON, single("d1")).await.status, 200);
    assert_eq!(gateway.stored().await, 1);
}

#[tokio::test]
async fn outcomes_are_a_small_multiple_of_the_events() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    // Each unknown name is an error whose pointer repeats the name.
    let name = "\\u0001\"".repeat(60).replace('"', "\\\"");
    let wrong = (0..40).map(|index| format!("\"{name}{index}\":1")).collect::<Vec<_>>().join(",");
    let body = format!(r#"{{"events":[{}]}}"#, vec![format!("{{{wrong}}}"); 200].join(","));
    let reply = client.post(BATCH, JSON, body.as_str()).await;
    assert_eq!(reply.status, 200);
    assert!(reply.body.len() < 200 * 1_500, "{} bytes for 200 events", reply.body.len());
    let reply = client.post(INGEST, JSON, format!(r#"{{"event":{{{wrong}}}}}"#)).await;
    assert!(reply.status == 400 && reply.body.len() < 16 * 1_024, "{} bytes", reply.body.len());
}

#[tokio::test]
async fn events_are_not_stored_without_memory_for_the_reply() {
    let http = Limits { memory: MemoryBudget::new(64 * 1024), ..Limits::default() };
    let gateway = TestGateway::start(Settings { http, ..Settings::default() }).await;
    let mut client = gateway.client().await;
    let mut events = vec![json!({}); 999];
    events.push(event("d1"));
    let reply = client.post(BATCH, JSON, batch(events)).await;
    assert_eq!((reply.status, gateway.stored().await), (503, 0));
}

#[tokio::test]
async fn remote_clients_see_readiness_without_details() {
    let gateway = TestGateway::start(Settings { ready_details: false, ..Settings::default() }).await;
    assert_eq!(gateway.client().await.get("/ready").await.json(), json!({"status": "ready"}));
    gateway.readiness.set("bus", Err("nats://10.0.0.7:4222 does not answer".to_owned()));
    let reply = gateway.client().await.get("/ready").await;
    assert_eq!((reply.status, reply.json()), (503, json!({"status": "unready"})));
}

#[tokio::test]
async fn pages_of_other_origins_may_not_send_events_on_loopback() {
    let post = |origin: &str| {
        let body = single("d1");
        let length = body.len();
        format!(
            "POST {INGEST} HTTP/1.1\r\nhost: localhost:8080\r\n{origin}content-type: text/plain\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
    };
    for (loopback, origin, status) in [
        (true, "origin: https://evil.example\r\n", 403),
        (true, "origin: null\r\n", 403),
        (true, "origin: http://localhost:8080\r\n", 200),
        (true, "", 200),
        (false, "origin: https://app.example\r\n", 200),
    ] {
        let gateway = TestGateway::start(Settings { loopback, ..Settings::default() }).await;
        let mut client = gateway.client().await;
        client.send(post(origin)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, gateway.stored().await), (status, u64::from(status == 200)), "{loopback} {origin}");
    }
}

#[tokio::test]
async fn curl_gets_a_content_type_hint() {
    let gateway = TestGateway::start(Settings::default()).await;
    let reply = gateway.client().await.post(INGEST, "application/x-www-form-urlencoded", single("d1")).await;
    assert_eq!(reply.status, 415);
    let detail = reply.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("-H 'Content-Type: application/json'"), "{detail}");
}
