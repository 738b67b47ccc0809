//! Web pages over real sockets: preflights, replies and refusals with their exact headers.

use super::{INGEST, JSON, TestGateway, single};
use crate::gateway::{CorsSettings, Quota, RateLimitSettings, Settings};
use crate::http::raw_client::{RawClient, RawReply};

const METHODS: &str = "GET, POST";
const HEADERS: &str = "Content-Type, X-API-Key";
const EXPOSED: &str = "X-Request-ID, Retry-After";
const VARY_PREFLIGHT: &str =
    "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, Access-Control-Request-Private-Network";
const FOREIGN: &str = "A web page of this origin may not send events here: see cors_allowed_origins.";

fn strings(list: &str) -> Vec<String> {
    list.split(", ").filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn cors(origins: &str) -> CorsSettings {
    CorsSettings {
        origins: strings(origins),
        methods: strings(METHODS),
        request_headers: strings(HEADERS),
        exposed_headers: strings(EXPOSED),
        credentials: false,
        max_age_seconds: 600,
    }
}

fn with(cors: CorsSettings) -> Settings {
    Settings { cors: Some(cors), ..Settings::default() }
}

/// The CORS headers of a reply, in the order of these assertions.
fn cors_headers(reply: &RawReply) -> [Option<&str>; 8] {
    [
        "access-control-allow-origin",
        "access-control-allow-methods",
        "access-control-allow-headers",
        "access-control-max-age",
        "access-control-allow-credentials",
        "access-control-expose-headers",
        "access-control-allow-private-network",
        "vary",
    ]
    .map(|name| reply.header(name))
}

async fn preflight(client: &mut RawClient, path: &str, lines: &str) -> RawReply {
    client.send(format!("OPTIONS {path} HTTP/1.1\r\nhost: events.example.com\r\n{lines}\r\n")).await;
    client.reply().await
}

async fn post(client: &mut RawClient, path: &str, lines: &str, body: &str) -> RawReply {
    let length = body.len();
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nhost: events.example.com\r\ncontent-type: text/plain\r\n{lines}\
             content-length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.reply().await
}

#[tokio::test]
async fn preflights_by_origin_method_and_headers() {
    let allowed = "https://example.com, https://*.apps.example.com, http://localhost:3000";
    let gateway = TestGateway::start(with(cors(allowed))).await;
    let mut client = gateway.client().await;
    let wanted = [
        "",
        "access-control-request-headers: content-type,x-api-key\r\n",
        "access-control-request-headers: x-other\r\n",
    ];
    for origin in
        ["https://example.com", "https://a.apps.example.com", "https://a.b.apps.example.com", "http://localhost:3000"]
    {
        for method in ["POST", "GET", "PUT", "post", "PATCH"] {
            for headers in wanted {
                let lines = format!("origin: {origin}\r\naccess-control-request-method: {method}\r\n{headers}");
                let reply = preflight(&mut client, INGEST, &lines).await;
                assert_eq!((reply.status, reply.body.len()), (204, 0), "{lines}");
                // The request does not affect what is allowed; the browser compares.
                let expected = [
                    Some(origin),
                    Some(METHODS),
                    Some(HEADERS),
                    Some("600"),
                    None,
                    Some(EXPOSED),
                    None,
                    Some(VARY_PREFLIGHT),
                ];
                assert_eq!(cors_headers(&reply), expected, "{lines}");
            }
        }
    }
    for origin in [
        "null",
        "https://example.com.",
        "https://example.com:443",
        "https://example.com:8443",
        "https://Example.com",
        "HTTPS://example.com",
        "http://example.com",
        "https://example.com.evil.test",
        "https://evil-example.com",
        "https://www.example.com",
        "https://apps.example.com",
        "https://.apps.example.com",
        "https://evil.test/.apps.example.com",
        "https://a.apps.example.com.evil.test",
        "https://a.apps.example.com:8443",
        "http://localhost",
        "http://localhost:3001",
        "https://localhost:3000",
        "http://127.0.0.1:3000",
        "file://",
        "*",
        "https://example.com, https://evil.test",
        "https://example.com\r\norigin: https://evil.test",
    ] {
        let lines = format!("origin: {origin}\r\naccess-control-request-method: POST\r\n");
        let reply = preflight(&mut client, INGEST, &lines).await;
        assert_eq!((reply.status, &reply.json()["detail"]), (403, &FOREIGN.into()), "{origin}");
        assert_eq!(cors_headers(&reply), [None, None, None, None, None, None, None, Some(VARY_PREFLIGHT)], "{origin}");
        let reply = post(&mut client, INGEST, &format!("origin: {origin}\r\n"), &single("d1")).await;
        assert_eq!(reply.status, 403, "{origin}");
        assert_eq!(cors_headers(&reply), [None, None, None, None, None, None, None, Some("Origin")], "{origin}");
    }
    assert_eq!(gateway.stored().await, 0);
}

#[tokio::test]
async fn other_options_requests_are_not_preflights() {
    let gateway = TestGateway::start(with(cors("https://example.com"))).await;
    let mut client = gateway.client().await;
    for lines in ["", "origin: https://example.com\r\n", "access-control-request-method: POST\r\n"] {
        let reply = preflight(&mut client, INGEST, lines).await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")), "{lines}");
    }
    let lines = "origin: https://example.com\r\naccess-control-request-method: POST\r\n";
    assert_eq!(preflight(&mut client, "/nothing/here", lines).await.status, 204, "the browser is told of 404 later");
}

#[tokio::test]
async fn pages_can_read_replies_and_errors() {
    let gateway = TestGateway::start(with(cors("https://example.com"))).await;
    let mut client = gateway.client().await;
    let origin = "origin: https://example.com\r\n";
    let expected = [Some("https://example.com"), None, None, None, None, Some(EXPOSED), None, Some("Origin")];
    for (path, body, status) in
        [(INGEST, &*single("d1"), 200), (INGEST, "{", 400), ("/nothing/here", "", 404), ("/health", "", 405)]
    {
        let reply = post(&mut client, path, origin, body).await;
        assert_eq!((reply.status, cors_headers(&reply)), (status, expected), "{path} {body}");
    }
    client.send(format!("POST {INGEST} HTTP/1.1\r\nhost: a\r\nhost: b\r\n{origin}x-request-id: r-1\r\n\r\n")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, cors_headers(&reply)), (400, expected), "refused by the listener");
    assert_eq!(reply.header("x-request-id"), Some("r-1"));
    let reply = client.post(INGEST, JSON, single("d2")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(cors_headers(&reply), [None, None, None, None, None, None, None, Some("Origin")], "no page");
    client.send("GET /health HTTP/1.1\r\nhost: t\r\norigin: https://evil.test\r\n\r\n").await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, None), "answered, and not readable");
    let own = "origin: https://events.example.com\r\n";
    assert_eq!(post(&mut client, INGEST, own, &single("d3")).await.status, 200, "the gateway's own pages");
    assert_eq!(gateway.stored().await, 3);
}

