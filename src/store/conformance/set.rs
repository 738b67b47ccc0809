//! The part of the conformance suite for sets of documents.

use serde_json::json;

use super::*;

fn signed(name: &str, secret: &str) -> NewWebhook {
    let auth = json!({"secret": secret, "header": "X-Signature"});
    let document = json!({"name": name, "url": "http://127.0.0.1:1/", "auth_type": "hmac", "auth_config": auth});
    serde_json::from_value(document).unwrap()
}

/// A webhook, with a rule and an anomaly config that use it.
fn set(secret: &str) -> DocumentSet {
    let mut anomaly = anomaly("storm");
    anomaly.actions.webhooks = vec!["ops".to_owned()];
    DocumentSet { webhooks: vec![signed("ops", secret)], rules: vec![rule("big", &["ops"])], anomalies: vec![anomaly] }
}

async fn counts(store: &Store) -> [u64; 3] {
    let status = store.status().await.unwrap();
    [status.webhooks, status.rules, status.anomaly_configs]
}

fn outcomes(applied: &AppliedSet) -> Vec<ApplyOutcome> {
    let webhooks = applied.webhooks.iter().map(|applied| applied.outcome);
    let rules = applied.rules.iter().map(|applied| applied.outcome);
    webhooks.chain(rules).chain(applied.anomalies.iter().map(|applied| applied.outcome)).collect()
}

pub(in crate::store) async fn a_set_is_created_then_found_unchanged_then_updated(store: Store) {
    let mut changes = store.changes();
    let created = store.apply(set("s3cret"), false).await.unwrap();
    assert_eq!(outcomes(&created), [ApplyOutcome::Created; 3]);
    signalled(&mut changes).await;
    let webhook = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    let rule = store.find::<NewRule>("big").await.unwrap().unwrap();
    assert_eq!(rule.document.actions.webhooks, [webhook.id.to_string()], "named webhooks of the set are found");
    assert_eq!(created.rules[0].after, rule);

    // Nothing is written: no timestamp changes.
    let again = store.apply(set("s3cret"), false).await.unwrap();
    assert_eq!(outcomes(&again), [ApplyOutcome::Unchanged; 3]);
    assert_eq!(store.find::<NewRule>("big").await.unwrap().unwrap(), rule);
    assert!(store.find::<NewWebhook>("ops").await.unwrap().unwrap() == webhook);

    // A secret is compared with the stored one; the mask keeps it.
    assert_eq!(outcomes(&store.apply(set("***"), false).await.unwrap()), [ApplyOutcome::Unchanged; 3]);
    let other = store.apply(set("0ther"), false).await.unwrap();
    assert_eq!(outcomes(&other), [ApplyOutcome::Updated, ApplyOutcome::Unchanged, ApplyOutcome::Unchanged]);
    assert!(other.webhooks[0].before.as_ref().unwrap() == &webhook);
}

pub(in crate::store) async fn a_set_with_a_fault_stores_nothing_and_names_every_fault(store: Store) {
    store.create(webhook("old")).await.unwrap();
    let kept = store.create(rule("kept", &["old"])).await.unwrap();
    let mut wrong = set("s3cret");
    wrong.webhooks.push(signed("masked", "***"));
    wrong.rules.push(rule("kept", &[]));
    wrong.rules.push(rule("lost", &["old", "nobody"]));
    let error = store.apply(wrong, false).await.unwrap_err();
    let fault = |list, index, kind| SetFault { list, index, kind };
    let expected = vec![
        fault("webhooks", 1, StoreErrorKind::NoSecretToKeep { pointers: vec!["/auth_config/secret".to_owned()] }),
        fault("rules", 2, StoreErrorKind::UnknownWebhooks { indexes: vec![1] }),
    ];
    assert_eq!(error.kind, StoreErrorKind::Set(expected));
    assert_eq!(counts(&store).await, [1, 1, 0]);
    assert_eq!(store.find::<NewRule>("kept").await.unwrap().unwrap(), kept);
    // Documents that were rolled back block nothing.
    assert_eq!(outcomes(&store.apply(set("s3cret"), false).await.unwrap()), [ApplyOutcome::Created; 3]);
    assert!(store.delete::<NewWebhook>("old").await.is_err(), "it is still used by the rule that was kept");
}

pub(in crate::store) async fn a_rehearsal_reports_the_outcomes_and_stores_nothing(store: Store) {
    let changes = store.changes();
    let rehearsed = store.apply(set("s3cret"), true).await.unwrap();
    assert_eq!(outcomes(&rehearsed), [ApplyOutcome::Created; 3]);
    assert_eq!(counts(&store).await, [0, 0, 0]);
    assert!(!changes.has_changed().unwrap());
    assert!(store.list::<NewRule>(first_page(10)).await.unwrap().items.is_empty());

    store.apply(set("s3cret"), false).await.unwrap();
    let before = store.find::<NewRule>("big").await.unwrap().unwrap();
    let mut other = set("s3cret");
    other.rules[0].priority = 7;
    let rehearsed = store.apply(other, true).await.unwrap();
    assert_eq!(outcomes(&rehearsed), [ApplyOutcome::Unchanged, ApplyOutcome::Updated, ApplyOutcome::Unchanged]);
    assert_eq!(rehearsed.rules[0].before.as_ref(), Some(&before));
    assert_eq!(rehearsed.rules[0].after.document.priority, 7);
    assert_eq!(store.find::<NewRule>("big").await.unwrap().unwrap(), before);
}
