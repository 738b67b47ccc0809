//! What the admin listener does with any request: ids, proxies, codings, unknown parameters.

use http::Method;
use serde_json::json;

use super::access::Listening;
use super::*;
use crate::admin::route::{Audience, Route, RouteInfo, Verb};
use crate::admin::routes;
use crate::base::network::Networks;
use crate::http::TrustedProxies;

/// The routes that require a role.
fn api() -> Vec<RouteInfo> {
    routes::api_routes().iter().map(Route::info).collect()
}

fn method(verb: Verb) -> Method {
    format!("{verb:?}").to_uppercase().parse().unwrap()
}

/// A path of the route, whether or not it exists.
fn path_of(route: &RouteInfo) -> String {
    route.path.replace("{id}", "7")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_accepted_generated_returned_and_recorded() {
    let mut listening = Listening::start(AccessSettings::default()).await;
    let mut ask = async |line: &str, headers: &str, body: &str| {
        let length = body.len();
        let head =
            format!("{line} HTTP/1.1\r\nhost: {}\r\n{headers}content-length: {length}\r\n\r\n", listening.address);
        listening.client.send(head + body).await;
        let reply = listening.client.reply().await;
        let header = |name| reply.header(name).unwrap_or_else(|| panic!("no {name}: {}", reply.head)).to_owned();
        (reply.status, header("x-request-id"), header("x-correlation-id"))
    };
    let sent = "x-request-id: r-7\r\nx-correlation-id: c-7\r\n";
    for (line, status) in [
        ("GET /health", 200),
        ("GET /ready", 503),
        ("GET /metrics", 200),
        ("GET /openapi.json", 200),
        ("GET /api/admin/rules", 200),
        ("GET /api/admin/rules/nobody", 404),
        ("GET /nothing", 404),
        ("PUT /health", 405),
    ] {
        assert_eq!(ask(line, sent, "").await, (status, "r-7".to_owned(), "c-7".to_owned()), "{line}");
        let (_, made, correlation) = ask(line, "x-request-id: not one\r\n", "").await;
        assert!(uuid::Uuid::try_parse(&made).is_ok() && made == correlation, "{line}: {made} {correlation}");
    }
    assert_eq!(ask("POST /api/admin/rules", sent, r#"{"name": "big"}"#).await.0, 201);
    let records = listening.with_token(Verb::Get, "/api/admin/audit", None).await.json();
    assert_eq!(records["items"][0]["request_id"], "r-7", "{records}");
    listening.stop().await;
}

/// Without tokens, the API serves this machine only, and a local proxy is not its client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxied_request_is_not_local() {
    let proxies = TrustedProxies(Networks::loopback());
    let mut behind = Listening::serve_behind(Admin::new(), proxies).await;
    let mut alone = Listening::start(AccessSettings::default()).await;
    let forwarded = [
        "x-forwarded-for: 203.0.113.7",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-for: ",
        "forwarded: for=_hidden",
        "x-forwarded-for: 203.0.113.7\r\nforwarded: for=198.51.100.1",
    ];
    for header in forwarded {
        for (path, status) in [("/api/admin/status", 403), ("/metrics", 403), ("/health", 200), ("/ready", 503)] {
            let request = |address| format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{header}\r\n\r\n");
            behind.client.send(request(behind.address)).await;
            let reply = behind.client.reply().await;
            assert_eq!(reply.status, status, "{path} {header}");
            assert!(reply.json().get("components").is_none(), "{path} {header}");
            // No trusted proxies are configured.
            alone.client.send(request(alone.address)).await;
            let reply = alone.client.reply().await;
            assert_eq!(reply.status, if path == "/ready" { 503 } else { 200 }, "{path} {header}");
        }
    }
    assert_eq!(behind.with_token(Verb::Get, "/api/admin/status", None).await.status, 200, "this machine itself");
    behind.stop().await;
    alone.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_with_a_content_coding_are_refused() {
    let admin = Admin::new();
    // These read no body.
    let bodiless = ["/api/admin/deliveries/{id}/retry", "/api/admin/dead-letters/{id}/replay"];
    let takes_body = |route: &&RouteInfo| !matches!(route.verb, Verb::Get | Verb::Delete);
    let routes: Vec<_> = api().into_iter().filter(|route| !bodiless.contains(&route.path.as_str())).collect();
    let mut seen = 0;
    for route in routes.iter().filter(takes_body) {
        for (coding, is_taken) in
            [("gzip", false), ("br", false), ("zz", false), ("gzip, gzip", false), ("identity", true), ("", true)]
        {
            let request = Request::builder().method(method(route.verb)).uri(path_of(route));
            let request = request.header("host", "localhost").header("content-encoding", coding);
            let reply = admin.send(request.body(Body::from("{}")).unwrap()).await;
            let (path, status) = (&route.path, reply.status);
            assert_eq!(status != StatusCode::UNSUPPORTED_MEDIA_TYPE, is_taken, "{path} {coding}: {}", reply.text);
            if !is_taken {
                assert_eq!(reply.headers["accept-encoding"], "identity", "{path}");
            }
        }
        seen += 1;
    }
    assert!(seen > 9, "{seen}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_parameters_are_refused() {
    let admin = Admin::new();
    for route in api() {
        assert!(matches!(route.audience, Audience::Role(_)));
        let reply = admin.call(method(route.verb), &format!("{}?zzz=1", path_of(&route)), json!({})).await;
        let (pointer, detail) = reply.error();
        assert_eq!((reply.status.as_u16(), pointer.as_str()), (400, "/zzz"), "{:?} {}", route.verb, route.path);
        assert_eq!(detail, "is not a parameter of this request");
    }
}
