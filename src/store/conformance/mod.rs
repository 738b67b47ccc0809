//! The conformance suite: what every engine of the store must do, tested through [`Store`] alone.
//!
//! An engine's tests call `conformance_suite!(open)`, where `open` returns a fresh store and a guard that keeps it
//! alive.

mod admin;
mod erasure;
mod keys;
mod set;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{json, value::RawValue};
use uuid::Uuid;

use super::*;

macro_rules! conformance_suite {
    ($open:path) => {
        $crate::store::conformance::conformance_suite!(@cases $open:
            documents_are_found_by_id_and_by_name,
            a_name_is_taken_once_and_freed_by_deletion,
            concurrent_changes_are_not_overwritten,
            concurrent_changes_all_apply,
            lists_are_paginated,
            a_cursor_of_another_list_is_refused,
            faults_add_up_until_the_document_changes,
            a_rule_keeps_webhooks_as_ids_and_blocks_their_deletion,
            masked_secrets_are_kept,
            url_and_header_secrets_are_kept_and_stay_with_their_host,
            the_backlog_of_a_disabled_webhook_is_limited,
            a_claim_is_shared_by_all_webhooks,
            a_claim_is_bounded_by_webhook_and_by_bytes,
            claimed_deliveries_can_be_released,
            a_disabled_webhook_says_why_until_it_is_enabled,
            a_set_is_created_then_found_unchanged_then_updated,
            a_set_with_a_fault_stores_nothing_and_names_every_fault,
            a_rehearsal_reports_the_outcomes_and_stores_nothing,
            keys_are_listed_without_the_key,
            keys_have_an_expiry_limits_and_a_last_use,
            key_changes_are_readable_from_any_version,
            concurrent_key_changes_get_distinct_versions,
            effects_are_recorded_once,
            effects_below_the_floor_are_merged,
            messages_that_reuse_lost_sequences_are_distinct,
            a_conflicting_batch_writes_nothing,
            deliveries_are_claimed_once_until_the_lease_ends,
            a_skipped_or_disabled_webhook_blocks_no_other,
            an_outcome_ends_or_postpones_a_delivery,
            only_failed_deliveries_are_retried_by_hand,
            failed_deliveries_of_a_period_are_retried_together,
            deleting_a_webhook_cancels_its_deliveries,
            deliveries_are_filtered_newest_first,
            outbox_messages_stay_until_removed,
            anomaly_states_are_replaced_and_deleted,
            anomaly_events_are_filtered_newest_first,
            changes_and_work_are_signalled,
            tokens_are_found_by_their_hash_until_they_are_revoked,
            changes_by_a_caller_are_recorded,
            records_contain_no_secrets,
            a_set_is_recorded_document_by_document,
            records_are_filtered_newest_first_and_deleted,
            changes_outside_the_store_are_recorded_first,
            only_the_persons_data_is_erased,
            a_delivery_in_flight_is_erased,
            many_rows_are_erased_in_steps,
            a_closed_store_returns_closed,
        );
    };
    (@cases $open:path: $($case:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            let (store, _guard) = $open().await;
            $crate::store::conformance::$case(store).await;
        })*
    };
}
pub(super) use conformance_suite;

pub(super) use admin::*;
pub(super) use erasure::*;
pub(super) use keys::*;
pub(super) use set::*;

const LEASE: Duration = Duration::from_secs(60);

pub(super) fn webhook(name: &str) -> NewWebhook {
    serde_json::from_value(json!({"name": name, "url": "http://127.0.0.1:1/"})).unwrap()
}

pub(super) fn rule(name: &str, webhooks: &[&str]) -> NewRule {
    serde_json::from_value(json!({"name": name, "actions": {"webhooks": webhooks}})).unwrap()
}

pub(super) fn anomaly(name: &str) -> NewAnomalyConfig {
    serde_json::from_value(json!({"name": name, "detection_type": "rate", "config": {"max_per_minute": 1}})).unwrap()
}

pub(super) fn delivery(webhook: Uuid, event_id: &str) -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: webhook,
        rule_id: Some(Uuid::from_u128(7)),
        anomaly_config_id: None,
        event_id: event_id.to_owned(),
        payload: RawValue::from_string(r#"{"n":1.50}"#.to_owned()).unwrap(),
        max_attempts: 5,
    }
}

/// Messages of a stream that has lost none.
pub(super) fn causes(sequences: &[u64]) -> Vec<Cause> {
    sequences.iter().map(|sequence| Cause::new(*sequence, *sequence as i64)).collect()
}

pub(super) async fn consumed(store: &Store, consumer: &str, sequences: &[u64]) -> Vec<u64> {
    let consumed = store.consumed(consumer, &causes(sequences)).await.unwrap();
    consumed.iter().map(|cause| cause.sequence).collect()
}

fn effects(sequences: &[u64], deliveries: Vec<NewDelivery>) -> Effects {
    Effects { consumer: "engine".to_owned(), causes: causes(sequences), deliveries, ..Effects::default() }
}

fn outcome(id: Uuid, status: DeliveryStatus, wait_ms: Option<i64>) -> DeliveryOutcome {
    let attempted_at_ms = Timestamp::now().as_millisecond();
    let error = (status != DeliveryStatus::Delivered).then(|| "refused".to_owned());
    DeliveryOutcome { id, status, attempts: 1, attempted_at_ms, wait_ms, status_code: Some(503), error }
}

pub(super) fn first_page(limit: usize) -> PageRequest {
    PageRequest { limit, cursor: None }
}

/// Creates a webhook and deliveries to it.
async fn with_deliveries(store: &Store, name: &str, sequences: &[u64]) -> (Uuid, Vec<Uuid>) {
    let webhook = store.create(webhook(name)).await.unwrap().id;
    let deliveries: Vec<_> = sequences.iter().map(|sequence| delivery(webhook, &sequence.to_string())).collect();
    let ids = deliveries.iter().map(|delivery| delivery.id).collect();
    store.record_effects(effects(sequences, deliveries)).await.unwrap();
    (webhook, ids)
}

