//! The host that `analytics-next` is given, also behind proxies.

use serde_json::{Value, json};

use super::super::{JSON, TestGateway};
use super::send;
use crate::base::network::Networks;
use crate::gateway::{Settings, TrustedProxies};

/// The protocol and host that the settings contain for a request with these header lines.
async fn settings_for(gateway: &TestGateway, lines: &[&str]) -> (Value, Value) {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let mut client = gateway.client().await;
    client.send(format!("GET /v1/projects/k%22ey/settings HTTP/1.1\r\nhost: events.example:8080\r\n{lines}\r\n")).await;
    let reply = client.reply().await;
    assert_eq!((reply.status, reply.header("content-type")), (200, Some(JSON)));
    // Not for shared caches: the reply also depends on proxy headers.
    assert_eq!(reply.header("cache-control"), Some("private, max-age=120"));
    let all = &reply.json()["integrations"];
    assert_eq!(all.as_object().unwrap().len(), 1, "nothing else is loaded");
    (all["Segment.io"]["protocol"].clone(), all["Segment.io"]["apiHost"].clone())
}

#[tokio::test]
async fn browser_settings_name_this_host() {
    let gateway = TestGateway::start(Settings::default()).await;
    let here = (json!("http"), json!("events.example:8080/v1"));
    assert_eq!(settings_for(&gateway, &[]).await, here);
    // Any client can send these headers.
    let lines = ["x-forwarded-proto: https", "x-forwarded-host: evil.test", "forwarded: for=1.1.1.1;proto=https"];
    assert_eq!(settings_for(&gateway, &lines).await, here);
    assert_eq!(send(&gateway, "/v1/m", &json!({"series": []})).await.status, 200);
    let mut client = gateway.client().await;
    client.send("POST /v1/projects/key/settings HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.reply().await.status, 405);
}

#[tokio::test]
async fn a_trusted_proxy_reports_scheme_and_host() {
    let trusted_proxies = TrustedProxies(Networks::loopback());
    let gateway = TestGateway::start(Settings { trusted_proxies, ..Settings::default() }).await;
    for (lines, protocol, host) in [
        (&[] as &[_], "http", "events.example:8080/v1"),
        (&["x-forwarded-proto: https"], "https", "events.example:8080/v1"),
        (&["x-forwarded-proto: https", "x-forwarded-host: in.example"], "https", "in.example/v1"),
        (&["forwarded: for=203.0.113.7;proto=https;host=in.example"], "https", "in.example/v1"),
        (&["x-forwarded-proto: http", "forwarded: for=203.0.113.7;proto=https"], "http", "events.example:8080/v1"),
    ] {
        assert_eq!(settings_for(&gateway, lines).await, (json!(protocol), json!(host)), "{lines:?}");
    }
}
