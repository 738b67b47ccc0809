//! Requests with and without API keys over real sockets, a real store and a real bus.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use prost::Message as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{BATCH, BINARY, INGEST, JSON, TestGateway};
use crate::base::supervisor::Tasks;
use crate::event::EventRef;
use crate::event::proto::{
    EventEnvelope, IngestEventBatchRequest, IngestEventBatchResponse, IngestEventRequest, IngestEventResponse,
};
use crate::gateway::{Access, KeyRing, Settings};
use crate::http::Readiness;
use crate::http::raw_client::{RawClient, RawReply};
use crate::store::{NewApiKey, SqliteSettings, Store};

/// Generous for busy machines; normally everything takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
const HOW: &str = "Send an API key in the header X-API-Key, as Authorization: Bearer, or as the user name of \
                   Authorization: Basic.";

/// A gateway that requires keys, and the store with its keys.
pub(super) struct Keyed {
    pub(super) gateway: TestGateway,
    store: Store,
    readiness: Readiness,
    following: Option<DropGuard>,
    _dir: TempDir,
}

impl Keyed {
    /// Does not keep its copy of the keys current yet.
    async fn not_following(settings: Settings) -> (Self, KeyRing) {
        let dir = tempfile::tempdir().unwrap();
        let sqlite = SqliteSettings { dir: dir.path().to_owned(), secrets_key: None, secrets_key_replaced: false };
        let store = Store::open_sqlite(sqlite).unwrap();
        let readiness = Readiness::new();
        let ring = KeyRing::new(store.clone(), readiness.clone());
        let settings = Settings { access: Access::Keys(ring.clone()), ..settings };
        let gateway = TestGateway::start(settings).await;
        (Self { gateway, store, readiness, following: None, _dir: dir }, ring)
    }

    async fn start() -> Self {
        Self::start_with(Settings::default()).await
    }

    pub(super) async fn start_with(settings: Settings) -> Self {
        let (mut keyed, ring) = Self::not_following(settings).await;
        let stop = CancellationToken::new();
        keyed.following = Some(stop.clone().drop_guard());
        Tasks::default().spawn(async move { ring.follow(stop).await });
        keyed
    }

    /// Creates a key, and waits until the gateway knows it.
    pub(super) async fn key(&self, new: NewApiKey) -> String {
        let (_, key) = self.store.create_key(new).await.unwrap();
        self.until(&format!("X-API-Key: {key}"), 400).await;
        key
    }