pub(super) async fn documents_are_found_by_id_and_by_name(store: Store) {
    let created = store.create(anomaly("spike")).await.unwrap();
    assert_eq!(store.find::<NewAnomalyConfig>("spike").await.unwrap().unwrap(), created);
    assert_eq!(store.find::<NewAnomalyConfig>(&created.id.to_string()).await.unwrap().unwrap(), created);
    assert_eq!(store.find::<NewAnomalyConfig>("other").await.unwrap(), None);
    assert_eq!(store.find::<NewAnomalyConfig>(&Uuid::now_v7().to_string()).await.unwrap(), None);

    let renamed = store.replace("spike", anomaly("burst"), None).await.unwrap();
    assert_eq!((renamed.id, renamed.created_at), (created.id, created.created_at));
    assert_eq!(store.find::<NewAnomalyConfig>("spike").await.unwrap(), None);
    let missing = store.replace("spike", anomaly("x"), None).await.unwrap_err();
    assert_eq!(missing.kind, StoreErrorKind::NotFound);
    assert!(store.delete::<NewAnomalyConfig>("burst").await.unwrap());
    assert!(!store.delete::<NewAnomalyConfig>("burst").await.unwrap());
}

pub(super) async fn a_name_is_taken_once_and_freed_by_deletion(store: Store) {
    store.create(rule("a", &[])).await.unwrap();
    store.create(rule("b", &[])).await.unwrap();
    store.create(webhook("a")).await.unwrap();
    assert_eq!(store.create(rule("a", &[])).await.unwrap_err().kind, StoreErrorKind::NameTaken);
    assert_eq!(store.replace("b", rule("a", &[]), None).await.unwrap_err().kind, StoreErrorKind::NameTaken);
    assert_eq!(store.create(webhook("a")).await.unwrap_err().kind, StoreErrorKind::NameTaken);
    store.replace("a", rule("a", &[]), None).await.unwrap();
    assert!(store.delete::<NewRule>("a").await.unwrap());
    store.create(rule("a", &[])).await.unwrap();
}

pub(super) async fn concurrent_changes_are_not_overwritten(store: Store) {
    let read = store.create(rule("a", &[])).await.unwrap().updated_at;
    let written = store.replace("a", rule("b", &[]), Some(read)).await.unwrap();
    assert!(written.updated_at > read, "even within a millisecond");
    let stale = store.replace("b", rule("c", &[]), Some(read)).await.unwrap_err();
    assert_eq!(stale.kind, StoreErrorKind::Changed);
    assert_eq!(store.find::<NewRule>("b").await.unwrap().unwrap(), written);
    store.replace("b", rule("b", &[]), Some(written.updated_at)).await.unwrap();

    let read = store.create(webhook("ops")).await.unwrap();
    store.disable_webhook(read.id, "answered 410").await.unwrap();
    let stale = store.replace("ops", webhook("ops"), Some(read.updated_at)).await.unwrap_err();
    assert_eq!(stale.kind, StoreErrorKind::Changed);
    let disabled = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    assert!(!disabled.document.enabled && disabled.updated_at > read.updated_at);
    let enabled = store.replace("ops", webhook("ops"), Some(disabled.updated_at)).await.unwrap();
    assert!(enabled.document.enabled && enabled.updated_at > disabled.updated_at);

    let read = store.create(anomaly("spike")).await.unwrap().updated_at;
    store.replace("spike", anomaly("spike"), Some(read)).await.unwrap();
    let stale = store.replace("spike", anomaly("spike"), Some(read)).await.unwrap_err();
    assert_eq!(stale.kind, StoreErrorKind::Changed);
}

pub(super) async fn concurrent_changes_all_apply(store: Store) {
    store.create(rule("counted", &[])).await.unwrap();
    let counting = (0..4).map(|_| async {
        let mut counted = 0;
        while counted < 10 {
            let mut read = store.find::<NewRule>("counted").await.unwrap().unwrap();
            read.document.priority += 1;
            match store.replace("counted", read.document, Some(read.updated_at)).await {
                Ok(_) => counted += 1,
                Err(error) => assert_eq!(error.kind, StoreErrorKind::Changed),
            }
        }
    });
    futures_util::future::join_all(counting).await;
    assert_eq!(store.find::<NewRule>("counted").await.unwrap().unwrap().document.priority, 40);
}

pub(super) async fn lists_are_paginated(store: Store) {
    let mut expected = Vec::new();
    for n in 0..7 {
        expected.push(store.create(rule(&format!("rule {n}"), &[])).await.unwrap().id);
    }
    let (mut seen, mut cursor, mut pages) = (Vec::new(), None, 0);
    loop {
        let page = store.list::<NewRule>(PageRequest { limit: 3, cursor }).await.unwrap();
        seen.extend(page.items.iter().map(|rule| rule.id));
        pages += 1;
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen, pages), (expected, 3));
    assert_eq!(store.list::<NewRule>(first_page(7)).await.unwrap().next, None);
}

pub(super) async fn faults_add_up_until_the_document_changes(store: Store) {
    let stored = store.create(rule("failing", &[])).await.unwrap();
    assert_eq!(stored.faults, Faults::default());
    let config =
        serde_json::from_value(json!({"name": "a", "detection_type": "rate", "config": {"max_per_minute": 1}}));
    let anomaly = store.create::<NewAnomalyConfig>(config.unwrap()).await.unwrap();
    let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
    let fault = |id, as_of, count, ms, error: &str| DocumentFaults {
        id,
        as_of,
        faults: Faults { count, last_at: at(ms), last_error: Some(error.to_owned()) },
    };
    let first = fault(stored.id, stored.updated_at, 2, 1_000, "divides by zero");
    store.add_faults(vec![first, fault(anomaly.id, anomaly.updated_at, 1, 1_500, "costs")]).await.unwrap();
    let second = fault(stored.id, stored.updated_at, 3, 2_000, "no such key");
    store.add_faults(vec![second.clone(), fault(Uuid::now_v7(), stored.updated_at, 1, 1, "unknown")]).await.unwrap();
    let expected = Faults { count: 5, last_at: at(2_000), last_error: Some("no such key".to_owned()) };
    assert_eq!(store.find::<NewRule>("failing").await.unwrap().unwrap().faults, expected);
    let page = store.list::<NewRule>(PageRequest { limit: 10, cursor: None }).await.unwrap();
    assert_eq!(page.items[0].faults, expected);
    assert_eq!(store.find::<NewAnomalyConfig>("a").await.unwrap().unwrap().faults.count, 1);

    // A changed rule starts without faults; late reports about its old version are ignored.
    let changed = store.replace("failing", rule("failing", &[]), None).await.unwrap();
    store.add_faults(vec![second]).await.unwrap();
    assert_eq!((changed.faults, store.find::<NewRule>("failing").await.unwrap().unwrap().faults), Default::default());
    store.delete::<NewRule>("failing").await.unwrap();
}

