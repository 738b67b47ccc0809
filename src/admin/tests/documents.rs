//! Webhooks, rules and anomaly configs; what is refused, and how.

use axum::body::Body;
use http::{Method, Request};
use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::store::{Auth, NewWebhook};

#[tokio::test]
async fn a_document_is_created_read_replaced_patched_and_deleted() {
    let admin = Admin::new();
    let created = admin.post(WEBHOOKS, ops()).await;
    assert_eq!(created.status, 201, "{}", created.text);
    let webhook = created.json();
    let id = webhook["id"].as_str().unwrap().to_owned();
    assert_eq!(created.headers["location"], format!("{WEBHOOKS}/{id}"));
    let time: jiff::Timestamp = webhook["created_at"].as_str().unwrap().parse().unwrap();
    assert!(webhook["created_at"].as_str().unwrap().ends_with('Z') && time <= jiff::Timestamp::now());

    let rule = json!({"name": "big purchase", "description": "", "app_id": "shop", "event_category": "commerce",
        "event_type": "purchase_complete",
        "conditions": [{"path": "$.purchase_complete.total_cents", "operator": "gte", "value": 10000}],
        "expression": "event.device_context.platform == 'PLATFORM_IOS'",
        "actions": {"webhooks": ["ops"], "publish_subjects": ["alerts.{app_id}.purchase"]},
        "priority": 10, "enabled": true});
    let created = admin.post(RULES, rule.clone()).await.json();
    for (field, value) in rule.as_object().unwrap().iter().filter(|(field, _)| *field != "actions") {
        assert_eq!(&created[field], value, "{field}");
    }
    assert_eq!(created["actions"], json!({"webhooks": [id], "publish_subjects": ["alerts.{app_id}.purchase"]}));
    assert_eq!(admin.get(&format!("{RULES}/big%20purchase")).await.json(), created);
    assert_eq!(admin.get(&format!("{RULES}/{}", created["id"].as_str().unwrap())).await.json(), created);

    let path = format!("{RULES}/big%20purchase");
    let patch = json!({"expression": null, "app_id": null, "priority": 7, "name": "large"});
    let patched = admin.call(Method::PATCH, &path, patch).await;
    assert_eq!(patched.status, 200, "{}", patched.text);
    let patched = patched.json();
    assert_eq!(
        (&patched["name"], &patched["expression"], &patched["app_id"]),
        (&json!("large"), &json!(null), &json!(null))
    );
    assert_eq!(
        (&patched["priority"], &patched["id"], &patched["event_type"]),
        (&json!(7), &created["id"], &created["event_type"])
    );
    assert_eq!(admin.get(&path).await.status, 404);

    // A document can be sent back as it was read; omitted members get their defaults.
    let path = format!("{RULES}/large");
    assert_eq!(admin.call(Method::PUT, &path, &patched).await.status, 200);
    let replaced = admin.call(Method::PUT, &path, json!({"name": "large"})).await.json();
    assert_eq!(
        (&replaced["priority"], &replaced["conditions"], &replaced["enabled"]),
        (&json!(0), &json!([]), &json!(true))
    );
    assert_eq!(replaced["created_at"], created["created_at"]);
    let deleted = admin.call(Method::DELETE, &path, "").await;
    assert_eq!((deleted.status.as_u16(), deleted.text.as_str()), (204, ""));
    assert_eq!(admin.get(&path).await.status, 404);

    let anomaly = json!({"name": "spike", "detection_type": "rate", "config": {"max_per_minute": 60}});
    let created = admin.post(ANOMALIES, anomaly).await;
    assert_eq!((created.status.as_u16(), &created.json()["cooldown_seconds"]), (201, &json!(300)));
    assert_eq!(admin.call(Method::DELETE, &format!("{ANOMALIES}/spike"), "").await.status, 204);
}

