//! Who may send to a gateway as it is configured by default: web pages, rate limits, addresses behind proxies.

use crate::harness::Server;

const BODY: &str = r#"{"event":{"appId":"a","deviceId":"d","screenView":{"screenName":"home"}}}"#;
/// What SDKs set in browsers.
const HEADERS: [&str; 12] = [
    "Authorization",
    "Content-Type",
    "Content-Encoding",
    "X-API-Key",
    "X-Request-ID",
    "X-Correlation-ID",
    "Idempotency-Key",
    "X-Retry-Count",
    "traceparent",
    "AnonymousId",
    "ce-id",
    "ce-specversion",
];
const EXPOSED: &str = "X-Request-ID, X-Correlation-ID, RateLimit, RateLimit-Policy, X-RateLimit-Reset, Retry-After";

struct Reply {
    status: u16,
    headers: ureq::http::HeaderMap,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}

fn reply(response: ureq::http::Response<ureq::Body>) -> Reply {
    let (head, _) = response.into_parts();
    Reply { status: head.status.as_u16(), headers: head.headers }
}

fn post(server: &Server, headers: &[(&str, &str)]) -> Reply {
    let mut request = agent().post(format!("{}/v1/events/ingest", server.http)).content_type("text/plain");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    reply(request.send(BODY).unwrap())
}

fn preflight(server: &Server, origin: &str) -> Reply {
    let request = agent().options(format!("{}/v1/events/ingest", server.http));
    let request = request.header("origin", origin).header("access-control-request-method", "POST");
    reply(request.header("access-control-request-headers", "authorization,x-retry-count").call().unwrap())
}

#[test]
fn a_laptop_has_no_limits_and_no_pages() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let sent = post(&server, &[("x-request-id", "r-1")]);
    assert_eq!((sent.status, sent.header("x-request-id"), sent.header("ratelimit")), (200, Some("r-1"), None));
    for origin in ["https://evil.test", "http://localhost:3000", "null"] {
        assert_eq!(post(&server, &[("origin", origin)]).status, 403, "{origin}");
        let refused = preflight(&server, origin);
        assert_eq!((refused.status, refused.header("access-control-allow-origin")), (403, None), "{origin}");
    }
    server.expect_quiet_log(&[]);
}

#[test]
fn a_page_in_development_is_allowed_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let page = "http://localhost:3000";
    let server = Server::start(dir.path(), &[("CORS_ALLOWED_ORIGINS", page)]);
    let told = preflight(&server, page);
    assert_eq!((told.status, told.header("access-control-allow-origin")), (204, Some(page)));
    assert_eq!(told.header("access-control-allow-methods"), Some("GET, POST, PUT, DELETE, OPTIONS"));
    assert_eq!(told.header("access-control-max-age"), Some("86400"));
    assert_eq!(told.header("access-control-expose-headers"), Some(EXPOSED));
    assert_eq!(told.header("access-control-allow-credentials"), None);
    let allowed: Vec<_> = told.header("access-control-allow-headers").unwrap().split(", ").collect();
    for name in HEADERS {
        assert!(allowed.contains(&name), "{name} is not in {allowed:?}");
    }
    let sent = post(&server, &[("origin", page)]);
    assert_eq!((sent.status, sent.header("access-control-allow-origin")), (200, Some(page)));
    assert_eq!((sent.header("vary"), sent.header("access-control-expose-headers")), (Some("Origin"), Some(EXPOSED)));
    assert_eq!(post(&server, &[("origin", "https://evil.test")]).status, 403);
}

#[test]
fn limits_are_for_each_client_behind_a_proxy() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("RATE_LIMIT_ENABLED", "true"),
        ("RATE_LIMIT_PER_KEY_RPS", "1"),
        ("RATE_LIMIT_PER_KEY_BURST", "2"),
        ("TRUSTED_PROXIES", "loopback"),
        ("AUTH_ENABLED", "false"),
    ];
    let server = Server::start(dir.path(), &environment);
    let from = |address: &str| post(&server, &[("x-forwarded-for", address)]);
    let refused = (0..30).map(|_| from("198.51.100.1, 203.0.113.7")).find(|reply| reply.status == 429);
    let refused = refused.expect("30 requests are more than 1 a second");
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("ratelimit"), Some("\"requests\";r=0;t=1"));
    assert_eq!(refused.header("ratelimit-policy"), Some("\"requests\";q=2;w=2"));
    assert_eq!(from("203.0.113.8").status, 200, "another client");
    let metrics = agent().get(format!("{}/metrics", server.admin)).call().unwrap().body_mut().read_to_string().unwrap();
    let counted = "causality_gateway_rate_limited_total{limit=\"address\"} 1";
    assert!(metrics.contains(counted), "{counted} is not in\n{metrics}");
    server.expect_quiet_log(&["anyone can send events"]);
}