pub(super) async fn a_cursor_of_another_list_is_refused(store: Store) {
    for name in ["a", "b"] {
        store.create(webhook(name)).await.unwrap();
    }
    let cursor = store.list::<NewWebhook>(first_page(1)).await.unwrap().next;
    assert!(cursor.is_some());
    let foreign = PageRequest { limit: 1, cursor };
    assert_eq!(store.list::<NewRule>(foreign.clone()).await.unwrap_err().kind, StoreErrorKind::InvalidCursor);
    let error = store.deliveries(DeliveryFilter::default(), foreign).await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::InvalidCursor);
    for text in ["", "%", "zzzz"] {
        let page = PageRequest { limit: 1, cursor: Some(text.to_owned()) };
        assert_eq!(store.list::<NewWebhook>(page).await.unwrap_err().kind, StoreErrorKind::InvalidCursor, "{text}");
    }
}

pub(super) async fn a_rule_keeps_webhooks_as_ids_and_blocks_their_deletion(store: Store) {
    let ops = store.create(webhook("ops")).await.unwrap().id.to_string();
    let created = store.create(rule("big", &["ops", &ops])).await.unwrap();
    assert_eq!(created.document.actions.webhooks, std::slice::from_ref(&ops));
    assert_eq!(store.find::<NewRule>("big").await.unwrap().unwrap(), created);

    let unknown = store.create(rule("bad", &["ops", "nobody", "no one"])).await.unwrap_err();
    assert_eq!(unknown.kind, StoreErrorKind::UnknownWebhooks { indexes: vec![1, 2] });
    assert_eq!(store.find::<NewRule>("bad").await.unwrap(), None);

    let in_use = store.delete::<NewWebhook>("ops").await.unwrap_err();
    assert_eq!(in_use.kind, StoreErrorKind::InUse(vec!["rule big".to_owned()]));
    store.replace("ops", webhook("renamed"), None).await.unwrap();
    store.replace("big", rule("big", &[]), None).await.unwrap();
    assert!(store.delete::<NewWebhook>("renamed").await.unwrap());
}

pub(super) async fn masked_secrets_are_kept(store: Store) {
    let auth = |secret: &str| Auth::Hmac { secret: secret.to_owned(), header: "X".to_owned() };
    let with = |auth: Auth| NewWebhook { auth, ..webhook("ops") };
    let masked = store.create(with(auth("***"))).await.unwrap_err();
    assert_eq!(masked.kind, StoreErrorKind::NoSecretToKeep { pointers: vec!["/auth_config/secret".to_owned()] });

    store.create(with(auth("s3cret"))).await.unwrap();
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap().document.auth, auth("s3cret"));
    store.replace("ops", with(auth("***")), None).await.unwrap();
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap().document.auth, auth("s3cret"));
    let other = store.replace("ops", with(Auth::Bearer { token: "***".to_owned() }), None).await.unwrap_err();
    assert_eq!(other.kind, StoreErrorKind::NoSecretToKeep { pointers: vec!["/auth_config/token".to_owned()] });
    store.replace("ops", with(auth("new")), None).await.unwrap();
    assert_eq!(store.list::<NewWebhook>(first_page(10)).await.unwrap().items[0].document.auth, auth("new"));
}

pub(super) async fn url_and_header_secrets_are_kept_and_stay_with_their_host(store: Store) {
    let document: NewWebhook = serde_json::from_value(json!({
        "name": "ops", "url": "https://ops.example.com/hook?token=hunter2", "int64_as_string": true,
        "headers": {"Authorization": "Bearer hunter2", "X-Env": "prod"},
    }))
    .unwrap();
    let created = store.create::<NewWebhook>(document.clone()).await.unwrap();
    assert_eq!(created.document, document);
    let stored = async || store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    assert_eq!(stored().await, created);
    assert_eq!(store.list::<NewWebhook>(first_page(10)).await.unwrap().items, [created]);
    let masked = |change: fn(&mut serde_json::Value)| {
        let mut shown = serde_json::to_value(&document).unwrap();
        assert!(!shown.to_string().contains("hunter2"), "{shown}");
        change(&mut shown);
        serde_json::from_value::<NewWebhook>(shown).unwrap()
    };
    store.replace::<NewWebhook>("ops", masked(|_| {}), None).await.unwrap();
    assert_eq!(stored().await.document, document);
    let moved = masked(|shown| shown["url"] = json!("https://evil.example.com/hook"));
    let refused = store.replace::<NewWebhook>("ops", moved, None).await.unwrap_err();
    let pointers = vec!["/headers/Authorization".to_owned()];
    assert_eq!(refused.kind, StoreErrorKind::SecretOfAnotherHost { pointers });
    assert_eq!(stored().await.document, document);
    let moved = masked(|shown| {
        shown["url"] = json!("https://new.example.com/hook");
        shown["headers"] = json!({"X-Env": "***"});
    });
    // A shown value is not secret, but it was sent as a secret.
    assert!(store.replace::<NewWebhook>("ops", moved, None).await.is_err());
    let plain = masked(|shown| {
        shown["url"] = json!("https://new.example.com/hook");
        shown["headers"] = json!({"X-Env": "prod"});
    });
    store.replace::<NewWebhook>("ops", plain.clone(), None).await.unwrap();
    assert_eq!(stored().await.document, plain);
}