#[tokio::test]
async fn any_origin_is_answered_with_a_wildcard() {
    let gateway = TestGateway::start(with(cors("*"))).await;
    let mut client = gateway.client().await;
    for origin in ["https://any.test", "null", "http://localhost:3000"] {
        let lines = format!(
            "origin: {origin}\r\naccess-control-request-method: POST\r\naccess-control-request-private-network: true\r\n"
        );
        let reply = preflight(&mut client, INGEST, &lines).await;
        let expected =
            [Some("*"), Some(METHODS), Some(HEADERS), Some("600"), None, Some(EXPOSED), None, Some(VARY_PREFLIGHT)];
        assert_eq!(
            (reply.status, cors_headers(&reply)),
            (204, expected),
            "into a private network gets who is listed: {origin}"
        );
        let reply = post(&mut client, INGEST, &format!("origin: {origin}\r\n"), &single("d1")).await;
        assert_eq!((reply.status, cors_headers(&reply)[0]), (200, Some("*")));
    }
    let any_header = CorsSettings { request_headers: strings("*"), ..cors("*") };
    let gateway = TestGateway::start(with(any_header)).await;
    let lines = "origin: https://any.test\r\naccess-control-request-method: POST\r\n";
    let reply = preflight(&mut gateway.client().await, INGEST, lines).await;
    assert_eq!(reply.header("access-control-allow-headers"), Some("*, Authorization"));
}

