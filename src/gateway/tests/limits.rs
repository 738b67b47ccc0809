//! Rate limits, client addresses and request ids over real sockets, with the exact headers.

use std::time::{Duration, Instant};

use serde_json::json;

use super::keys::{Keyed, new};
use super::{BATCH, INGEST, JSON, TestGateway, batch, event, single};
use crate::base::network::Networks;
use crate::gateway::{Quota, RateLimitSettings, Settings, TrustedProxies};
use crate::http::raw_client::{RawClient, RawReply};
use crate::store::NewApiKey;

const MANY: Quota = Quota { per_second: 10_000, burst: 20_000 };

fn limited(each: Quota) -> Settings {
    let limits = RateLimitSettings { global: MANY, each, events_per_second: None };
    Settings { rate_limits: Some(limits), ..Settings::default() }
}

async fn post_with(client: &mut RawClient, lines: &str, body: &str) -> RawReply {
    let length = body.len();
    client.send(format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\n{lines}content-length: {length}\r\n\r\n{body}")).await;
    client.reply().await
}

/// The rate limit headers of a reply.
fn fields(reply: &RawReply) -> [Option<&str>; 4] {
    ["ratelimit", "ratelimit-policy", "retry-after", "x-ratelimit-reset"].map(|name| reply.header(name))
}

#[tokio::test]
async fn requests_succeed_again_after_retry_after() {
    // A token takes a second, longer than the requests before it.
    let gateway = TestGateway::start(limited(Quota { per_second: 1, burst: 3 })).await;
    let mut client = gateway.client().await;
    let start = Instant::now();
    let policy = Some("\"requests\";q=3;w=3");
    let mut refused = None;
    for left in [2, 1, 0] {
        let reply = client.post(INGEST, JSON, single("d1")).await;
        assert_eq!(reply.status, 200);
        if start.elapsed() < Duration::from_secs(1) {
            let limit = format!("\"requests\";r={left};t=1");
            assert_eq!(fields(&reply), [Some(&*limit), policy, None, None]);
        }
    }
    for _ in 0..20 {
        let reply = client.post(INGEST, JSON, single("d1")).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("no machine is this slow");
    assert_eq!(fields(&refused), [Some("\"requests\";r=0;t=1"), policy, Some("1"), Some("1")]);
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    let detail = "This address sends more requests than it may; send again later.";
    let expected = json!({"type": "about:blank", "title": "Too Many Requests", "status": 429, "detail": detail});
    assert_eq!(refused.json(), expected);
    let stored = gateway.stored().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(client.post(INGEST, JSON, single("d1")).await.status, 200);
    assert_eq!(gateway.stored().await, stored + 1, "what was refused is not stored");
    for path in ["/health", "/ready"] {
        let reply = client.get(path).await;
        assert_eq!((reply.status, fields(&reply)), (200, [None; 4]), "{path} has no limit");
    }
}

#[tokio::test]
async fn keys_have_separate_and_individual_limits() {
    let keyed = Keyed::start_with(limited(Quota { per_second: 1, burst: 3 })).await;
    let plain = keyed.key(new("shop", "plain")).await;
    let limits = NewApiKey { requests_per_second: Some(100), burst: Some(500), ..new("shop", "own") };
    let own = keyed.key(limits).await;
    let post = async |key: &str| keyed.post(INGEST, &format!("x-api-key: {key}"), JSON, single("d1").as_bytes()).await;
    let mut refused = None;
    for _ in 0..30 {
        let reply = post(&plain).await;
        if reply.status == 429 {
            refused = Some(reply);
        }
        let reply = post(&own).await;
        assert_eq!((reply.status, reply.header("ratelimit-policy")), (200, Some("\"requests\";q=500;w=5")));
    }
    let refused = refused.expect("30 requests are more than 1 a second");
    assert_eq!(refused.json()["detail"], "This API key sends more requests than it may; send again later.");
    assert_eq!(refused.header("ratelimit-policy"), Some("\"requests\";q=3;w=3"));
}

#[tokio::test]
async fn requests_without_a_valid_key_are_counted_by_address() {
    let keyed = Keyed::start_with(limited(Quota { per_second: 1, burst: 3 })).await;
    let known = keyed.key(NewApiKey { burst: Some(500), ..new("shop", "known") }).await;
    let unknown = format!("x-api-key: {}", "0".repeat(64));
    let segment = r#"{"writeKey":"wrong","event":"e","anonymousId":"a"}"#;
    for (path, header, body) in [
        (INGEST, &*unknown, &*single("d1")),
        (INGEST, "x-other: 1", &*single("d1")),
        (INGEST, "x-api-key: short", &*single("d1")),
        ("/v1/track", "authorization: Basic d3Jvbmc6", segment),
        ("/v1/track", "x-other: 1", segment),
        ("/v1/logs", &*unknown, "{}"),
    ] {
        let mut last = keyed.post(path, header, JSON, body.as_bytes()).await;
        for _ in 0..30 {
            if last.status != 401 {
                break;
            }
            assert_eq!(fields(&last), [None; 4]);
            last = keyed.post(path, header, JSON, body.as_bytes()).await;
        }
        assert_eq!(last.status, 429, "{path} {header}: 30 requests are more than 1 a second");
        assert_eq!(fields(&last)[1..], [Some("\"requests\";q=3;w=3"), Some("1"), Some("1")], "{path} {header}");
        let text = String::from_utf8_lossy(&last.body).into_owned();
        assert!(text.contains("This address sends too many requests without a valid API key"), "{text}");
    }
    for _ in 0..20 {
        let reply = keyed.post(INGEST, &format!("x-api-key: {known}"), JSON, single("d1").as_bytes()).await;
        assert_eq!(reply.status, 200, "whoever has a key is not held up by others at the same address");
    }
}

#[tokio::test]
async fn without_limits_no_headers_are_sent() {
    let gateway = TestGateway::start(Settings::default()).await;
    let reply = gateway.client().await.post(INGEST, JSON, single("d1")).await;
    assert_eq!((reply.status, fields(&reply)), (200, [None; 4]));
}

#[tokio::test]
async fn all_callers_share_a_global_limit() {
    let limits = RateLimitSettings { global: Quota { per_second: 1, burst: 2 }, each: MANY, events_per_second: None };
    let settings = Settings { rate_limits: Some(limits), ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let mut client = gateway.client().await;
    let mut last = client.post(INGEST, JSON, single("d1")).await;
    for _ in 0..20 {
        if last.status != 200 {
            break;
        }
        last = client.post(INGEST, JSON, single("d1")).await;
    }
    assert_eq!(last.status, 429);
    assert_eq!(fields(&last), [Some("\"global\";r=0;t=1"), Some("\"global\";q=2;w=2"), Some("1"), Some("1")]);
    let detail = "All clients together send more requests than the server takes; send again later.";
    assert_eq!(last.json()["detail"], detail);
}

#[tokio::test]
async fn events_are_counted_if_they_are_limited() {
    let limits = RateLimitSettings { global: MANY, each: MANY, events_per_second: Some(2) };
    let settings = Settings { rate_limits: Some(limits), batch_events_max: 10, ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let mut client = gateway.client().await;
    let reply = client.post(BATCH, JSON, batch((0..8).map(|_| event("d1")))).await;
    assert_eq!(reply.status, 200);
    let [limit, _, retry_after, _] = fields(&reply);
    assert_eq!((limit, retry_after), (Some("\"requests\";r=19999;t=1, \"events\";r=2;t=1"), None));
    assert!(reply.head.contains("ratelimit-policy: \"events\";q=10;w=5\r\n"), "{}", reply.head);
    let reply = client.post(BATCH, JSON, batch((0..10).map(|_| event("d1")))).await;
    assert_eq!((reply.status, gateway.stored().await), (429, 8), "no part of it is stored");
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=4).contains(&wait), "{wait}");
    assert_eq!(reply.header("ratelimit-policy"), Some("\"events\";q=10;w=5"));
    assert_eq!(reply.json()["detail"], "This address sends more events than it may; send again later.");
    tokio::time::sleep(Duration::from_secs(wait)).await;
    assert_eq!(client.post(BATCH, JSON, batch((0..10).map(|_| event("d1")))).await.status, 200);
}

#[tokio::test]
async fn clients_behind_a_proxy_have_separate_limits() {
    let each = Quota { per_second: 1, burst: 1 };
    let trusted = TrustedProxies(Networks::loopback());
    for (trusted_proxies, lines, expected) in [
        (trusted.clone(), ["x-forwarded-for: 203.0.113.1", "x-forwarded-for: 203.0.113.2"], [200, 200]),
        (trusted.clone(), ["forwarded: for=203.0.113.1", "forwarded: for=\"203.0.113.2:80\""], [200, 200]),
        (trusted.clone(), ["forwarded: for=203.0.113.1", "x-forwarded-for: 203.0.113.1"], [200, 429]),
        (
            trusted.clone(),
            ["x-forwarded-for: 1.1.1.1, 203.0.113.1", "x-forwarded-for: 2.2.2.2, 203.0.113.1"],
            [200, 429],
        ),
        (trusted.clone(), ["x-forwarded-for: 2001:db8::1", "x-forwarded-for: 2001:db8::2"], [200, 429]),
        (trusted, ["x-forwarded-for: nonsense", "x-forwarded-for: , ,"], [200, 429]),
        (TrustedProxies::default(), ["x-forwarded-for: 203.0.113.1", "x-forwarded-for: 203.0.113.2"], [200, 429]),
    ] {
        let gateway = TestGateway::start(Settings { trusted_proxies, ..limited(each) }).await;
        let mut client = gateway.client().await;
        let mut statuses = Vec::new();
        // Retries, since a slow machine may refill a token in between.
        for attempt in 0..20 {
            let reply =
                post_with(&mut client, &format!("{}\r\n", lines[usize::from(attempt > 0)]), &single("d1")).await;
            statuses.push(reply.status);
            if attempt > 0 && (reply.status == 429 || expected[1] == 200) {
                break;
            }
        }
        assert_eq!([statuses.first(), statuses.last()], [Some(&expected[0]), Some(&expected[1])], "{lines:?}");
    }
}

#[tokio::test]
async fn every_reply_has_its_ids() {
    let gateway = TestGateway::start(limited(MANY)).await;
    let mut client = gateway.client().await;
    let ids =
        |reply: &RawReply| ["x-request-id", "x-correlation-id"].map(|name| reply.header(name).unwrap().to_owned());
    let is_made = |id: &str| uuid::Uuid::try_parse(id).is_ok_and(|id| id.get_version_num() == 7);
    let reply = post_with(&mut client, "x-request-id: r-1\r\nx-correlation-id: c/1\r\n", &single("d1")).await;
    assert_eq!((reply.status, ids(&reply)), (200, ["r-1".to_owned(), "c/1".to_owned()]));
    let wrong = format!("x-request-id: a b\r\nx-correlation-id: {}\r\n", "x".repeat(129));
    let reply = post_with(&mut client, &wrong, &single("d2")).await;
    let [request, correlation] = ids(&reply);
    assert!(is_made(&request) && correlation == request, "{request} {correlation}");
    for (path, status) in [("/health", 200), ("/nothing/here", 404), (INGEST, 405)] {
        let reply = client.get(path).await;
        assert!(reply.status == status && ids(&reply).iter().all(|id| is_made(id)), "{path} {}", reply.head);
    }
    let reply = post_with(&mut client, "x-request-id: r-2\r\n", "{").await;
    assert_eq!((reply.status, ids(&reply)), (400, ["r-2".to_owned(), "r-2".to_owned()]));
    let payloads = gateway.payloads(2).await;
    for payload in payloads {
        let event = crate::event::EventRef::decode(&payload).unwrap();
        assert_eq!(event.correlation_id, "", "the ids of a request change no event");
    }
}