pub(super) async fn the_backlog_of_a_disabled_webhook_is_limited(store: Store) {
    let (ops, first) = with_deliveries(&store, "ops", &[1]).await;
    let (other, _) = with_deliveries(&store, "other", &[2]).await;
    store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[other])).await.unwrap();
    store.disable_webhook(ops, "answered 410").await.unwrap();
    store.release_deliveries(first.clone()).await.unwrap();
    let mut ids = first;
    for sequence in 3..=6 {
        let deliveries = vec![delivery(ops, "a"), delivery(other, "b")];
        ids.push(deliveries[0].id);
        let batch = Effects { backlog_max: Some(3), ..effects(&[sequence], deliveries) };
        store.record_effects(batch).await.unwrap();
    }
    let of_ops = async |status| {
        let filter = DeliveryFilter { webhook_id: Some(ops), status: Some(status), ..DeliveryFilter::default() };
        let found = store.deliveries(filter, first_page(100)).await.unwrap().items;
        found.iter().rev().map(|delivery| delivery.id).collect::<Vec<_>>()
    };
    assert_eq!(of_ops(DeliveryStatus::Pending).await, ids[2..], "the newest three wait");
    let lost = |deliveries| vec![AbandonedDeliveries { webhook: "ops".to_owned(), deliveries }];
    assert_eq!(store.abandoned_deliveries().await.unwrap(), lost(2));
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap().deliveries_given_up, 2);
    assert_eq!(store.status().await.unwrap().deliveries_given_up, 2);
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(100, LEASE, &[])).await.unwrap();
    assert!(claimed.len() == 5 && claimed.iter().all(|delivery| delivery.webhook_id == other), "{claimed:?}");

    let bounds = |deliveries_max, age_max| BacklogLimits { deliveries_max, age_max };
    assert_eq!(store.trim_backlog(bounds(3, Duration::from_secs(3_600))).await.unwrap(), 0);
    assert_eq!(store.trim_backlog(bounds(2, Duration::from_secs(3_600))).await.unwrap(), 1);
    store.replace("ops", webhook("ops"), None).await.unwrap();
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(1, LEASE, &[])).await.unwrap();
    assert_eq!(claimed[0].id, ids[3], "the oldest first");
    assert_eq!(
        store.find::<NewWebhook>("ops").await.unwrap().unwrap().deliveries_given_up,
        3,
        "counted until it is disabled again"
    );
    assert!(store.abandoned_deliveries().await.unwrap().is_empty());

    let mut disabled = webhook("ops");
    disabled.enabled = false;
    store.replace::<NewWebhook>("ops", disabled, None).await.unwrap();
    assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap().deliveries_given_up, 0);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(store.trim_backlog(bounds(100, Duration::from_millis(10))).await.unwrap(), 1);
    // The delivery in flight is not touched.
    assert_eq!(of_ops(DeliveryStatus::InProgress).await, ids[3..4]);
    let old = store.delivery(ids[4]).await.unwrap().unwrap();
    assert_eq!((old.status, old.attempts), (DeliveryStatus::Cancelled, 0));
    assert!(old.last_error.unwrap().contains("webhook_disabled_max_age"));
    assert_eq!(store.abandoned_deliveries().await.unwrap(), lost(1));
    assert_eq!(store.retry_delivery(ids[4]).await.unwrap().status, DeliveryStatus::Pending);
}

pub(super) async fn a_claim_is_shared_by_all_webhooks(store: Store) {
    let mut sequence = 0;
    for name in 0..6 {
        let sequences: Vec<u64> = (0..20).map(|n| sequence + n + 1).collect();
        with_deliveries(&store, &format!("dead {name}"), &sequences).await;
        sequence += 20;
    }
    let (alive, ids) = with_deliveries(&store, "alive", &[1_000, 1_001]).await;
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(14, LEASE, &[])).await.unwrap();
    let of_alive: Vec<_> = claimed.iter().filter(|claimed| claimed.webhook_id == alive).map(|d| d.id).collect();
    assert_eq!((claimed.len(), of_alive), (14, ids));
}

pub(super) async fn a_claim_is_bounded_by_webhook_and_by_bytes(store: Store) {
    let (a, _) = with_deliveries(&store, "a", &[1, 2, 3, 4]).await;
    let (b, _) = with_deliveries(&store, "b", &[5, 6, 7, 8]).await;
    let limits = |a_quota, payload_bytes| ClaimLimits {
        payload_bytes,
        per_webhook: 2,
        quotas: [(a, a_quota)].into(),
        ..ClaimLimits::up_to(100, LEASE, &[])
    };
    let count = async |limits: ClaimLimits| {
        let claimed = store.claim_due_deliveries(limits).await.unwrap();
        let of = |id| claimed.iter().filter(|claimed| claimed.webhook_id == id).count();
        (of(a), of(b))
    };
    // Each has ten bytes.
    assert_eq!(count(limits(0, 0)).await, (0, 1), "the first is taken whatever its size");
    assert_eq!(count(limits(1, 1_000)).await, (1, 2));
    assert_eq!(count(limits(3, 25)).await, (2, 1), "the one that exceeds the limit is the last");
    assert_eq!(count(limits(3, 1_000)).await, (1, 0));
    assert_eq!(store.next_due_ms(&[a, b]).await.unwrap(), None);
}

pub(super) async fn claimed_deliveries_can_be_released(store: Store) {
    let (_, ids) = with_deliveries(&store, "ops", &[1, 2]).await;
    store.claim_due_deliveries(ClaimLimits::up_to(2, LEASE, &[])).await.unwrap();
    store.finish_deliveries(vec![outcome(ids[1], DeliveryStatus::Delivered, None)]).await.unwrap();
    store.release_deliveries(ids.clone()).await.unwrap();
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(2, LEASE, &[])).await.unwrap();
    assert_eq!(claimed.iter().map(|claimed| (claimed.id, claimed.attempts)).collect::<Vec<_>>(), [(ids[0], 0)]);
}

pub(super) async fn a_disabled_webhook_says_why_until_it_is_enabled(store: Store) {
    let id = store.create(webhook("ops")).await.unwrap().id;
    store.disable_webhook(id, "answered 410").await.unwrap();
    let disabled = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
    assert_eq!((disabled.document.enabled, disabled.disabled_reason.as_deref()), (false, Some("answered 410")));
    let still = store.replace::<NewWebhook>("ops", disabled.document, None).await.unwrap();
    assert_eq!(still.disabled_reason.as_deref(), Some("answered 410"));
    let enabled = store.replace("ops", webhook("ops"), None).await.unwrap();
    assert_eq!((enabled.document.enabled, enabled.disabled_reason), (true, None));
}

