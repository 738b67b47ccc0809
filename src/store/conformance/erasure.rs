//! The part of the conformance suite for erasing a person's data.

use serde_json::{Value, json, value::to_raw_value};

use super::*;
use crate::event::{Person, PersonId};

/// Longer than any of it takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn delivery(payload: &Value) -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: Uuid::now_v7(),
        rule_id: Some(Uuid::from_u128(7)),
        anomaly_config_id: None,
        event_id: "e".to_owned(),
        payload: to_raw_value(payload).unwrap(),
        max_attempts: 5,
    }
}

/// The payload that a rule sends.
fn of_rule(app: &str, device: &str, user: &str) -> Value {
    json!({"app_id": app, "device_id": device, "event": {"app_id": app, "device_id": device, "user_id": user}})
}

fn anomaly(app: &str, device: &str, user: &str, group: &Value) -> AnomalyEvent {
    AnomalyEvent {
        id: Uuid::now_v7(),
        anomaly_config_id: Uuid::from_u128(1),
        anomaly_config_name: "spike".to_owned(),
        detection_type: Detection::Rate,
        app_id: app.to_owned(),
        event_category: "commerce".to_owned(),
        event_type: "purchase_complete".to_owned(),
        event_id: "e".to_owned(),
        device_id: device.to_owned(),
        user_id: user.to_owned(),
        timestamp_ms: 1,
        details: json!({"value": 3, "max_per_minute": 2, "group": group}),
        detected_at: Timestamp::now(),
    }
}

fn state(app: &str, group: &str) -> AnomalyState {
    AnomalyState {
        version: 0,
        config_id: Uuid::from_u128(1),
        app_id: app.to_owned(),
        group: group.to_owned(),
        window: json!({}),
        cooldown_until_ms: 0,
        updated_at_ms: 1,
    }
}

/// Records of two devices in two apps; one id needs escaping in JSON.
fn stock(many: usize) -> Effects {
    let odd = "od\"d";
    let message = |payload: Value| OutboxMessage {
        id: Uuid::now_v7(),
        subject: "anomalies.shop.spike".to_owned(),
        payload: payload.to_string().into_bytes(),
    };
    let mut deliveries = vec![
        delivery(&of_rule("shop", "phone", "ann")),
        delivery(&of_rule("web", "phone", odd)),
        delivery(&of_rule("shop", "tablet", "phone")),
        delivery(&json!(anomaly("shop", "phone", "", &Value::Null))),
        delivery(&json!({"app_id": "shop", "device_id": "tablet", "event": {"note": "phone"}})),
    ];
    deliveries.extend((0..many).map(|_| delivery(&of_rule("bulk", "phone", "ann"))));
    Effects {
        consumer: "engine".to_owned(),
        causes: causes(&[1]),
        deliveries,
        anomaly_events: vec![
            anomaly("shop", "phone", "ann", &Value::Null),
            anomaly("shop", "tablet", odd, &json!("phone")),
            anomaly("shop", "tablet", "ann", &json!("tablet")),
            anomaly("web", "phone", "", &Value::Null),
        ],
        anomaly_states: vec![
            state("shop", "\"phone\""),
            state("web", "\"phone\""),
            state("shop", "\"tablet\""),
            state("shop", "\"od\\\"d\""),
            state("shop", ""),
        ],
        outbox: vec![message(of_rule("shop", "phone", "ann")), message(of_rule("shop", "tablet", "ann"))],
        ..Effects::default()
    }
}

async fn left(store: &Store) -> (usize, usize, usize, usize) {
    let deliveries = store.deliveries(DeliveryFilter::default(), first_page(1_000)).await.unwrap().items.len();
    let records = store.anomaly_events(None, None, None, first_page(1_000)).await.unwrap().items.len();
    let states = store.anomaly_states(&[Uuid::from_u128(1)]).await.unwrap().len();
    (deliveries, records, states, store.outbox(1_000).await.unwrap().len())
}