#[tokio::test]
async fn secrets_are_masked_and_the_mask_keeps_them() {
    let admin = Admin::new();
    let path = format!("{WEBHOOKS}/ops");
    let stored = async || admin.store.find::<NewWebhook>("ops").await.unwrap().unwrap().document.auth;
    let secret = |secret: &str| Auth::Hmac { secret: secret.to_owned(), header: "X-Signature".to_owned() };
    let mut texts = vec![admin.post(WEBHOOKS, ops()).await.text];
    let shown = admin.get(&path).await;
    assert_eq!(shown.json()["auth_config"], json!({"secret": "***", "header": "X-Signature"}));
    assert_eq!(stored().await, secret("s3cret"));

    texts.push(admin.call(Method::PUT, &path, shown.json()).await.text);
    assert_eq!(stored().await, secret("s3cret"));
    texts.push(admin.call(Method::PATCH, &path, json!({"timeout_ms": 5})).await.text);
    assert_eq!(stored().await, secret("s3cret"));
    texts.push(admin.call(Method::PATCH, &path, json!({"auth_config": {"secret": "s3cret-2"}})).await.text);
    assert_eq!(stored().await, secret("s3cret-2"));
    texts.push(admin.get(WEBHOOKS).await.text);
    texts.push(shown.text);
    assert!(texts.iter().all(|text| !text.contains("s3cret") && text.contains("***")), "{texts:?}");

    let bearer = json!({"auth_type": "bearer", "auth_config": {"token": "***", "secret": null, "header": null}});
    let refused = admin.call(Method::PATCH, &path, bearer).await;
    assert_eq!((refused.status.as_u16(), refused.error().0.as_str()), (422, "/auth_config/token"));
    assert_eq!(stored().await, secret("s3cret-2"));
    let mut masked = ops();
    masked["name"] = json!("other");
    masked["auth_config"]["secret"] = json!("***");
    let refused = admin.post(WEBHOOKS, masked).await;
    assert_eq!((refused.status.as_u16(), refused.error().0.as_str()), (422, "/auth_config/secret"));
    assert_eq!(admin.count(WEBHOOKS).await, 1);
}

#[tokio::test]
async fn a_webhook_moved_to_another_host_needs_its_secrets_again() {
    let admin = Admin::new();
    let mut document = ops();
    document["url"] = json!("https://ops.example.com/hook?token=hunter2");
    document["headers"] = json!({"Authorization": "hunter2", "X-Env": "prod"});
    let created = admin.post(WEBHOOKS, document).await;
    assert_eq!(created.json()["url"], "https://ops.example.com/hook?token=***");
    assert_eq!(created.json()["headers"], json!({"Authorization": "***", "X-Env": "prod"}));
    let path = format!("{WEBHOOKS}/ops");
    let moved = admin.call(Method::PATCH, &path, json!({"url": "https://evil.example.com/"})).await;
    assert_eq!(moved.status, 422);
    let errors = moved.json()["errors"].clone();
    let pointers: Vec<_> = errors.as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
    assert_eq!(pointers, ["/headers/Authorization", "/auth_config/secret"]);
    assert!(moved.text.contains("must be given again"), "{}", moved.text);
    let same = admin.call(Method::PATCH, &path, json!({"url": "https://ops.example.com/other?token=***"})).await;
    assert_eq!(same.status, 200);
    let stored = admin.store.find::<NewWebhook>("ops").await.unwrap().unwrap().document;
    assert_eq!(stored.url, "https://ops.example.com/other?token=hunter2");
    let given =
        json!({"url": "https://new.example.com/", "headers": {"Authorization": "new"}, "auth_config": {"secret": "n"}});
    assert_eq!(admin.call(Method::PATCH, &path, given).await.status, 200);
    let shown = admin.get(&path).await;
    assert_eq!(shown.json()["deliveries_given_up"], 0);
    assert_eq!(admin.call(Method::PUT, &path, shown.json()).await.status, 200);
}