pub(super) async fn effects_are_recorded_once(store: Store) {
    let (webhook, ids) = with_deliveries(&store, "ops", &[3, 5]).await;
    assert_eq!(consumed(&store, "engine", &[1, 3, 4, 5, 9]).await, [3, 5]);
    assert!(consumed(&store, "other", &[3]).await.is_empty());
    assert!(consumed(&store, "engine", &[]).await.is_empty());

    let again = store.record_effects(effects(&[4, 5], vec![delivery(webhook, "4")])).await.unwrap();
    assert_eq!(again, RecordOutcome::Conflict { consumed: causes(&[5]), states: Vec::new() });
    assert!(consumed(&store, "engine", &[4]).await.is_empty());
    let all = store.deliveries(DeliveryFilter::default(), first_page(10)).await.unwrap();
    assert_eq!(all.items.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), [ids[1], ids[0]]);
    assert_eq!(all.items[0].payload.get(), r#"{"n":1.50}"#);
}

/// Every message up to a sequence is acknowledged, as known once a message with this time was stored.
fn acknowledged(sequence: u64, published_at_ms: i64) -> Option<Cause> {
    Some(Cause::new(sequence, published_at_ms))
}

pub(super) async fn effects_below_the_floor_are_merged(store: Store) {
    store.record_effects(effects(&[1, 2, 4], Vec::new())).await.unwrap();
    let next = Effects { acknowledged: acknowledged(3, 4), ..effects(&[5], Vec::new()) };
    store.record_effects(next).await.unwrap();
    // They count as consumed too, even those without effects: a process that still has them in flight was overtaken.
    assert_eq!(consumed(&store, "engine", &[1, 2, 4, 5, 6]).await, [1, 2, 4, 5]);
    let without_effects = Cause::new(3, 2);
    assert_eq!(store.consumed("engine", &[without_effects]).await.unwrap(), [without_effects]);
    let overtaken = store.record_effects(effects(&[2, 6], Vec::new())).await.unwrap();
    assert_eq!(overtaken, RecordOutcome::Conflict { consumed: causes(&[2]), states: Vec::new() });
    let lower = Effects { acknowledged: acknowledged(1, 5), ..effects(&[7], Vec::new()) };
    assert_eq!(store.record_effects(lower).await.unwrap(), RecordOutcome::Committed);
    assert_eq!(consumed(&store, "engine", &[2, 6, 7]).await, [2, 7]);
    let at_last = Effects { acknowledged: acknowledged(7, 7), ..effects(&[8], Vec::new()) };
    store.record_effects(at_last).await.unwrap();
    assert_eq!(consumed(&store, "engine", &[1, 2, 3, 4, 5, 6, 7, 8, 9]).await, [1, 2, 3, 4, 5, 6, 7, 8]);
}

/// The stream keeps its name, loses the messages after its 20th, and gives their sequences to new ones.
pub(super) async fn messages_that_reuse_lost_sequences_are_distinct(store: Store) {
    let at = |sequences: std::ops::RangeInclusive<u64>, time: i64| -> Vec<Cause> {
        sequences.map(|sequence| Cause::new(sequence, time + sequence as i64)).collect()
    };
    let record = |causes: Vec<Cause>, acknowledged| {
        store.record_effects(Effects { causes, acknowledged, ..effects(&[], Vec::new()) })
    };
    let committed = RecordOutcome::Committed;
    // Records up to 30 are merged; later ones are kept.
    assert_eq!(record(at(1..=30, 0), None).await.unwrap(), committed);
    assert_eq!(record(at(31..=40, 0), acknowledged(30, 30)).await.unwrap(), committed);
    let (first, second) = (at(21..=35, 1_000), at(36..=60, 1_000));
    assert_eq!(store.consumed("engine", &first).await.unwrap(), []);
    // This floor dates from before the loss and covers none of these.
    assert_eq!(record(first[5..].to_vec(), acknowledged(40, 40)).await.unwrap(), committed);
    assert_eq!(store.consumed("engine", &first).await.unwrap(), first[5..]);
    assert_eq!(record(first[..5].to_vec(), None).await.unwrap(), committed);
    assert_eq!(record(second.clone(), acknowledged(30, 1_035)).await.unwrap(), committed);
    // Each is recorded once, whoever is late and whatever took its place.
    for known in [at(1..=40, 0), first, second.clone()] {
        assert_eq!(store.consumed("engine", &known).await.unwrap(), known);
        let refused = record(known.clone(), None).await.unwrap();
        assert_eq!(refused, RecordOutcome::Conflict { consumed: known, states: Vec::new() });
    }
    // An old copy of the whole stream is restored; the second loss behaves like the first.
    let third = at(2..=70, 2_000);
    assert_eq!(record(third[..9].to_vec(), acknowledged(60, 1_060)).await.unwrap(), committed);
    assert_eq!(record(third[9..].to_vec(), acknowledged(10, 2_010)).await.unwrap(), committed);
    assert_eq!(record(at(71..=71, 2_000), acknowledged(70, 2_070)).await.unwrap(), committed);
    for known in [at(1..=40, 0), second, third] {
        assert_eq!(store.consumed("engine", &known).await.unwrap(), known);
    }
    assert_eq!(store.consumed("engine", &at(1..=72, 3_000)).await.unwrap(), []);
}

/// Records as written by the version before causes had times.
pub(super) const EARLIER: &str = "INSERT INTO consumer_floors (consumer, floor) VALUES ('engine', 10);
     INSERT INTO consumed (consumer, sequence) VALUES ('engine', 12), ('engine', 15)";