#[tokio::test]
async fn credentials_and_private_networks_are_for_listed_origins() {
    let settings = CorsSettings { credentials: true, ..cors("https://example.com") };
    let gateway = TestGateway::start(with(settings)).await;
    let mut client = gateway.client().await;
    let lines = "origin: https://example.com\r\naccess-control-request-method: POST\r\naccess-control-request-private-network: true\r\n";
    let reply = preflight(&mut client, INGEST, lines).await;
    assert_eq!(cors_headers(&reply)[4..7], [Some("true"), Some(EXPOSED), Some("true")]);
    let reply = post(&mut client, INGEST, "origin: https://example.com\r\n", &single("d1")).await;
    assert_eq!((cors_headers(&reply)[0], cors_headers(&reply)[4]), (Some("https://example.com"), Some("true")));
}

#[tokio::test]
async fn listed_development_pages_reach_loopback() {
    let settings = |cors| Settings { loopback: true, cors, ..Settings::default() };
    for (configured, origin, preflighted, posted) in [
        (Some(cors("")), "http://localhost:3000", 403, 403),
        (Some(cors("")), "https://evil.test", 403, 403),
        (Some(cors("http://localhost:3000")), "http://localhost:3000", 204, 200),
        (Some(cors("http://localhost:3000")), "https://evil.test", 403, 403),
        (Some(cors("http://localhost:3000")), "null", 403, 403),
        // A name that resolves to this machine is not the gateway's own.
        (Some(cors("http://localhost:3000")), "http://events.example.com", 403, 403),
        (None, "http://localhost:3000", 405, 403),
        (None, "https://evil.test", 405, 403),
    ] {
        let gateway = TestGateway::start(settings(configured)).await;
        let mut client = gateway.client().await;
        let lines = format!("origin: {origin}\r\naccess-control-request-method: POST\r\n");
        assert_eq!(preflight(&mut client, INGEST, &lines).await.status, preflighted, "{origin}");
        let reply = post(&mut client, INGEST, &format!("origin: {origin}\r\n"), &single("d1")).await;
        assert_eq!(reply.status, posted, "{origin}");
        assert_eq!(client.post(INGEST, JSON, single("d1")).await.status, 200, "no page");
    }
}

#[tokio::test]
async fn preflights_are_not_counted_and_refusals_can_be_read() {
    let quota = Quota { per_second: 1, burst: 2 };
    let limits = RateLimitSettings { global: quota, each: quota, events_per_second: None };
    let settings = Settings { rate_limits: Some(limits), ..with(cors("https://example.com")) };
    let gateway = TestGateway::start(settings).await;
    let mut client = gateway.client().await;
    let lines = "origin: https://example.com\r\naccess-control-request-method: POST\r\n";
    for _ in 0..10 {
        assert_eq!(preflight(&mut client, INGEST, lines).await.status, 204);
    }
    let origin = "origin: https://example.com\r\n";
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let reply = post(&mut client, INGEST, origin, &single("d1")).await;
        statuses.push(reply.status);
        assert_eq!(reply.header("access-control-allow-origin"), Some("https://example.com"));
    }
    assert_eq!(statuses[..2], [200, 200]);
    assert!(statuses.contains(&429), "{statuses:?}");
}