#[tokio::test]
async fn invalid_documents_are_refused_with_pointers_and_not_stored() {
    let admin = Admin::new();
    let cases = [
        (WEBHOOKS, json!({"url": "http://x"}), "/name"),
        (WEBHOOKS, json!({"name": "a"}), "/url"),
        (WEBHOOKS, json!({"name": "", "url": "http://x"}), "/name"),
        (WEBHOOKS, json!({"name": Uuid::now_v7(), "url": "http://x"}), "/name"),
        (WEBHOOKS, json!({"name": "a", "url": "ftp://x"}), "/url"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "secret": 1}), "/secret"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "headers": {"X": 1}}), "/headers/X"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "timeout_ms": -1}), "/timeout_ms"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "auth_type": "oauth"}), "/auth_type"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "auth_type": null}), "/auth_type"),
        (WEBHOOKS, json!({"name": "a", "url": "http://x", "auth_type": "hmac"}), "/auth_config/secret"),
        (RULES, json!({"name": "a", "conditions": [{"path": "$", "operator": "like"}]}), "/conditions/0/operator"),
        (RULES, json!({"name": "a", "conditions": [{"path": "bad", "operator": "eq"}]}), "/conditions/0/path"),
        (RULES, json!({"name": "a", "actions": {"webhooks": ["ops"]}}), "/actions/webhooks/0"),
        (RULES, json!({"name": "a", "actions": {"emails": []}}), "/actions/emails"),
        (RULES, json!({"name": "a", "enabled": "yes"}), "/enabled"),
        (ANOMALIES, json!({"name": "a", "detection_type": "magic", "config": {}}), "/detection_type"),
        (ANOMALIES, json!({"name": "a", "detection_type": "rate"}), "/config"),
        (ANOMALIES, json!({"name": "a", "detection_type": "threshold", "config": {"path": "bad"}}), "/config/path"),
        (ANOMALIES, json!(null), ""),
        ("/api/admin/keys", json!({"name": "a", "app_id": "../x"}), "/app_id"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "key": "mine"}), "/key"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "expires_at": "soon"}), "/expires_at"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "expires_at": 1_900_000_000}), "/expires_at"),
        (
            "/api/admin/keys",
            json!({"name": "a", "app_id": "shop", "expires_at": "2020-01-01T00:00:00Z"}),
            "/expires_at",
        ),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "requests_per_second": 0}), "/requests_per_second"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "requests_per_second": 1.5}), "/requests_per_second"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "burst": 1_000_001}), "/burst"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "burst": 1_u64 << 32}), "/burst"),
        ("/api/admin/keys", json!({"name": "a", "app_id": "shop", "burst": -1}), "/burst"),
    ];
    for (path, document, pointer) in cases {
        let reply = admin.post(path, document.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (422, pointer), "{document} {}", reply.text);
    }
    for path in [WEBHOOKS, RULES, ANOMALIES, "/api/admin/keys"] {
        assert_eq!(admin.count(path).await, 0, "{path}");
    }

    let many = json!({"name": "a", "prioritty": 1, "expresion": "true", "enabled": "yes",
        "conditions": [{"path": "bad", "operator": "eq"}, {"path": "$", "operator": "is"}]});
    let pointers = |reply: Reply| {
        assert_eq!(reply.status, 422, "{}", reply.text);
        let errors = reply.json()["errors"].as_array().unwrap().clone();
        let mut pointers: Vec<_> = errors.iter().map(|error| error["pointer"].as_str().unwrap().to_owned()).collect();
        pointers.sort_unstable();
        pointers
    };
    let all = ["/conditions/0/path", "/conditions/1/operator", "/enabled", "/expresion", "/prioritty"];
    assert_eq!(pointers(admin.post(RULES, many.clone()).await), all);
    admin.post(RULES, json!({"name": "b"})).await;
    let mut many_and_id = many;
    many_and_id["id"] = json!(Uuid::now_v7());
    let with_id = ["/conditions/0/path", "/conditions/1/operator", "/enabled", "/expresion", "/id", "/prioritty"];
    for method in [Method::PUT, Method::PATCH] {
        assert_eq!(pointers(admin.call(method, &format!("{RULES}/b"), &many_and_id).await), with_id);
    }
    admin.call(Method::DELETE, &format!("{RULES}/b"), "").await;
    let webhook =
        json!({"name": "a", "url": "ftp://x", "auth_type": "basic", "auth_config": {"token": "t"}, "timeout": 5});
    assert_eq!(
        pointers(admin.post(WEBHOOKS, webhook).await),
        ["/auth_config/password", "/auth_config/token", "/auth_config/username", "/timeout", "/url"]
    );
    let key = json!({"name": "", "app_id": "../x", "key": "mine"});
    assert_eq!(pointers(admin.post("/api/admin/keys", key).await), ["/app_id", "/key", "/name"]);

    for (body, pointer, key) in [
        (r#"{"name": "a", "name": "b"}"#, "", "name"),
        (r#"{"name": "a", "conditions": [{"path": "$", "operator": "eq", "path": "$.x"}]}"#, "/conditions/0", "path"),
    ] {
        let reply = admin.call(Method::POST, RULES, body).await;
        let error = (pointer.to_owned(), format!("the key {key:?} comes twice"));
        assert_eq!((reply.status.as_u16(), reply.error()), (422, error), "{body}");
    }
    assert_eq!(admin.count(RULES).await, 0);

    // The merged document passes the same checks, and a refused one changes nothing.
    admin.post(RULES, json!({"name": "a", "priority": 1})).await;
    for (patch, pointer) in [
        (json!({"priority": "high"}), "/priority"),
        (json!({"name": null}), "/name"),
        (json!({"id": Uuid::now_v7()}), "/id"),
        (json!({"priority": 2, "conditions": [{"path": "bad", "operator": "eq"}]}), "/conditions/0/path"),
        (json!(["a"]), ""),
    ] {
        let reply = admin.call(Method::PATCH, &format!("{RULES}/a"), patch).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (422, pointer), "{}", reply.text);
    }
    assert_eq!(admin.get(&format!("{RULES}/a")).await.json()["priority"], 1);
}