pub(super) async fn earlier_records_are_respected(store: Store) {
    assert_eq!(consumed(&store, "engine", &[9, 10, 11, 12, 13, 15]).await, [9, 10, 12, 15]);
    let refused = store.record_effects(effects(&[10, 11, 12], Vec::new())).await.unwrap();
    assert_eq!(refused, RecordOutcome::Conflict { consumed: causes(&[10, 12]), states: Vec::new() });
    // Acknowledged, with nothing newer.
    let next = Effects { acknowledged: acknowledged(12, 0), ..effects(&[16], Vec::new()) };
    store.record_effects(next).await.unwrap();
    assert_eq!(consumed(&store, "engine", &[9, 12, 14, 15, 16, 17]).await, [9, 12, 15, 16]);
    let next = Effects { acknowledged: acknowledged(16, 16), ..effects(&[17], Vec::new()) };
    store.record_effects(next).await.unwrap();
    assert_eq!(consumed(&store, "engine", &[9, 12, 14, 15, 16, 17]).await, [9, 12, 14, 15, 16, 17]);
    assert_eq!(store.consumed("engine", &[Cause::new(9, 1_000), Cause::new(12, 1_000)]).await.unwrap(), []);
}

pub(super) async fn a_conflicting_batch_writes_nothing(store: Store) {
    let (webhook, _) = with_deliveries(&store, "ops", &[1]).await;
    // Two concurrent batches share a sequence, in the same group or not: only one of them is stored, as a whole.
    let batch = |own: u64| {
        let message = OutboxMessage { id: Uuid::now_v7(), subject: "s".to_owned(), payload: Vec::new() };
        Effects { outbox: vec![message], ..effects(&[own, 20], vec![delivery(webhook, &own.to_string())]) }
    };
    let (first, second) = tokio::join!(store.record_effects(batch(10)), store.record_effects(batch(11)));
    let committed = |recorded| recorded == RecordOutcome::Committed;
    let (first, second) = (committed(first.unwrap()), committed(second.unwrap()));
    assert!(first != second);
    let stored = if first { 10 } else { 11 };
    assert_eq!(consumed(&store, "engine", &[10, 11, 20]).await, [stored, 20]);
    assert_eq!(store.outbox(10).await.unwrap().len(), 1);
    assert_eq!(store.deliveries(DeliveryFilter::default(), first_page(10)).await.unwrap().items.len(), 2);
}

pub(super) async fn deliveries_are_claimed_once_until_the_lease_ends(store: Store) {
    let (_, ids) = with_deliveries(&store, "ops", &[1, 2, 3]).await;
    assert!(store.next_due_ms(&[]).await.unwrap().unwrap() <= Timestamp::now().as_millisecond());
    let short = Duration::from_millis(50);
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(2, short, &[])).await.unwrap();
    assert_eq!(claimed.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ids[..2]);
    assert!(claimed.iter().all(|delivery| delivery.status == DeliveryStatus::InProgress));
    let rest = store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    assert_eq!(rest.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ids[2..]);

    tokio::time::sleep(short).await;
    let again = store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    assert_eq!(again.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ids[..2]);
    assert!(store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap().is_empty());
    let next = store.next_due_ms(&[]).await.unwrap().unwrap();
    assert!(next > Timestamp::now().as_millisecond() + 30_000, "{next}");
}

pub(super) async fn a_skipped_or_disabled_webhook_blocks_no_other(store: Store) {
    let (dead, _) = with_deliveries(&store, "dead", &(1..=50).collect::<Vec<_>>()).await;
    let (gone, _) = with_deliveries(&store, "gone", &(51..=100).collect::<Vec<_>>()).await;
    let (_, ids) = with_deliveries(&store, "alive", &[101]).await;
    store.disable_webhook(gone, "answered 410").await.unwrap();
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[dead])).await.unwrap();
    assert_eq!(claimed.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ids);
    assert!(store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[dead])).await.unwrap().is_empty());
    assert_eq!(store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap().len(), 10);
    store.replace("gone", webhook("gone"), None).await.unwrap();
    assert_eq!(store.claim_due_deliveries(ClaimLimits::up_to(100, LEASE, &[dead])).await.unwrap().len(), 50);
}

pub(super) async fn an_outcome_ends_or_postpones_a_delivery(store: Store) {
    let (_, ids) = with_deliveries(&store, "ops", &[1, 2]).await;
    store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    let later = Timestamp::now().as_millisecond() + 100_000;
    let outcomes = vec![
        outcome(ids[0], DeliveryStatus::Delivered, None),
        outcome(ids[1], DeliveryStatus::Pending, Some(100_000)),
        outcome(Uuid::now_v7(), DeliveryStatus::Delivered, None),
    ];
    store.finish_deliveries(outcomes).await.unwrap();
    let delivered = store.delivery(ids[0]).await.unwrap().unwrap();
    assert_eq!((delivered.status, delivered.attempts), (DeliveryStatus::Delivered, 1));
    assert!(delivered.delivered_at.is_some() && delivered.next_attempt_at.is_none());
    let pending = store.delivery(ids[1]).await.unwrap().unwrap();
    let about_then = |at: i64| (at - later).abs() < 1_000;
    assert!(about_then(pending.next_attempt_at.unwrap().as_millisecond()), "{pending:?}");
    assert_eq!((pending.last_status_code, pending.last_error.as_deref()), (Some(503), Some("refused")));
    assert!(pending.last_attempt_at.is_some() && pending.delivered_at.is_none());
    assert!(about_then(store.next_due_ms(&[]).await.unwrap().unwrap()));
    assert!(store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap().is_empty());

    // A late outcome of an earlier attempt does not resend a delivered one.
    store.finish_deliveries(vec![outcome(ids[0], DeliveryStatus::Pending, Some(0))]).await.unwrap();
    assert_eq!(store.delivery(ids[0]).await.unwrap().unwrap().status, DeliveryStatus::Delivered);
}

pub(super) async fn only_failed_deliveries_are_retried_by_hand(store: Store) {
    let (_, ids) = with_deliveries(&store, "ops", &[1, 2, 3]).await;
    store.claim_due_deliveries(ClaimLimits::up_to(2, LEASE, &[])).await.unwrap();
    let outcomes =
        vec![outcome(ids[0], DeliveryStatus::Delivered, None), outcome(ids[1], DeliveryStatus::DeadLetter, None)];
    store.finish_deliveries(outcomes).await.unwrap();
    assert_eq!(store.status().await.unwrap().deliveries_dead, 1);
    for id in [ids[0], ids[2]] {
        assert_eq!(store.retry_delivery(id).await.unwrap_err().kind, StoreErrorKind::NotRetryable);
    }
    assert_eq!(store.retry_delivery(Uuid::now_v7()).await.unwrap_err().kind, StoreErrorKind::NotFound);
    let retried = store.retry_delivery(ids[1]).await.unwrap();
    assert_eq!((retried.status, retried.attempts), (DeliveryStatus::Pending, 0));
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    assert!(claimed.iter().any(|delivery| delivery.id == ids[1]));
}

