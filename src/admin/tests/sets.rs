//! Sets of documents: all or nothing, and all errors together.

use serde_json::json;

use super::*;

const APPLY: &str = "/api/admin/apply";

fn set() -> Value {
    json!({
        "rules": [{"name": "big", "actions": {"webhooks": ["ops"]}}],
        "webhooks": [{"name": "ops", "url": "http://127.0.0.1:1/"}],
        "anomalies": null,
    })
}

async fn stored(admin: &Admin) -> usize {
    let mut count = 0;
    for list in [WEBHOOKS, RULES, ANOMALIES] {
        count += admin.get(list).await.json()["items"].as_array().unwrap().len();
    }
    count
}

fn outcomes(reply: &Reply) -> Vec<(String, String)> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let items = reply.json()["items"].as_array().unwrap().clone();
    items.iter().map(|item| (text(&item["name"]), text(&item["outcome"]))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[tokio::test]
async fn a_set_is_tried_stored_and_then_unchanged() {
    let admin = Admin::new();
    let rehearsed = admin.post(&format!("{APPLY}?dry_run=true"), set()).await;
    assert_eq!(outcomes(&rehearsed), pairs(&[("ops", "created"), ("big", "created")]));
    assert_eq!(stored(&admin).await, 0);

    assert_eq!(outcomes(&admin.post(APPLY, set()).await), pairs(&[("ops", "created"), ("big", "created")]));
    assert_eq!(outcomes(&admin.post(APPLY, set()).await), pairs(&[("ops", "unchanged"), ("big", "unchanged")]));

    let changed = json!({"rules": [{"name": "big", "priority": 3, "actions": {"webhooks": ["ops"]}}]});
    let rehearsed = admin.post(&format!("{APPLY}?dry_run=true"), changed.clone()).await;
    assert_eq!(outcomes(&rehearsed), pairs(&[("big", "updated")]));
    let item = &rehearsed.json()["items"][0];
    assert_eq!((&item["before"]["priority"], &item["after"]["priority"]), (&json!(0), &json!(3)));
    assert_eq!(admin.get(&format!("{RULES}/big")).await.json()["priority"], 0);
    assert_eq!(outcomes(&admin.post(APPLY, changed).await), pairs(&[("big", "updated")]));
    assert_eq!(admin.post(&format!("{APPLY}?dry_run=maybe"), set()).await.status, 400);
    assert_eq!(admin.post(&format!("{APPLY}?dry=true"), set()).await.status, 400);
}

#[tokio::test]
async fn all_errors_of_a_set_are_reported_and_nothing_is_stored() {
    let admin = Admin::new();
    let wrong = json!({
        "webhooks": [
            {"name": "good", "url": "http://127.0.0.1:1/"},
            {"name": "bad", "url": "gopher://a"},
            {"name": "masked", "url": "http://a", "auth_type": "bearer", "auth_config": {"token": "***"}},
            {"name": "good", "url": "http://127.0.0.1:2/"},
        ],
        "rules": [
            {"name": "r1", "conditions": [{"path": "$.bad", "operator": "exists"}]},
            {"name": "r2", "colour": 1, "conditions": [{"path": "$.bad", "operator": "exists"}, {"path": "$.event_id", "operator": "is"}]},
            // One reference to a faulty webhook, one to an unknown one.
            {"name": "r3", "expresion": "true", "actions": {"webhooks": ["bad", "nobody", "no one"]}},
            {"name": "r4", "actions": {"webhooks": ["good"]}},
            7,
        ],
        "anomalies": [{"name": "", "detection_type": "rate", "config": {"max_per_minute": 1}}],
    });
    for path in [APPLY.to_owned(), format!("{APPLY}?dry_run=true")] {
        let reply = admin.post(&path, wrong.clone()).await;
        assert_eq!(reply.status, 422, "{}", reply.text);
        let problem = reply.json();
        let mut pointers: Vec<_> =
            problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        pointers.sort_unstable();
        assert_eq!(
            pointers,
            [
                "/anomalies/0/name",
                "/rules/0/conditions/0/path",
                "/rules/1/colour",
                "/rules/1/conditions/0/path",
                "/rules/1/conditions/1/operator",
                "/rules/2/actions/webhooks/1",
                "/rules/2/actions/webhooks/2",
                "/rules/2/expresion",
                "/rules/4",
                "/webhooks/1/url",
                "/webhooks/2/auth_config/token",
                "/webhooks/3/name",
            ],
            "{problem}"
        );
        assert_eq!(stored(&admin).await, 0);
    }
    // Once the rest is fixed, only the store's errors remain.
    let left = json!({"webhooks": [{"name": "good", "url": "http://127.0.0.1:1/"}],
        "rules": [{"name": "r4", "actions": {"webhooks": ["good"]}}, {"name": "r3", "actions": {"webhooks": ["good", "nobody"]}}]});
    let reply = admin.post(APPLY, left).await;
    assert_eq!(
        reply.error(),
        ("/rules/1/actions/webhooks/1".to_owned(), "is neither the id nor the name of a webhook".to_owned())
    );
    assert_eq!(stored(&admin).await, 0);

    // Every list is checked.
    let mistaken = json!({"hooks": [], "anomaly": [], "webhooks": {}, "rules": [{"name": "r", "colour": 1}]});
    let problem = admin.post(APPLY, mistaken).await.json();
    let said = problem["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap());
    assert_eq!(said.collect::<Vec<_>>(), ["/anomaly", "/hooks", "/rules/0/colour", "/webhooks"], "{problem}");
    let many = json!({"rules": vec![json!({"name": "same"}); 10_001], "hooks": []});
    let problem = admin.post(APPLY, many).await.json();
    assert!(problem["errors"][0]["detail"].as_str().unwrap().starts_with("must have at most 10000"), "{problem}");
    assert!(problem["errors"].as_array().unwrap().iter().any(|error| error["pointer"] == "/rules/1/name"));

    for (body, pointer) in [(json!([]), ""), (json!({"hooks": []}), "/hooks"), (json!({"rules": {}}), "/rules")] {
        let reply = admin.post(APPLY, body).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (422, pointer));
    }
}

#[tokio::test]
async fn text_that_expands_too_much_is_refused() {
    let admin = Admin::new();
    let detail = |max: usize| format!("the document must have at most {max} values");
    let set = |values: String| {
        format!(
            r#"{{"rules":[{{"name":"a","conditions":[{{"path":"$.app_id","operator":"in","value":[{values}]}}]}}]}}"#
        )
    };
    for values in ["0,".repeat(8_000_000), r#"{"":0},"#.repeat(2_000_000)] {
        let reply = admin.call(Method::POST, APPLY, set(format!("{values}0"))).await;
        assert_eq!(reply.status, 422);
        let (pointer, message) = reply.error();
        assert!(
            pointer.starts_with("/rules/0/conditions/0/value/") && message == detail(500_000),
            "{pointer} {message}"
        );
    }
    let rule = |values: String| {
        format!(r#"{{"name":"a","conditions":[{{"path":"$.app_id","operator":"in","value":[{values}0]}}]}}"#)
    };
    for (method, path) in [(Method::POST, RULES.to_owned()), (Method::PUT, format!("{RULES}/a"))] {
        let reply = admin.call(method, &path, rule("0,".repeat(500_000))).await;
        assert_eq!(reply.status, 422);
        let (pointer, message) = reply.error();
        assert_eq!((pointer.as_str(), message), ("/conditions/0/value/99993", detail(100_000)));
    }
    let patch = format!(r#"{{"conditions":[{}0]}}"#, "0,".repeat(500_000));
    assert_eq!(admin.call(Method::PATCH, &format!("{RULES}/a"), patch).await.error().1, detail(100_000));
}
