//! Every change leaves an audit record: the test calls each changing route once.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::admin::route::{BASE, Verb};
use crate::admin::routes;
use crate::store::{AuditKind, DeliveryOutcome, DeliveryStatus, Effects, NewDelivery};

/// Calls routes and checks that each is recorded.
struct Steps {
    admin: Admin,
    taken: BTreeSet<(Verb, String)>,
    records: usize,
}

impl Steps {
    async fn take(&mut self, verb: Verb, route: &str, id: &str, body: Value) -> Value {
        let pattern = format!("{BASE}{route}");
        let path = pattern.replace("{id}", id);
        let method: Method = format!("{verb:?}").to_uppercase().parse().unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = self.admin.call(method.clone(), &path, body).await;
        assert!(reply.status.is_success(), "{method} {path}: {} {}", reply.status, reply.text);
        let log = self.admin.get("/api/admin/audit?limit=1000").await.json();
        let records = log["items"].as_array().unwrap();
        assert_eq!(records.len(), self.records + 1, "{method} {path} has one record");
        self.records += 1;
        let newest = &records[0];
        assert_eq!((&newest["method"], &newest["actor"]), (&json!(method.as_str()), &json!("loopback")), "{newest}");
        assert_eq!(newest["outcome"], "done", "{newest}");
        assert!(newest["at"].is_string() && (newest["before"].is_object() || newest["after"].is_object()), "{newest}");
        self.taken.insert((verb, pattern));
        newest.clone()
    }
}