pub(super) async fn failed_deliveries_of_a_period_are_retried_together(store: Store) {
    let (ops, ids) = with_deliveries(&store, "ops", &[1, 2, 3]).await;
    let (_, gone) = with_deliveries(&store, "gone", &[4]).await;
    let ended = [DeliveryStatus::Delivered, DeliveryStatus::DeadLetter, DeliveryStatus::Failed];
    store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    let outcomes = ids.iter().zip(ended).map(|(id, status)| outcome(*id, status, None));
    store.finish_deliveries(outcomes.collect()).await.unwrap();
    store.finish_deliveries(vec![outcome(gone[0], DeliveryStatus::DeadLetter, None)]).await.unwrap();
    assert!(store.delete::<NewWebhook>("gone").await.unwrap());

    let created = store.delivery(ids[0]).await.unwrap().unwrap().created_at.as_millisecond();
    let all = RetryFilter {
        since_ms: created - 60_000,
        until_ms: created + 60_000,
        statuses: vec![DeliveryStatus::Failed, DeliveryStatus::DeadLetter, DeliveryStatus::Delivered],
        webhook_id: None,
        rule_id: None,
    };
    let retried = async |filter: &RetryFilter| store.retry_deliveries(filter.clone()).await.unwrap();
    assert_eq!(retried(&RetryFilter { until_ms: created - 30_000, ..all.clone() }).await, 0);
    assert_eq!(retried(&RetryFilter { since_ms: created + 30_000, ..all.clone() }).await, 0);
    assert_eq!(retried(&RetryFilter { webhook_id: Some(Uuid::now_v7()), ..all.clone() }).await, 0);
    assert_eq!(retried(&RetryFilter { rule_id: Some(Uuid::now_v7()), ..all.clone() }).await, 0);
    assert_eq!(retried(&RetryFilter { statuses: vec![DeliveryStatus::Delivered], ..all.clone() }).await, 0);
    let failed = RetryFilter { statuses: vec![DeliveryStatus::Failed], webhook_id: Some(ops), ..all.clone() };
    assert_eq!(retried(&failed).await, 1);
    assert_eq!(retried(&RetryFilter { rule_id: Some(Uuid::from_u128(7)), ..all.clone() }).await, 1);
    assert_eq!(retried(&all).await, 0, "each once, and not what was for a webhook that is gone");
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(10, LEASE, &[])).await.unwrap();
    let mut claimed: Vec<_> = claimed.iter().map(|delivery| (delivery.id, delivery.attempts)).collect();
    claimed.sort_unstable();
    assert_eq!(claimed, [(ids[1], 0), (ids[2], 0)]);
}

pub(super) async fn deleting_a_webhook_cancels_its_deliveries(store: Store) {
    let (webhook, ids) = with_deliveries(&store, "ops", &[1, 2]).await;
    store.claim_due_deliveries(ClaimLimits::up_to(1, LEASE, &[])).await.unwrap();
    assert!(store.delete::<NewWebhook>("ops").await.unwrap());
    for id in &ids {
        assert_eq!(store.delivery(*id).await.unwrap().unwrap().status, DeliveryStatus::Cancelled);
    }
    store.finish_deliveries(vec![outcome(ids[0], DeliveryStatus::Pending, Some(0))]).await.unwrap();
    assert_eq!(store.delivery(ids[0]).await.unwrap().unwrap().status, DeliveryStatus::Cancelled);
    assert_eq!(store.next_due_ms(&[]).await.unwrap(), None);
    assert_eq!(store.retry_delivery(ids[1]).await.unwrap_err().kind, StoreErrorKind::NotRetryable);

    let late = delivery(webhook, "3");
    let id = late.id;
    store.record_effects(effects(&[3], vec![late])).await.unwrap();
    assert_eq!(store.delivery(id).await.unwrap().unwrap().status, DeliveryStatus::Cancelled);
}

pub(super) async fn deliveries_are_filtered_newest_first(store: Store) {
    let (one, ones) = with_deliveries(&store, "one", &[1, 2, 3]).await;
    let (_, twos) = with_deliveries(&store, "two", &[4]).await;
    let list = async |filter: DeliveryFilter| -> Vec<Uuid> {
        let (mut ids, mut cursor) = (Vec::new(), None);
        loop {
            let page = store.deliveries(filter.clone(), PageRequest { limit: 2, cursor }).await.unwrap();
            ids.extend(page.items.iter().map(|delivery| delivery.id));
            cursor = page.next;
            if cursor.is_none() {
                return ids;
            }
        }
    };
    let any = DeliveryFilter::default;
    assert_eq!(list(any()).await, [twos[0], ones[2], ones[1], ones[0]]);
    assert_eq!(list(DeliveryFilter { webhook_id: Some(one), ..any() }).await, [ones[2], ones[1], ones[0]]);
    assert_eq!(list(DeliveryFilter { event_id: Some("2".to_owned()), ..any() }).await, [ones[1]]);
    assert_eq!(list(DeliveryFilter { rule_id: Some(Uuid::from_u128(7)), ..any() }).await.len(), 4);
    assert!(list(DeliveryFilter { rule_id: Some(Uuid::from_u128(8)), ..any() }).await.is_empty());
    let delivered = DeliveryFilter { status: Some(DeliveryStatus::Delivered), webhook_id: Some(one), ..any() };
    assert!(list(delivered.clone()).await.is_empty());
    store.finish_deliveries(vec![outcome(ones[0], DeliveryStatus::Delivered, None)]).await.unwrap();
    assert_eq!(list(delivered).await, [ones[0]]);
}

