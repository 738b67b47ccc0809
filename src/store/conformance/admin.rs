//! The part of the conformance suite for the admin API: tokens, and the record of every change.

use serde_json::{Value, json};

use super::*;

pub(in crate::store) fn caller(name: &str) -> Caller {
    Caller {
        token_id: Some(Uuid::from_u128(7)),
        name: name.to_owned(),
        address: Some("192.0.2.7".parse().unwrap()),
        method: "POST".to_owned(),
        request_id: Some("request-7".to_owned()),
    }
}

fn new_token(name: &str, role: AdminRole, expires_at: Option<Timestamp>) -> NewAdminToken {
    NewAdminToken { name: name.to_owned(), role, expires_at }
}

async fn records(store: &Store) -> Vec<AuditRecord> {
    store.audit(AuditFilter::default(), first_page(100)).await.unwrap().items
}

/// Action and name of each record, oldest first.
fn summaries(records: &[AuditRecord]) -> Vec<(String, String, String)> {
    let of = |record: &AuditRecord| {
        let entry = &record.entry;
        (entry.kind.text().to_owned(), entry.action.clone(), entry.name.clone().unwrap_or_default())
    };
    records.iter().rev().map(of).collect()
}

pub(in crate::store) async fn tokens_are_found_by_their_hash_until_they_are_revoked(store: Store) {
    let (ops, token) = store.create_admin_token(new_token("ops", AdminRole::Operator, None)).await.unwrap();
    assert!(is_token(&token));
    let found = store.admin_token_by_hash(hash_token(&token)).await.unwrap().unwrap();
    assert_eq!((&found.token, found.expired), (&ops, false));
    assert_eq!(store.admin_token_by_hash(hash_token("cadm_other")).await.unwrap(), None);
    assert_eq!(ops.last_used_at, None);
    store.record_token_use(ops.id).await.unwrap();
    let used = store.admin_token("ops").await.unwrap().unwrap();
    let at = used.last_used_at.unwrap();
    // To the minute, but not before the token was created.
    assert!(at == ops.created_at || at > ops.created_at && at.as_millisecond() % 60_000 == 0, "{at}");
    assert!(Timestamp::now().as_millisecond() - at.as_millisecond() < 120_000);
    store.record_token_use(ops.id).await.unwrap();

    let past = Timestamp::now() - jiff::SignedDuration::from_secs(60);
    let (_, expired) = store.create_admin_token(new_token("old", AdminRole::Admin, Some(past))).await.unwrap();
    assert!(store.admin_token_by_hash(hash_token(&expired)).await.unwrap().unwrap().expired);
    let future = Timestamp::now() + jiff::SignedDuration::from_secs(600);
    let (new, fresh) = store.create_admin_token(new_token("new", AdminRole::Viewer, Some(future))).await.unwrap();
    assert!(!store.admin_token_by_hash(hash_token(&fresh)).await.unwrap().unwrap().expired);
    assert_eq!(new.expires_at.unwrap().as_millisecond(), future.as_millisecond());

    let taken = store.create_admin_token(new_token("ops", AdminRole::Viewer, None)).await.unwrap_err();
    assert_eq!(taken.kind, StoreErrorKind::NameTaken);
    let page = store.admin_tokens(first_page(2)).await.unwrap();
    assert_eq!(page.items.iter().map(|token| token.name.as_str()).collect::<Vec<_>>(), ["ops", "old"]);
    let rest = store.admin_tokens(PageRequest { limit: 2, cursor: page.next }).await.unwrap();
    assert_eq!((rest.items.len(), rest.next), (1, None));

    assert!(store.revoke_admin_token("ops").await.unwrap());
    assert!(!store.revoke_admin_token("ops").await.unwrap());
    assert_eq!(store.admin_token_by_hash(hash_token(&token)).await.unwrap(), None);
    assert!(records(&store).await.is_empty(), "there is no caller");
}

