//! Deliveries, keys, dead letters and process status.

use http::Method;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::base::supervisor::Tasks;
use crate::event;
use crate::http::raw_client::RawClient;
use crate::http::{Limits, serve};
use crate::store::{DeliveryOutcome, DeliveryStatus, Effects, NewDelivery};

#[tokio::test]
async fn deliveries_are_listed_filtered_and_retried() {
    let admin = Admin::new();
    let webhook: Uuid = serde_json::from_value(admin.post(WEBHOOKS, ops()).await.json()["id"].clone()).unwrap();
    let delivery = |n: u32| NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: webhook,
        rule_id: None,
        anomaly_config_id: None,
        event_id: format!("event-{n}"),
        payload: serde_json::value::to_raw_value(&json!({"n": n})).unwrap(),
        max_attempts: 5,
    };
    let deliveries = vec![delivery(1), delivery(2)];
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
    let effects = Effects { consumer: "c".to_owned(), causes: Vec::new(), deliveries, ..Effects::default() };
    admin.store.record_effects(effects).await.unwrap();

    let base = "/api/admin/deliveries";
    let list = admin.get(base).await.json();
    assert_eq!((&list["items"][0]["id"], &list["items"][1]["id"]), (&json!(ids[1]), &json!(ids[0])));
    let shown = admin.get(&format!("{base}/{}", ids[0])).await.json();
    assert_eq!(shown, list["items"][1]);
    let fields: Vec<&str> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    for field in
        "id webhook_id rule_id anomaly_config_id event_id payload status attempts max_attempts next_attempt_at \
        last_attempt_at last_error last_status_code created_at delivered_at"
            .split_whitespace()
    {
        assert!(fields.contains(&field), "{field}");
    }
    assert_eq!((&shown["status"], &shown["payload"]), (&json!("pending"), &json!({"n": 1})));
    for (query, count) in
        [("status=pending", 2), ("status=dead_letter", 0), ("webhook_id=ops&event_id=event-2", 1), ("event_id=x", 0)]
    {
        assert_eq!(admin.count(&format!("{base}?{query}")).await, count, "{query}");
    }

    let retry = format!("{base}/{}/retry", ids[0]);
    assert_eq!(admin.call(Method::POST, &retry, "").await.status, 409);
    let outcome = DeliveryOutcome {
        id: ids[0],
        status: DeliveryStatus::DeadLetter,
        attempts: 5,
        attempted_at_ms: 1,
        wait_ms: None,
        status_code: None,
        error: Some("refused".to_owned()),
    };
    admin.store.finish_deliveries(vec![outcome]).await.unwrap();
    let retried = admin.call(Method::POST, &retry, "").await;
    assert_eq!((retried.status.as_u16(), &retried.json()["status"]), (200, &json!("pending")));
    retry_by_time(&admin, &ids).await;
    assert_eq!(admin.count("/api/admin/anomaly-events?app_id=shop&since=2026-01-31T09:00:00Z").await, 0);
}

async fn retry_by_time(admin: &Admin, ids: &[Uuid]) {
    let retry = "/api/admin/deliveries/retry";
    let outcome = |id: &Uuid| DeliveryOutcome {
        id: *id,
        status: DeliveryStatus::Failed,
        attempts: 5,
        attempted_at_ms: 1,
        wait_ms: None,
        status_code: None,
        error: Some("refused".to_owned()),
    };
    admin.store.finish_deliveries(ids.iter().map(outcome).collect()).await.unwrap();
    let since = "2026-01-31T09:00:00Z";
    for (document, pointer) in [
        (json!({}), "/since"),
        (json!({"since": "soon"}), "/since"),
        (json!({"since": since, "status": "delivered"}), "/status"),
        (json!({"since": since, "webhook_id": "nobody"}), "/webhook_id"),
        (json!({"since": since, "rule_id": "nobody"}), "/rule_id"),
        (json!({"since": since, "webhook": "ops"}), "/webhook"),
        (json!({"since": since, "until": "2026-01-31T08:00:00Z"}), "/until"),
    ] {
        let refused = admin.post(retry, document.clone()).await;
        assert_eq!((refused.status.as_u16(), refused.error().0.as_str()), (422, pointer), "{document}");
    }
    let retried = async |document: Value| admin.post(retry, document).await.json();
    assert_eq!(retried(json!({"since": since, "until": since})).await, json!({"retried": 0, "more": false}));
    assert_eq!(retried(json!({"since": since, "status": "cancelled"})).await["retried"], 0);
    assert_eq!(retried(json!({"since": since, "webhook_id": "ops"})).await, json!({"retried": 2, "more": false}));
    assert_eq!(admin.count("/api/admin/deliveries?status=pending").await, 2);
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let admin = Admin::new();
    let created = admin.post("/api/admin/keys", json!({"app_id": "shop", "name": "ios"})).await;
    assert_eq!(created.status, 201);
    let document = created.json();
    let key = document["key"].as_str().unwrap();
    assert_eq!((key.len(), &document["app_id"]), (64, &json!("shop")));
    let location = created.headers["location"].to_str().unwrap();
    let shown = admin.get(location).await;
    assert!(shown.status == 200 && !shown.text.contains(key) && shown.json().get("key").is_none());
    assert!(!admin.get("/api/admin/keys").await.text.contains(key));
    assert_eq!(admin.post("/api/admin/keys", json!({"app_id": "game", "name": "ios"})).await.status, 409);
    assert_eq!(admin.call(Method::DELETE, location, "").await.status, 204);
    assert_eq!(admin.get(location).await.status, 404);
}