pub(super) async fn outbox_messages_stay_until_removed(store: Store) {
    let message =
        |n: u8| OutboxMessage { id: Uuid::now_v7(), subject: format!("alerts.{n}"), payload: vec![n, 0, 255] };
    let (first, second) = (message(1), message(2));
    let outbox = vec![first.clone(), second.clone()];
    store.record_effects(Effects { outbox, ..effects(&[1], Vec::new()) }).await.unwrap();
    let owed = store.outbox(10).await.unwrap();
    assert_eq!(owed.iter().map(|message| message.id).collect::<Vec<_>>(), [first.id, second.id]);
    assert_eq!((owed[1].subject.as_str(), owed[1].payload.as_slice()), ("alerts.2", &[2, 0, 255][..]));
    assert_eq!(store.outbox(1).await.unwrap().len(), 1);
    store.remove_from_outbox(&[first.id]).await.unwrap();
    assert_eq!(store.outbox(10).await.unwrap()[0].id, second.id);
}

pub(super) async fn anomaly_states_are_replaced_and_deleted(store: Store) {
    let config = store.create(anomaly("spike")).await.unwrap().id;
    let state = |group: &str, count: u64, updated_at_ms: i64| AnomalyState {
        version: count,
        config_id: config,
        app_id: "shop".to_owned(),
        group: group.to_owned(),
        window: json!({"count": count}),
        cooldown_until_ms: 5,
        updated_at_ms,
    };
    let record = |sequence: u64, anomaly_states: Vec<AnomalyState>| {
        store.record_effects(Effects { anomaly_states, ..effects(&[sequence], Vec::new()) })
    };
    // A state written over a version is read back with the next one.
    let stored = |written: AnomalyState| AnomalyState { version: written.version + 1, ..written };
    let committed = RecordOutcome::Committed;
    assert_eq!(record(1, vec![state("a", 0, 100), state("b", 0, 100)]).await.unwrap(), committed);
    assert_eq!(record(2, vec![state("a", 1, 200)]).await.unwrap(), committed);
    let (a, b) = (stored(state("a", 1, 200)), stored(state("b", 0, 100)));
    assert_eq!(store.anomaly_states(&[config, Uuid::now_v7()]).await.unwrap(), [a.clone(), b.clone()]);

    // Writing over an outdated or unknown version stores nothing of the batch.
    for (wrong, found) in [("a", vec![b.clone(), a.clone()]), ("new", vec![b.clone()])] {
        let refused = record(3, vec![state("b", 1, 300), state(wrong, 1, 300)]).await.unwrap();
        assert_eq!(refused, RecordOutcome::Conflict { consumed: Vec::new(), states: found });
    }
    assert!(consumed(&store, "engine", &[3]).await.is_empty());
    assert_eq!(store.anomaly_states(&[config]).await.unwrap(), [a.clone(), b]);

    assert_eq!(store.delete_expired(150).await.unwrap(), 1);
    assert_eq!(store.anomaly_states(&[config]).await.unwrap(), [a]);
    store.delete::<NewAnomalyConfig>("spike").await.unwrap();
    assert!(store.anomaly_states(&[config]).await.unwrap().is_empty());
}

pub(super) async fn anomaly_events_are_filtered_newest_first(store: Store) {
    let (one, two) = (Uuid::now_v7(), Uuid::now_v7());
    let event = |config: Uuid, app_id: &str, detected_ms: i64| AnomalyEvent {
        id: Uuid::now_v7(),
        anomaly_config_id: config,
        anomaly_config_name: "spike".to_owned(),
        detection_type: Detection::Rate,
        app_id: app_id.to_owned(),
        event_category: "commerce".to_owned(),
        event_type: "purchase_complete".to_owned(),
        event_id: "e".to_owned(),
        device_id: "d".to_owned(),
        user_id: "u".to_owned(),
        timestamp_ms: detected_ms,
        details: json!({"value": 3, "max_per_minute": 2, "group": null}),
        detected_at: Timestamp::from_millisecond(detected_ms).unwrap(),
    };
    let now = Timestamp::now().as_millisecond();
    let events = vec![event(one, "shop", now), event(two, "shop", now + 1), event(one, "game", now + 2)];
    store.record_effects(Effects { anomaly_events: events.clone(), ..effects(&[1], Vec::new()) }).await.unwrap();
    let list = async |config, app, since| store.anomaly_events(config, app, since, first_page(10)).await.unwrap().items;
    assert_eq!(list(None, None, None).await, [events[2].clone(), events[1].clone(), events[0].clone()]);
    assert_eq!(list(Some(one), Some("shop"), None).await, [events[0].clone()]);
    assert_eq!(list(None, None, Some(now + 2)).await, [events[2].clone()]);
}

pub(super) async fn changes_and_work_are_signalled(store: Store) {
    let (changes, mut work) = (store.changes(), store.work());
    // Once a rule's creation is confirmed, it applies to the next event.
    store.create(rule("a", &[])).await.unwrap();
    assert!(changes.has_changed().unwrap());
    assert!(!work.has_changed().unwrap());

    let (_, ids) = with_deliveries(&store, "ops", &[1]).await;
    signalled(&mut work).await;
    store.claim_due_deliveries(ClaimLimits::up_to(1, LEASE, &[])).await.unwrap();
    store.record_effects(effects(&[2], Vec::new())).await.unwrap();
    store.finish_deliveries(vec![outcome(ids[0], DeliveryStatus::Failed, None)]).await.unwrap();
    assert!(!work.has_changed().unwrap());
    store.retry_delivery(ids[0]).await.unwrap();
    signalled(&mut work).await;
}

/// Waits for a notification, where the engine uses them.
pub(super) async fn signalled(signal: &mut tokio::sync::watch::Receiver<u64>) {
    tokio::time::timeout(Duration::from_secs(10), signal.changed()).await.expect("signalled").unwrap();
}

pub(super) async fn a_closed_store_returns_closed(store: Store) {
    store.create(rule("a", &[])).await.unwrap();
    store.close().await;
    assert_eq!(store.create(rule("b", &[])).await.unwrap_err().kind, StoreErrorKind::Closed);
    assert_eq!(store.find::<NewRule>("a").await.unwrap_err().kind, StoreErrorKind::Closed);
    store.close().await;
}