    /// Repeats a request with these headers until it gets this status.
    async fn until(&self, headers: &str, status: u16) {
        let waiting = async {
            while self.post(INGEST, headers, JSON, b"{}").await.status != status {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the gateway knows in time");
    }

    pub(super) async fn post(&self, path: &str, headers: &str, content_type: &str, body: &[u8]) -> RawReply {
        post(&mut self.gateway.client().await, path, headers, content_type, body).await
    }
}

/// Posts with additional header lines.
pub(super) async fn post(
    client: &mut RawClient,
    path: &str,
    headers: &str,
    content_type: &str,
    body: &[u8],
) -> RawReply {
    let headers = if headers.is_empty() { String::new() } else { format!("{}\r\n", headers.trim_end()) };
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: {content_type}\r\n{headers}content-length: {length}\r\n\r\n"
    );
    client.send([head.as_bytes(), body].concat()).await;
    client.reply().await
}

pub(super) fn new(app: &str, name: &str) -> NewApiKey {
    NewApiKey { app_id: app.to_owned(), name: name.to_owned(), ..NewApiKey::default() }
}

fn event(app: Option<&str>) -> Value {
    let mut event = json!({"deviceId": "d", "screenView": {"screenName": "home"}});
    if let Some(app) = app {
        event["appId"] = json!(app);
    }
    event
}

fn envelope(app: Option<&str>) -> EventEnvelope {
    serde_json::from_value(event(app)).unwrap()
}

fn basic(text: &str) -> String {
    format!("Authorization: Basic {}", BASE64_STANDARD.encode(text))
}

#[tokio::test]
async fn keys_are_accepted_in_three_headers() {
    let keyed = Keyed::start().await;
    let key = keyed.key(new("shop", "ios")).await;
    let unpadded = BASE64_STANDARD_NO_PAD.encode(&key);
    let ways = [
        format!("X-API-Key: {key}"),
        format!("x-api-key:   {key}  "),
        format!("X-API-Key: {key}\r\nX-API-Key: {key}"),
        format!("Authorization: Bearer {key}"),
        format!("authorization: bearer  {key}"),
        basic(&key),
        basic(&format!("{key}:")),
        basic(&format!("{key}:a:password")),
        format!("Authorization: basic {unpadded}"),
        format!("X-API-Key: {key}\r\n{}", basic(&format!("{key}:"))),
        // Credentials for a proxy on the way are ignored.
        format!("X-API-Key: {key}\r\nAuthorization: Negotiate abc"),
    ];
    let body = json!({"event": event(None)}).to_string();
    for way in &ways {
        let reply = keyed.post(INGEST, way, JSON, body.as_bytes()).await;
        assert_eq!(reply.status, 200, "{way}: {}", String::from_utf8_lossy(&reply.body));
    }
    for payload in keyed.gateway.payloads(ways.len()).await {
        assert_eq!(EventRef::decode(&payload).unwrap().app_id, "shop");
    }
}

#[tokio::test]
async fn invalid_keys_are_refused_with_a_reason() {
    let keyed = Keyed::start().await;
    let (key, other) = (keyed.key(new("shop", "ios")).await, keyed.key(new("shop", "web")).await);
    let unknown = "The API key is unknown or was revoked.".to_owned();
    let with_hint = |why: &str| format!("{why} {HOW}");
    let not_basic = "Authorization: Basic must be the base64 of an API key, which is the user name; a colon and a \
                     password may follow.";
    let scheme = "Authorization must be Bearer or Basic.";
    let cases = [
        (String::new(), HOW.to_owned()),
        ("X-API-Key:".to_owned(), with_hint("X-API-Key is empty.")),
        (format!("X-API-Key: \r\nAuthorization: Bearer {key}"), with_hint("X-API-Key is empty.")),
        ("Authorization: Bearer".to_owned(), with_hint("Authorization: Bearer has no API key after it.")),
        ("Authorization:".to_owned(), with_hint(scheme)),
        (format!("Authorization: {key}"), with_hint(scheme)),
        (format!("Authorization: Token {key}"), with_hint(scheme)),
        ("Authorization: Basic".to_owned(), with_hint(not_basic)),
        (format!("Authorization: Basic {key}!"), with_hint(not_basic)),
        (basic(&format!(":{key}")), with_hint(not_basic)),
        (basic(&"x".repeat(600)), with_hint(not_basic)),
        ("X-API-Key: wrong".to_owned(), unknown.clone()),
        (format!("X-API-Key: {}", key.to_uppercase()), unknown.clone()),
        (format!("X-API-Key: {}", &key[1..]), unknown.clone()),
        (format!("X-API-Key: {key}, {key}"), unknown.clone()),
        (format!("X-API-Key: {}", "k".repeat(30_000)), unknown.clone()),
        ("X-API-Key: \u{e9}".to_owned(), unknown.clone()),
        (format!("Authorization: Bearer {key} {key}"), unknown.clone()),
        (basic(&format!("user:{key}")), unknown),
        (
            format!("X-API-Key: {key}\r\nAuthorization: Bearer {other}"),
            with_hint("X-API-Key and Authorization do not hold the same API key; send one."),
        ),
        (
            format!("X-API-Key: {key}\r\n{}", basic("user:password")),
            with_hint("X-API-Key and Authorization do not hold the same API key; send one."),
        ),
        (
            format!("X-API-Key: {key}\r\nX-API-Key: {other}"),
            with_hint("There is more than one X-API-Key header, and they differ; send one."),
        ),
        (
            format!("Authorization: Bearer {key}\r\n{}", basic(&other)),
            with_hint("There is more than one Authorization header, and they differ; send one."),
        ),
    ];
    let body = json!({"event": event(None)}).to_string();
    for (headers, detail) in cases {
        for path in [INGEST, BATCH] {
            let reply = keyed.post(path, &headers, JSON, body.as_bytes()).await;
            let expected = json!({"type": "about:blank", "title": "Unauthorized", "status": 401, "detail": detail});
            assert_eq!((reply.status, reply.json()), (401, expected), "{headers}");
            assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            let challenges: Vec<_> =
                reply.head.lines().filter_map(|line| line.strip_prefix("www-authenticate: ")).collect();
            let error = if headers.is_empty() { "" } else { r#", error="invalid_token""# };
            let bearer = format!(r#"Bearer realm="causality"{error}"#);
            assert_eq!(challenges, [&*bearer, r#"Basic realm="causality", charset="UTF-8""#], "{headers}");
        }
    }
    assert_eq!(keyed.gateway.stored().await, 0);
}

#[tokio::test]
async fn requests_without_a_key_are_refused_before_the_body_is_read() {
    let keyed = Keyed::start().await;
    keyed.until("", 401).await;
    let mut client = keyed.gateway.client().await;
    client
        .send(format!("POST {BATCH} HTTP/1.1\r\nhost: t\r\ncontent-type: {JSON}\r\ncontent-length: 4000000\r\n\r\n"))
        .await;
    assert_eq!(client.reply().await.status, 401);

    let mut client = keyed.gateway.client().await;
    assert_eq!((client.get("/health").await.status, client.get("/ready").await.status), (200, 200));
    let mut client = keyed.gateway.client().await;
    assert_eq!(client.get(INGEST).await.status, 405);
    assert_eq!(client.get("/v1/nothing").await.status, 404);
}

#[tokio::test]
async fn a_key_admits_only_events_of_its_app() {
    let keyed = Keyed::start().await;
    let header = format!("X-API-Key: {}", keyed.key(new("shop", "ios")).await);
    let other_app = "must be the app of the API key";

    for (app, status) in [(None, 200), (Some(""), 200), (Some("shop"), 200), (Some("Shop"), 403), (Some("shop2"), 403)]
    {
        let body = json!({"event": event(app)}).to_string();
        let reply = keyed.post(INGEST, &header, JSON, body.as_bytes()).await;
        assert_eq!(reply.status, status, "{app:?}");
        let encoded = IngestEventRequest { event: Some(envelope(app)) }.encode_to_vec();
        let binary = keyed.post(INGEST, &header, BINARY, &encoded).await;
        assert_eq!(binary.status, status, "{app:?}");
        if status == 403 {
            let expected = json!({"type": "about:blank", "title": "Forbidden", "status": 403,
                "detail": "The event belongs to another app than the API key.",
                "errors": [{"pointer": "/event/appId", "detail": other_app}]});
            assert_eq!((reply.json(), binary.json()), (expected.clone(), expected));
        } else {
            assert_eq!(IngestEventResponse::decode(&*binary.body).unwrap().status, "accepted");
        }
    }

    let apps = [None, Some("game"), Some("shop")];
    let error = format!("/appId: {other_app}");
    let body = json!({"events": apps.map(event)}).to_string();
    let reply = keyed.post(BATCH, &header, JSON, body.as_bytes()).await.json();
    assert_eq!((&reply["acceptedCount"], &reply["rejectedCount"]), (&json!(2), &json!(1)));
    let refused = json!({"index": 1, "eventId": "", "status": "rejected", "error": error, "code": 403});
    assert_eq!(reply["results"][1], refused);
    let encoded = IngestEventBatchRequest { events: apps.map(envelope).to_vec() }.encode_to_vec();
    let reply = keyed.post(BATCH, &header, BINARY, &encoded).await;
    let reply = IngestEventBatchResponse::decode(&*reply.body).unwrap();
    assert_eq!((reply.accepted_count, reply.rejected_count), (2, 1));
    let outcomes: Vec<_> = reply.results.iter().map(|result| (result.status.as_str(), result.code)).collect();
    assert_eq!(outcomes, [("accepted", 0), ("rejected", 403), ("accepted", 0)]);

    for payload in keyed.gateway.payloads(10).await {
        assert_eq!(EventRef::decode(&payload).unwrap().app_id, "shop");
    }
    assert_eq!(keyed.gateway.stored().await, 10);
}

#[tokio::test]
async fn keys_expire_by_the_clock() {
    let keyed = Keyed::start().await;
    let soon = Timestamp::now() + SignedDuration::from_secs(4);
    let key = keyed.key(NewApiKey { expires_at: Some(soon), ..new("shop", "ios") }).await;
    let header = format!("Authorization: Bearer {key}");
    keyed.until(&header, 401).await;
    // The store counts milliseconds, and the gateway knows the store's clock as precisely as one round trip allows.
    let early = soon.duration_since(Timestamp::now());
    assert!(early < SignedDuration::from_millis(100), "{early} before it was told to");
    let reply = keyed.post(INGEST, &header, JSON, b"{}").await;
    assert_eq!((reply.status, &reply.json()["detail"]), (401, &json!("The API key has expired.")));
}

#[tokio::test]
async fn two_keys_of_an_app_work_until_one_is_revoked() {
    let keyed = Keyed::start().await;
    let keys = [keyed.key(new("shop", "old")).await, keyed.key(new("shop", "new")).await];
    let [old, new] = keys.map(|key| format!("X-API-Key: {key}"));
    let body = json!({"event": event(None)}).to_string();
    for header in [&old, &new] {
        assert_eq!(keyed.post(INGEST, header, JSON, body.as_bytes()).await.status, 200);
    }
    assert!(keyed.store.revoke_key("old").await.unwrap());
    keyed.until(&old, 401).await;
    assert_eq!(keyed.post(INGEST, &new, JSON, body.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn requests_are_unavailable_until_keys_are_read() {
    let (keyed, ring) = Keyed::not_following(Settings::default()).await;
    let (_, key) = keyed.store.create_key(new("shop", "ios")).await.unwrap();
    let header = format!("X-API-Key: {key}");
    let reply = keyed.post(INGEST, &header, JSON, b"{}").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
    assert_eq!(reply.json()["detail"], "The API keys could not be read yet; send again later.");
    assert!(!keyed.readiness.ready_for(crate::http::Scope::Ingest), "{}", keyed.readiness.report());

    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    Tasks::default().spawn(async move { ring.follow(stop).await });
    keyed.until(&header, 400).await;
    assert!(keyed.readiness.ready_for(crate::http::Scope::Ingest), "{}", keyed.readiness.report());

    // Known keys keep working while the store cannot be read.
    keyed.store.close().await;
    let warned = async {
        while !keyed.readiness.report().to_string().contains("the store cannot be read") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, warned).await.expect("a warning");
    assert_eq!(keyed.post(INGEST, &header, JSON, b"{}").await.status, 400);
    assert_eq!(keyed.post(INGEST, "X-API-Key: other", JSON, b"{}").await.status, 401);
    assert!(keyed.readiness.ready_for(crate::http::Scope::Ingest), "{}", keyed.readiness.report());
}

#[tokio::test]
async fn the_last_use_of_a_key_is_recorded_at_the_latest_on_stop() {
    let mut keyed = Keyed::start().await;
    let before = Timestamp::now().as_millisecond();
    let key = keyed.key(new("shop", "ios")).await;
    keyed.key(new("shop", "unused")).await;
    keyed.post(INGEST, &format!("X-API-Key: {key}"), JSON, b"{}").await;
    keyed.following.take();
    let noted = async {
        loop {
            if let Some(at) = keyed.store.key("ios").await.unwrap().unwrap().last_used_at {
                return at.as_millisecond();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let at = tokio::time::timeout(PATIENCE, noted).await.expect("a last use");
    // Rounded to the minute, and not before the key existed.
    assert!(at >= before && at <= Timestamp::now().as_millisecond(), "{at}");
}