#[tokio::test]
async fn a_key_shows_its_expiry_its_limits_and_its_last_use() {
    let admin = Admin::new();
    let new = json!({"app_id": "shop", "name": "ios", "expires_at": "2126-01-31T10:00:00+01:00",
        "requests_per_second": 50, "burst": 100});
    let created = admin.post("/api/admin/keys", new).await.json();
    let expected = json!({"expires_at": "2126-01-31T09:00:00Z", "requests_per_second": 50, "burst": 100,
        "last_used_at": null});
    let of = |document: &serde_json::Value| {
        let members = expected.as_object().unwrap().keys().map(|name| (name.clone(), document[name].clone()));
        serde_json::Value::Object(members.collect())
    };
    assert_eq!(of(&created), expected);
    assert_eq!(of(&admin.get("/api/admin/keys/ios").await.json()), expected);
    assert_eq!(of(&admin.get("/api/admin/keys").await.json()["items"][0]), expected);
    let plain = admin.post("/api/admin/keys", json!({"app_id": "shop", "name": "web", "burst": null})).await.json();
    let none = json!({"expires_at": null, "requests_per_second": null, "burst": null, "last_used_at": null});
    assert_eq!(of(&plain), none);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_shown_replayed_and_deleted() {
    let admin = Admin::new();
    let messages = [
        ("anomalies.shop.spike", br#"{"value":3}"#.to_vec()),
        ("anomalies.shop.spike", vec![0xff, 0x00]),
        ("anomalies.shop.spike", b"third".to_vec()),
    ];
    let mut subscription = admin.dead_letter("anomalies.>", &messages).await;

    let base = "/api/admin/dead-letters";
    let page = admin.get(&format!("{base}?limit=2")).await.json();
    let next = page["next"].as_str().unwrap();
    let rest = admin.get(&format!("{base}?limit=2&cursor={next}")).await.json();
    assert_eq!(rest["next"], Value::Null);
    let letters: Vec<&Value> = [&page, &rest].into_iter().flat_map(|page| page["items"].as_array().unwrap()).collect();
    assert_eq!(letters.len(), 3);
    // Newest first: the JSON message was dead-lettered first.
    assert_eq!(letters[0]["reason"], "cannot be decoded");
    assert!(letters[0]["dead_at"].as_str().unwrap().ends_with('Z') && letters[0].get("payload").is_none());
    let path = |letter: &Value| format!("{base}/{}", letter["id"]);
    assert_eq!(admin.get(&path(letters[2])).await.json()["payload"], json!({"value": 3}));
    assert_eq!(admin.get(&path(letters[1])).await.json()["payload_base64"], "/wA=");

    assert_eq!(admin.call(Method::DELETE, &path(letters[1]), "").await.status, 204);
    assert_eq!(admin.get(&path(letters[1])).await.status, 404);
    let replay = format!("{}/replay", path(letters[2]));
    assert_eq!(admin.call(Method::POST, &replay, "").await.status, 204);
    assert_eq!(admin.call(Method::POST, &replay, "").await.status, 404);
    let again = tokio::time::timeout(Duration::from_secs(5), subscription.fetch(10, 1 << 20)).await.unwrap().unwrap();
    assert_eq!(again[0].payload(), br#"{"value":3}"#);
    assert_eq!(admin.count(base).await, 1);

    let purge = async |query: &str| admin.call(Method::DELETE, &format!("{base}{query}"), "").await;
    assert_eq!(purge("?before=soon").await.status, 400);
    assert_eq!(purge("?befor=2026-01-31T09:00:00Z").await.status, 400, "and nothing is deleted");
    assert_eq!(purge("?before=2026-01-31T09:00:00Z").await.json(), json!({"deleted": 0}));
    assert_eq!(purge("").await.json(), json!({"deleted": 1}));
    assert_eq!(admin.count(base).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_lettered_event_shows_its_rule_view() {
    let admin = Admin::new();
    let body = br#"{"event": {"appId": "shop", "deviceId": "d", "buttonTap": {"buttonId": "buy"}}}"#;
    let arrival = event::Arrival {
        received_at_ms: 1_700_000_000_000,
        key_app: None,
        event_bytes_max: event::EVENT_BYTES_MAX,
        assigned_id: None,
    };
    let accepted = event::request::accept_json_single(body, &arrival).unwrap();
    let event = accepted.iter().next().unwrap().unwrap();
    admin.dead_letter("events.>", &[("events.shop.interaction.button_tap", event.bytes.to_vec())]).await;
    let id = admin.get("/api/admin/dead-letters").await.json()["items"][0]["id"].clone();
    let shown = admin.get(&format!("/api/admin/dead-letters/{id}")).await.json();
    assert_eq!((&shown["payload"]["app_id"], &shown["payload"]["id"]), (&json!("shop"), &json!(event.id)));
    assert_eq!(shown["payload"]["button_tap"]["button_id"], "buy");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_reports_its_status() {
    let admin = Admin::new();
    let health = admin.get("/health").await;
    assert_eq!((health.status.as_u16(), health.json()), (200, json!({"status": "ok"})));
    let ready = admin.get("/ready").await;
    assert_eq!((ready.status.as_u16(), ready.json()), (503, json!({"status": "unready", "components": {}})));
    let metrics = admin.get("/metrics").await;
    assert_eq!((metrics.status.as_u16(), metrics.text.as_str()), (200, "causality_ready 0\n"));
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    admin.post(RULES, json!({"name": "a"})).await;
    let status = admin.get("/api/admin/status").await.json();
    assert_eq!((&status["version"], &status["store"]["rules"]), (&json!("1.2.3"), &json!(1)));
    assert!(status["consumers"].is_array() && status["bus"]["last_sequence"].is_u64(), "{status}");

    admin.store.close().await;
    let closed = admin.post(RULES, json!({"name": "b"})).await;
    assert_eq!(closed.status, 503);
    assert!(closed.headers.contains_key("retry-after"));
    assert!(admin.get("/api/admin/status").await.json()["store"]["error"].is_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_works_over_a_socket() {
    let admin = Admin::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tasks, stop) = (Tasks::default(), CancellationToken::new());
    let service = TowerToHyperService::new(admin.router.clone());
    let serving = serve(listener, service, Limits::default(), stop.clone());
    tasks.spawn(async move {
        serving.await;
    });

    let mut client = RawClient::connect(address).await;
    let body = r#"{"name": "a b"}"#;
    let head = format!("POST {RULES} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {}\r\n\r\n", body.len());
    client.send(head + body).await;
    let created = client.reply().await;
    assert_eq!((created.status, &created.json()["name"]), (201, &json!("a b")));
    client.send(format!("GET {RULES}/a%20b HTTP/1.1\r\nhost: {address}\r\n\r\n")).await;
    assert_eq!(client.reply().await.json(), created.json());
    client.send(format!("GET {RULES} HTTP/1.1\r\nhost: evil.example\r\n\r\n")).await;
    let refused = client.reply().await;
    assert_eq!(refused.status, 403);
    assert!(refused.json()["detail"].as_str().unwrap().contains("localhost and IP addresses only"));
    for probe in ["/health", "/metrics"] {
        client.send(format!("GET {probe} HTTP/1.1\r\nhost: causality.svc:9090\r\n\r\n")).await;
        assert_eq!(client.reply().await.status, 200, "{probe}");
    }
    client.send(format!("GET {RULES} HTTP/1.1\r\n\r\n")).await;
    assert_eq!(client.reply().await.status, 400);
    client.send(format!("POST {RULES} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 1048577\r\n\r\n")).await;
    assert_eq!(client.reply().await.status, 413);
    stop.cancel();
    tasks.wait().await;
}