#[tokio::test]
async fn conflicts_and_missing_documents() {
    let admin = Admin::new();
    admin.post(WEBHOOKS, ops()).await;
    admin.post(RULES, json!({"name": "a", "actions": {"webhooks": ["ops"]}})).await;
    let taken = admin.post(WEBHOOKS, ops()).await;
    assert_eq!((taken.status.as_u16(), taken.error().0.as_str()), (409, "/name"));
    let in_use = admin.call(Method::DELETE, &format!("{WEBHOOKS}/ops"), "").await;
    assert_eq!(in_use.status, 409);
    assert!(in_use.json()["detail"].as_str().unwrap().contains("rule a"), "{}", in_use.text);
    admin.call(Method::DELETE, &format!("{RULES}/a"), "").await;
    assert_eq!(admin.call(Method::DELETE, &format!("{WEBHOOKS}/ops"), "").await.status, 204);

    let id = Uuid::now_v7();
    for (method, path) in [
        (Method::GET, format!("{WEBHOOKS}/{id}")),
        (Method::GET, format!("{RULES}/nobody")),
        (Method::GET, format!("{RULES}/%ff")),
        (Method::PUT, format!("{RULES}/nobody")),
        (Method::PATCH, format!("{ANOMALIES}/nobody")),
        (Method::DELETE, format!("{ANOMALIES}/nobody")),
        (Method::GET, format!("/api/admin/deliveries/{id}")),
        (Method::GET, "/api/admin/deliveries/nobody".to_owned()),
        (Method::POST, format!("/api/admin/deliveries/{id}/retry")),
        (Method::GET, "/api/admin/dead-letters/1".to_owned()),
        (Method::DELETE, "/api/admin/dead-letters/x".to_owned()),
        (Method::POST, "/api/admin/dead-letters/1/replay".to_owned()),
        (Method::DELETE, "/api/admin/keys/nobody".to_owned()),
        (Method::GET, "/api/admin/nothing".to_owned()),
        (Method::GET, "/".to_owned()),
    ] {
        let reply = admin.call(method.clone(), &path, json!({"name": "x"})).await;
        assert_eq!(reply.status, 404, "{method} {path} {}", reply.text);
        assert_eq!(reply.headers["content-type"], "application/problem+json", "{path}");
    }
}