pub(in crate::store) async fn only_the_persons_data_is_erased(store: Store) {
    let person = |id: PersonId, app: Option<&str>| Person { id, app_id: app.map(str::to_owned) };
    let device = |id: &str| PersonId::Device(id.to_owned());
    let user = |id: &str| PersonId::User(id.to_owned());
    store.record_effects(stock(0)).await.unwrap();
    for (id, app, erased, rest) in [
        (device("nobody"), None, (0, 0), (5, 4, 5, 2)),
        (device("phon"), None, (0, 0), (5, 4, 5, 2)),
        (device("phone"), Some("game"), (0, 0), (5, 4, 5, 2)),
        (device("phone"), Some("shop"), (2, 2), (3, 2, 4, 1)),
        (device("phone"), Some("shop"), (0, 0), (3, 2, 4, 1)),
        (user("od\"d"), None, (1, 0), (2, 2, 3, 1)),
        (user("ann"), None, (0, 1), (2, 1, 3, 0)),
        (device("phone"), None, (0, 1), (2, 0, 2, 0)),
        (user("phone"), None, (1, 0), (1, 0, 2, 0)),
    ] {
        let records = store.erase_person(&person(id.clone(), app), PATIENCE).await.unwrap();
        assert_eq!((records.deliveries, records.anomaly_records), erased, "{id:?} {app:?}");
        assert_eq!(left(&store).await, rest, "{id:?} {app:?}");
    }
    assert!(store.wipe().await.unwrap());
}

/// A delivery in flight is erased too, and its outcome then updates nothing.
pub(in crate::store) async fn a_delivery_in_flight_is_erased(store: Store) {
    let webhook = store
        .create::<NewWebhook>(serde_json::from_value(json!({"name": "ops", "url": "http://127.0.0.1:1/"})).unwrap());
    let webhook = webhook.await.unwrap().id;
    let owed = |device: &str| NewDelivery { webhook_id: webhook, ..delivery(&of_rule("shop", device, "")) };
    let deliveries = vec![owed("phone"), owed("tablet")];
    store.record_effects(Effects { deliveries, ..stock(0) }).await.unwrap();
    let claimed = store.claim_due_deliveries(ClaimLimits::up_to(10, PATIENCE, &[])).await.unwrap();
    assert_eq!(claimed.len(), 2);
    let person = Person { id: PersonId::Device("phone".to_owned()), app_id: None };
    assert_eq!(store.erase_person(&person, PATIENCE).await.unwrap().deliveries, 1);
    let outcomes = claimed.iter().map(|delivery| DeliveryOutcome {
        id: delivery.id,
        status: DeliveryStatus::Delivered,
        attempts: 1,
        attempted_at_ms: 1,
        wait_ms: None,
        status_code: Some(200),
        error: None,
    });
    store.finish_deliveries(outcomes.collect()).await.unwrap();
    let kept = store.deliveries(DeliveryFilter::default(), first_page(10)).await.unwrap().items;
    assert_eq!(kept.len(), 1);
    assert_eq!((kept[0].status, kept[0].payload.get().contains("tablet")), (DeliveryStatus::Delivered, true));
}

/// Takes more than one read and more than one transaction.
pub(in crate::store) async fn many_rows_are_erased_in_steps(store: Store) {
    store.record_effects(stock(2_500)).await.unwrap();
    let person = Person { id: PersonId::Device("phone".to_owned()), app_id: Some("bulk".to_owned()) };
    // Each call makes progress, however short it is.
    let first = store.erase_person(&person, Duration::ZERO).await.unwrap();
    assert!(!first.is_complete && (1..2_500).contains(&first.deliveries), "{first:?}");
    let rest = store.erase_person(&person, PATIENCE).await.unwrap();
    assert!(rest.is_complete && first.deliveries + rest.deliveries == 2_500, "{rest:?}");
    assert_eq!(left(&store).await, (5, 4, 5, 2));
}