async fn dead_deliveries(admin: &Admin, webhook: &str) -> Vec<Uuid> {
    let webhook: Uuid =
        serde_json::from_value(admin.get(&format!("{WEBHOOKS}/{webhook}")).await.json()["id"].clone()).unwrap();
    let delivery = |n: u32| NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: webhook,
        rule_id: None,
        anomaly_config_id: None,
        event_id: format!("event-{n}"),
        payload: serde_json::value::to_raw_value(&json!({"who": "somebody"})).unwrap(),
        max_attempts: 5,
    };
    let deliveries = vec![delivery(1), delivery(2)];
    let ids: Vec<Uuid> = deliveries.iter().map(|delivery| delivery.id).collect();
    let effects = Effects { consumer: "c".to_owned(), causes: Vec::new(), deliveries, ..Effects::default() };
    admin.store.record_effects(effects).await.unwrap();
    let outcome = |id: &Uuid| DeliveryOutcome {
        id: *id,
        status: DeliveryStatus::Failed,
        attempts: 5,
        attempted_at_ms: 1,
        wait_ms: None,
        status_code: None,
        error: None,
    };
    admin.store.finish_deliveries(ids.iter().map(outcome).collect()).await.unwrap();
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_changing_route_leaves_a_record() {
    use Verb::{Delete, Patch, Post, Put};
    let mut steps = Steps { admin: Admin::new(), taken: BTreeSet::new(), records: 0 };
    steps.take(Post, "/webhooks", "", ops()).await;
    let url = json!({"name": "ops", "url": "https://ops.example.com/other"});
    let replaced = steps.take(Put, "/webhooks/{id}", "ops", url).await;
    assert_eq!(replaced["before"]["url"], "https://ops.example.com/hook");
    assert_eq!(replaced["after"]["url"], "https://ops.example.com/other");
    steps.take(Patch, "/webhooks/{id}", "ops", json!({"enabled": false})).await;
    let rule = |priority: i64| json!({"name": "r", "priority": priority, "actions": {"webhooks": ["ops"]}});
    steps.take(Post, "/rules", "", rule(1)).await;
    steps.take(Put, "/rules/{id}", "r", rule(2)).await;
    let patched = steps.take(Patch, "/rules/{id}", "r", json!({"priority": 3})).await;
    assert_eq!((&patched["before"]["priority"], &patched["after"]["priority"]), (&json!(2), &json!(3)));
    let anomaly = |cooldown: u64| json!({"name": "a", "detection_type": "rate", "config": {"max_per_minute": 1}, "cooldown_seconds": cooldown});
    steps.take(Post, "/anomalies", "", anomaly(1)).await;
    steps.take(Put, "/anomalies/{id}", "a", anomaly(2)).await;
    steps.take(Patch, "/anomalies/{id}", "a", json!({"cooldown_seconds": 3})).await;
    steps.take(Post, "/apply", "", json!({"rules": [{"name": "applied"}]})).await;

    let ids = dead_deliveries(&steps.admin, "ops").await;
    let retried = steps.take(Post, "/deliveries/{id}/retry", &ids[0].to_string(), Value::Null).await;
    assert_eq!((&retried["before"]["status"], &retried["after"]["status"]), (&json!("failed"), &json!("pending")));
    assert!(!retried.to_string().contains("somebody"), "no event in the record");
    let all = steps.take(Post, "/deliveries/retry", "", json!({"since": "1h"})).await;
    assert_eq!(all["after"]["retried"], 1);
    steps.take(Delete, "/deliveries/{id}", &ids[1].to_string(), Value::Null).await;

    let messages = [1, 2, 3].map(|_| ("anomalies.shop.spike", b"{}".to_vec()));
    let _reading = steps.admin.dead_letter("anomalies.>", &messages).await;
    let letters = steps.admin.get("/api/admin/dead-letters").await.json();
    let letter = |index: usize| letters["items"][index]["id"].to_string();
    let replayed = steps.take(Post, "/dead-letters/{id}/replay", &letter(0), Value::Null).await;
    assert_eq!((&replayed["object_id"], &replayed["after"]), (&json!(letter(0)), &json!({"found": true})));
    steps.take(Delete, "/dead-letters/{id}", &letter(1), Value::Null).await;
    let purged = steps.take(Delete, "/dead-letters", "", Value::Null).await;
    assert_eq!(purged["after"], json!({"deleted": 1}));

    let erased = steps.take(Post, "/erasures", "", json!({"device_id": "phone"})).await;
    assert_eq!((&erased["action"], &erased["after"]["is_scanned"]), (&json!("erase"), &json!(true)));

    steps.take(Post, "/keys", "", json!({"app_id": "shop", "name": "ios"})).await;
    steps.take(Delete, "/keys/{id}", "ios", Value::Null).await;
    let made = steps.take(Post, "/tokens", "", json!({"name": "ci", "role": "viewer"})).await;
    assert!(made["after"].get("token").is_none() && made["after"]["role"] == "viewer", "{made}");
    steps.take(Delete, "/tokens/{id}", "ci", Value::Null).await;
    for (route, name) in [("/rules/{id}", "r"), ("/anomalies/{id}", "a"), ("/webhooks/{id}", "ops")] {
        let deleted = steps.take(Delete, route, name, Value::Null).await;
        assert_eq!((&deleted["before"]["name"], &deleted["after"]), (&json!(name), &Value::Null));
    }
    let changing = routes::api_routes();
    let changing = changing.into_iter().filter(|route| route.verb != Verb::Get).map(|route| (route.verb, route.path));
    assert_eq!(steps.taken, changing.collect(), "a route that changes something is not looked at here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_record_without_a_change_and_lists_are_filtered() {
    let admin = Admin::new();
    admin.post(RULES, json!({"name": ""})).await;
    admin.post(RULES, json!({"name": "a", "actions": {"webhooks": ["nobody"]}})).await;
    admin.call(Method::DELETE, &format!("{RULES}/nobody"), "").await;
    admin.post("/api/admin/apply?dry_run=true", json!({"rules": [{"name": "a"}]})).await;
    assert_eq!(admin.count("/api/admin/audit").await, 0);
    for name in ["a", "b", "c"] {
        admin.post(RULES, json!({"name": name})).await;
    }
    admin.post(WEBHOOKS, ops()).await;
    for (query, count) in [
        ("?kind=rule", 3),
        ("?kind=webhook&actor=loopback", 1),
        ("?actor=somebody", 0),
        ("?since=1h", 4),
        ("?since=2100-01-01", 0),
        ("?limit=2", 2),
    ] {
        assert_eq!(admin.count(&format!("/api/admin/audit{query}")).await, count, "{query}");
    }
    assert_eq!(admin.get("/api/admin/audit?kinds=rule").await.status, 400);
    let unknown = admin.get("/api/admin/audit?kind=rules").await;
    let (pointer, detail) = unknown.error();
    assert_eq!((unknown.status.as_u16(), pointer.as_str()), (400, "/kind"));
    assert!(AuditKind::ALL.iter().all(|kind| detail.contains(kind.text())), "{detail}");
    let page = admin.get("/api/admin/audit?limit=3").await.json();
    assert_eq!(page["items"][0]["kind"], "webhook");
    let next = page["next"].as_str().unwrap();
    assert_eq!(admin.get(&format!("/api/admin/audit?limit=3&cursor={next}")).await.json()["items"][0]["name"], "a");
    // An empty purge is recorded too; a missing dead letter is recorded as failed.
    assert_eq!(admin.call(Method::DELETE, "/api/admin/dead-letters/7", "").await.status, 404);
    let newest = &admin.get("/api/admin/audit").await.json()["items"][0];
    assert_eq!((&newest["outcome"], &newest["kind"]), (&json!("failed"), &json!("dead_letter")));
}