#[tokio::test]
async fn requests_that_cannot_be_read_are_refused_by_kind() {
    let admin = Admin::new();
    for body in ["", "{", "{\"name\": NaN}", "{\"name\": \"a\"} x"] {
        let reply = admin.call(Method::POST, RULES, body).await;
        assert_eq!(reply.status, 400, "{body}");
        assert!(reply.json()["detail"].as_str().unwrap().contains("not JSON"), "{}", reply.text);
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(admin.call(Method::POST, RULES, deep).await.status, 400);
    let large = json!({"name": "a", "description": "x".repeat(1024 * 1024)});
    assert_eq!(admin.post(RULES, large).await.status, 413);

    for (method, path, allow) in [
        (Method::DELETE, RULES, "GET,HEAD,POST"),
        (Method::POST, "/api/admin/status", "GET,HEAD"),
        (Method::GET, "/api/admin/deliveries/x/retry", "POST"),
        (Method::PUT, "/health", "GET,HEAD"),
    ] {
        let reply = admin.call(method, path, "").await;
        assert_eq!((reply.status.as_u16(), reply.headers["allow"].to_str().unwrap()), (405, allow), "{path}");
        assert_eq!(reply.headers["content-type"], "application/problem+json");
    }

    for (content_type, status) in [
        (Some("application/json; charset=utf-8"), 201),
        (Some("application/merge-patch+json"), 201),
        (None, 201),
        (Some("text/plain"), 415),
        (Some("application/x-www-form-urlencoded"), 415),
        (Some("application/jsonp"), 415),
    ] {
        let mut request = Request::post(RULES).header("host", "localhost");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let body = json!({"name": format!("{content_type:?}")}).to_string();
        let reply = admin.send(request.body(Body::from(body)).unwrap()).await;
        assert_eq!(reply.status, status, "{content_type:?}");
    }
    assert_eq!(admin.count(RULES).await, 3);
}

#[tokio::test]
async fn pages_of_other_origins_are_refused() {
    let admin = Admin::new();
    let request = |method: Method, host: &str, origin: Option<&str>| {
        let mut request = Request::builder().method(method).uri(RULES).header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.body(Body::from(r#"{"name": "a"}"#)).unwrap()
    };
    for (method, host, origin) in [
        (Method::GET, "evil.example:9090", None),
        (Method::POST, "evil.example:9090", Some("http://evil.example:9090")),
        (Method::POST, "localhost:9090", Some("https://evil.example")),
        (Method::POST, "localhost:9090", Some("null")),
    ] {
        assert_eq!(admin.send(request(method, host, origin)).await.status, 403, "{host} {origin:?}");
    }
    assert_eq!(admin.count(RULES).await, 0);
    let own = request(Method::POST, "localhost:9090", Some("http://localhost:9090"));
    assert_eq!(admin.send(own).await.status, 201);
}

#[tokio::test]
async fn lists_are_paginated_and_misspelled_queries_refused() {
    let admin = Admin::new();
    for n in 0..5 {
        admin.post(RULES, json!({"name": format!("rule {n}")})).await;
    }
    let (mut names, mut path) = (Vec::new(), format!("{RULES}?limit=2"));
    loop {
        let page = admin.get(&path).await.json();
        let items = page["items"].as_array().unwrap();
        names.extend(items.iter().map(|item| item["name"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("{RULES}?limit=2&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["rule 0", "rule 1", "rule 2", "rule 3", "rule 4"]);

    for (query, pointer) in [
        ("rules?limit=0", "/limit"),
        ("rules?limit=1001", "/limit"),
        ("rules?limit=x", "/limit"),
        ("rules?cursor=zzz", "/cursor"),
        ("rules?offset=2", "/offset"),
        ("rules?limit=1&limit=2", "/limit"),
        ("webhooks?cursor=%00", "/cursor"),
        ("keys?cursor=x", "/cursor"),
        ("deliveries?cursor=x", "/cursor"),
        ("deliveries?status=lost", "/status"),
        ("deliveries?webhook_id=nobody", "/webhook_id"),
        ("deliveries?webhook=ops", "/webhook"),
        ("anomaly-events?since=yesterday", "/since"),
        ("dead-letters?cursor=x", "/cursor"),
    ] {
        let reply = admin.get(&format!("/api/admin/{query}")).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (400, pointer), "{query}");
    }
    assert_eq!(admin.get(&format!("{RULES}?limit=1000")).await.status, 200);
}

/// Each patch adds a header: one based on an outdated document would remove another's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_patches_of_several_processes_all_apply() {
    const PATCHES: usize = 20;
    let admin = Admin::new();
    admin.post(WEBHOOKS, json!({"name": "ops", "url": "http://x"})).await;
    let processes = [admin.another_process(), admin.another_process(), admin.another_process()];
    let patching = processes.iter().enumerate().map(|(process, admin)| async move {
        for n in 0..PATCHES {
            let name = format!("X-{process}-{n}");
            let reply = admin.call(Method::PATCH, &format!("{WEBHOOKS}/ops"), json!({"headers": {name: "1"}})).await;
            assert_eq!(reply.status, 200, "{}", reply.text);
        }
    });
    futures_util::future::join_all(patching).await;
    let headers = admin.get(&format!("{WEBHOOKS}/ops")).await.json()["headers"].as_object().unwrap().len();
    assert_eq!(headers, processes.len() * PATCHES);
}