pub(in crate::store) async fn changes_by_a_caller_are_recorded(store: Store) {
    let ops = store.on_behalf_of(caller("ops laptop"));
    let hook = ops.create(webhook("hook")).await.unwrap();
    ops.create(rule("big", &["hook"])).await.unwrap();
    let moved = NewRule { priority: 7, ..rule("big", &["hook"]) };
    ops.replace::<NewRule>("big", moved, None).await.unwrap();
    ops.create(anomaly("storm")).await.unwrap();
    // A refused change is not made and not recorded.
    ops.create(rule("big", &[])).await.unwrap_err();
    ops.replace("big", rule("big", &["nobody"]), None).await.unwrap_err();
    ops.delete::<NewWebhook>("hook").await.unwrap_err();
    assert!(!ops.delete::<NewRule>("nobody").await.unwrap());
    // Changes without a caller are not recorded.
    store.create(rule("quiet", &[])).await.unwrap();
    store.disable_webhook(hook.id, "gone").await.unwrap();
    ops.delete::<NewRule>("big").await.unwrap();
    ops.delete::<NewAnomalyConfig>("storm").await.unwrap();
    ops.delete::<NewWebhook>("hook").await.unwrap();
    let new: NewApiKey = serde_json::from_value(json!({"app_id": "shop", "name": "ios"})).unwrap();
    ops.create_key(new).await.unwrap();
    assert!(ops.revoke_key("ios").await.unwrap());
    let (token, _) = ops.create_admin_token(new_token("ci", AdminRole::Viewer, None)).await.unwrap();
    assert!(ops.revoke_admin_token("ci").await.unwrap());

    let records = records(&store).await;
    let expected = [
        ("webhook", "create", "hook"),
        ("rule", "create", "big"),
        ("rule", "replace", "big"),
        ("anomaly", "create", "storm"),
        ("rule", "delete", "big"),
        ("anomaly", "delete", "storm"),
        ("webhook", "delete", "hook"),
        ("key", "create", "ios"),
        ("key", "delete", "ios"),
        ("token", "create", "ci"),
        ("token", "delete", "ci"),
    ];
    assert_eq!(summaries(&records), expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    for record in &records {
        let entry = &record.entry;
        assert_eq!((entry.actor.as_str(), entry.actor_id), ("ops laptop", Some(Uuid::from_u128(7))));
        assert_eq!((entry.method.as_str(), entry.outcome), ("POST", AuditOutcome::Done));
        assert_eq!(entry.address.unwrap().to_string(), "192.0.2.7");
        assert_eq!(entry.before.is_some(), entry.action != "create");
        assert_eq!(entry.after.is_some(), entry.action != "delete");
    }
    let replaced = &records[8].entry;
    let priority = |value: &Option<Value>| value.as_ref().unwrap()["priority"].clone();
    assert_eq!((priority(&replaced.before), priority(&replaced.after)), (json!(0), json!(7)));
    assert_eq!(records[0].entry.object_id, Some(token.id.to_string()));
}

pub(in crate::store) async fn records_contain_no_secrets(store: Store) {
    let ops = store.on_behalf_of(caller("ops"));
    let signed = |secret: &str| -> NewWebhook {
        serde_json::from_value(
            json!({"name": "hook", "url": "https://h.example/hook?token=hunter2", "auth_type": "hmac",
            "headers": {"Authorization": "Bearer hunter2"}, "auth_config": {"secret": secret}}),
        )
        .unwrap()
    };
    ops.create(signed("hunter2")).await.unwrap();
    ops.replace("hook", signed("hunter2 again"), None).await.unwrap();
    ops.replace::<NewWebhook>("hook", NewWebhook { timeout_ms: 7, ..signed("hunter2 again") }, None).await.unwrap();
    let (_, key) =
        ops.create_key(serde_json::from_value(json!({"app_id": "shop", "name": "ios"})).unwrap()).await.unwrap();
    let (_, token) = ops.create_admin_token(new_token("ci", AdminRole::Viewer, None)).await.unwrap();
    let records = records(&store).await;
    let text = serde_json::to_string(&records).unwrap();
    assert!(text.contains("***"));
    for secret in ["hunter2", &key, &token] {
        assert!(!text.contains(secret), "{text}");
    }
    let notes: Vec<_> = records.iter().rev().map(|record| record.entry.note.is_some()).collect();
    assert_eq!(notes, [false, true, false, false, false], "a changed secret is noted without its value");
}

pub(in crate::store) async fn a_set_is_recorded_document_by_document(store: Store) {
    let ops = store.on_behalf_of(caller("ci"));
    let set = |priority| DocumentSet {
        webhooks: vec![webhook("hook")],
        rules: vec![NewRule { priority, ..rule("big", &["hook"]) }],
        anomalies: Vec::new(),
    };
    ops.apply(set(1), true).await.unwrap();
    assert!(records(&store).await.is_empty(), "a rehearsal changes nothing");
    ops.apply(set(1), false).await.unwrap();
    ops.apply(set(1), false).await.unwrap();
    ops.apply(set(2), false).await.unwrap();
    let faulty = DocumentSet { rules: vec![rule("big", &["nobody"])], ..set(3) };
    ops.apply(faulty, false).await.unwrap_err();
    let expected = [("webhook", "create", "hook"), ("rule", "create", "big"), ("rule", "replace", "big")];
    let summaries = summaries(&records(&store).await);
    assert_eq!(summaries, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}

pub(in crate::store) async fn records_are_filtered_newest_first_and_deleted(store: Store) {
    let (ops, ci) = (store.on_behalf_of(caller("ops")), store.on_behalf_of(Caller { token_id: None, ..caller("ci") }));
    for index in 0..3 {
        ops.create(rule(&format!("r{index}"), &[])).await.unwrap();
        ci.create(webhook(&format!("w{index}"))).await.unwrap();
    }
    let count = async |filter: AuditFilter| store.audit(filter, first_page(100)).await.unwrap().items.len();
    let actor = |actor: &str| AuditFilter { actor: Some(actor.to_owned()), ..AuditFilter::default() };
    assert_eq!(count(actor("ops")).await, 3);
    assert_eq!(count(actor(&Uuid::from_u128(7).to_string())).await, 3);
    assert_eq!(count(actor("nobody\0")).await, 0);
    assert_eq!(count(AuditFilter { kind: Some(AuditKind::Webhook), ..actor("ci") }).await, 3);
    assert_eq!(count(AuditFilter { kind: Some(AuditKind::Rule), ..actor("ci") }).await, 0);
    let now = Timestamp::now().as_millisecond();
    let since = |ms| AuditFilter { since_ms: Some(ms), ..AuditFilter::default() };
    assert_eq!((count(since(now - 60_000)).await, count(since(now + 60_000)).await), (6, 0));

    let page = store.audit(AuditFilter::default(), first_page(4)).await.unwrap();
    assert_eq!(page.items[0].entry.name.as_deref(), Some("w2"));
    let rest = PageRequest { limit: 4, cursor: page.next };
    let rest = store.audit(AuditFilter::default(), rest).await.unwrap();
    assert_eq!((rest.items.len(), rest.items[1].entry.name.as_deref(), rest.next), (2, Some("r0"), None));

    assert_eq!(store.prune_audit(Duration::from_secs(600)).await.unwrap(), 0);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(store.prune_audit(Duration::ZERO).await.unwrap(), 6);
    assert_eq!(count(AuditFilter::default()).await, 0);
}

pub(in crate::store) async fn changes_outside_the_store_are_recorded_first(store: Store) {
    let ops = store.on_behalf_of(caller("ops"));
    let purge = || Change::of(AuditKind::DeadLetter, "purge").with_before(json!({"before": null}));
    let id = ops.begin_audit(purge()).await.unwrap();
    assert_eq!(records(&store).await[0].entry.outcome, AuditOutcome::Started);
    ops.finish_audit(id, AuditOutcome::Done, Some(json!({"deleted": 3}))).await.unwrap();
    let settled = records(&store).await[0].entry.clone();
    assert_eq!((settled.outcome, settled.after), (AuditOutcome::Done, Some(json!({"deleted": 3}))));
    let failed = ops.begin_audit(Change::of(AuditKind::DeadLetter, "replay").with_id(7)).await.unwrap();
    ops.finish_audit(failed, AuditOutcome::Failed, None).await.unwrap();
    let entry = records(&store).await[0].entry.clone();
    assert_eq!((entry.outcome, entry.object_id.as_deref()), (AuditOutcome::Failed, Some("7")));
    assert_eq!(store.begin_audit(purge()).await.unwrap(), None, "without a caller");
    store.finish_audit(None, AuditOutcome::Done, None).await.unwrap();
    store.finish_audit(Some(1 << 40), AuditOutcome::Done, None).await.unwrap();
    assert_eq!(records(&store).await.len(), 2);
}
