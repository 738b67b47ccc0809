//! From an event on the bus to a webhook's request.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::receiver::{PATIENCE, Receiver};
use super::{EngineSettings, World, custom, dispatcher_settings, purchase};
use crate::bus::{Batch, ConsumerSpec, DeadLetter};
use crate::event::proto::{EventEnvelope, event_envelope::Payload};
use crate::reaction::run_engine;
use crate::services::postgres::PostgresServer;
use crate::store::{DeliveryFilter, DeliveryStatus, NewAnomalyConfig, NewRule, PageRequest};

const FIRST_PAGE: PageRequest = PageRequest { limit: 1_000, cursor: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_calls_its_webhook_and_publishes() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.run().await;
    let rule = world
        .rule(json!({
            "name": "big purchase", "app_id": "shop", "event_category": "commerce", "event_type": "purchase_complete",
            "conditions": [{"path": "$.purchase_complete.total_cents", "operator": "gte", "value": 10_000}],
            "expression": "event.purchase_complete.total_cents < 20000",
            "actions": {"webhooks": ["ops", "ops"], "publish_subjects": ["alerts.{app_id}.{type}"]},
        }))
        .await;
    let events =
        vec![purchase("shop", 9_999), purchase("shop", 12_500), purchase("other", 12_500), purchase("shop", 20_000)];
    let expected = events[1].clone();
    world.publish(events).await;
    let requests = receiver.wait_for(1).await;
    let body = requests[0].json();
    let fields: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(fields.len(), 9, "{fields:?}");
    assert_eq!(body["rule_id"], rule.to_string());
    assert_eq!(body["rule_name"], "big purchase");
    assert_eq!(body["event_id"], expected.id);
    assert_eq!(body["app_id"], "shop");
    assert_eq!(body["device_id"], "device-1");
    assert_eq!(body["timestamp_ms"], expected.timestamp_ms);
    assert_eq!(body["correlation_id"], "c-1");
    assert_eq!(body["event"]["purchase_complete"]["total_cents"], 12_500);
    assert_eq!(body["event"]["purchase_complete"]["order_id"], "o-1");
    assert!(body["triggered_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    let published = take(&world, "alerts.>", 1).await;
    assert_eq!(published, [("alerts.shop.purchase_complete".to_owned(), body)]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receiver.all().len(), 1);
    assert!(world.store.outbox(10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_detection_fires_once_and_cools_down() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    for (name, event_type, detection_type, config) in [
        ("cheap", "purchase_complete", "threshold", json!({"path": "$.purchase_complete.total_cents", "min": 100})),
        ("fast", "tick", "rate", json!({"max_per_minute": 5})),
        ("many", "tock", "count", json!({"window_seconds": 3_600, "max_count": 2, "group_by": "$.device_id"})),
    ] {
        let config = serde_json::from_value(json!({
            "name": name, "event_type": event_type, "detection_type": detection_type, "config": config,
            "actions": {"webhooks": ["ops"]},
        }))
        .unwrap();
        assert_eq!(crate::reaction::check_anomaly_config(&config), []);
        world.store.create::<NewAnomalyConfig>(config).await.unwrap();
    }
    world.run().await;
    for _ in 0..4 {
        world.publish(vec![purchase("shop", 50), purchase("shop", 500)]).await;
        world.publish(vec![custom("shop", "Tick"), custom("shop", "tick"), custom("shop", "tock")]).await;
    }
    let mut bodies: HashMap<String, Value> = HashMap::new();
    for request in receiver.wait_for(3).await {
        let body = request.json();
        bodies.insert(body["anomaly_config_name"].as_str().unwrap().to_owned(), body);
    }
    assert_eq!(bodies["cheap"]["details"], json!({"value": 50, "min": 100, "max": null, "group": null}));
    assert_eq!(bodies["fast"]["details"], json!({"value": 6, "max_per_minute": 5, "group": null}));
    let details = json!({"value": 3, "max_count": 2, "window_seconds": 3_600, "group": "device-1"});
    assert_eq!(bodies["many"]["details"], details);
    for body in bodies.values() {
        assert_eq!((&body["app_id"], &body["device_id"]), (&json!("shop"), &json!("device-1")));
        assert!(body["event_id"].is_string() && body["detected_at"].is_string());
    }
    let mut subjects: Vec<String> =
        take(&world, "anomalies.>", 3).await.into_iter().map(|(subject, _)| subject).collect();
    subjects.sort();
    assert_eq!(subjects, ["anomalies.shop.cheap", "anomalies.shop.fast", "anomalies.shop.many"]);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receiver.all().len(), 3);
    assert_eq!(world.store.anomaly_events(None, Some("shop"), None, FIRST_PAGE).await.unwrap().items.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rule_changes_take_effect_immediately() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.run().await;
    let rule = |name: &str, event_type: &str| json!({"name": name, "event_type": event_type, "priority": 1, "actions": {"webhooks": ["ops"]}});
    for n in 0..20 {
        // Unique names, since unread events may meet the next rule.
        let (name, probe, other) = (format!("rule {n}"), format!("probe{n}"), format!("other{n}"));
        world.rule(rule(&name, &probe)).await;
        world.publish(vec![custom("shop", &probe)]).await;
        let requests = receiver.wait_for(2 * n + 1).await;
        assert_eq!(requests[2 * n].json()["rule_name"], name);
        world
            .store
            .replace::<NewRule>(&name, serde_json::from_value(rule(&name, &other)).unwrap(), None)
            .await
            .unwrap();
        world.publish(vec![custom("shop", &probe), custom("shop", &other)]).await;
        let requests = receiver.wait_for(2 * n + 2).await;
        assert_eq!(requests[2 * n + 1].json()["event"]["custom_event"]["event_name"], other);
        assert!(world.store.delete::<NewRule>(&name).await.unwrap());
        world.publish(vec![custom("shop", &probe), custom("shop", &other)]).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(receiver.all().len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn undecodable_messages_are_dead_lettered() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "all", "actions": {"webhooks": ["ops"]}})).await;
    world.run().await;
    let mut batch = Batch::new();
    batch.push("events.shop.screen.view", None, |out| out.extend_from_slice(b"\xff\xff\xff"));
    world.bus.publish(batch).await;
    world.publish(vec![custom("shop", "good")]).await;
    receiver.wait_for(1).await;
    let dead = dead_letters(&world, 1).await;
    assert_eq!((dead[0].subject.as_str(), dead[0].consumer.as_str()), ("events.shop.screen.view", "analysis-engine"));
    assert!(dead[0].reason.starts_with("decode event: "), "{}", dead[0].reason);
}

/// An event that the gateway would refuse, published by another client. PostgreSQL would refuse its commit forever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_with_names_that_a_store_cannot_hold_are_dead_lettered() {
    let server = PostgresServer::start();
    let world = World::over_postgres(&server).await;
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "all", "actions": {"webhooks": ["ops"]}})).await;
    world.run().await;
    let named = |id: &str, app: &str| EventEnvelope { id: id.to_owned(), ..custom(app, "odd") };
    world
        .publish(vec![
            custom("shop", "before"),
            named("a\0b", "shop"),
            named("a", "sh\0op"),
            named(&"x".repeat(5_000), "shop"),
            custom("shop", "after"),
        ])
        .await;
    assert_eq!(receiver.wait_for(2).await.len(), 2);
    let dead = dead_letters(&world, 3).await;
    assert!(dead.iter().all(|letter| letter.reason.contains("id")), "{dead:?}");
    // A name with a NUL byte finds nothing in the store.
    assert!(world.store.find::<NewRule>("a\0").await.unwrap().is_none());
    let filter = DeliveryFilter { event_id: Some("a\0b".to_owned()), ..DeliveryFilter::default() };
    assert!(world.store.deliveries(filter, FIRST_PAGE).await.unwrap().items.is_empty());
    assert!(world.store.anomaly_events(None, Some("\0"), None, FIRST_PAGE).await.unwrap().items.is_empty());
    assert!(world.store.key("\0").await.unwrap().is_none());
}

/// Waits until there are `count` dead letters.
async fn dead_letters(world: &World, count: usize) -> Vec<DeadLetter> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let dead = world.bus.dead_letters(None, 10).await.unwrap();
        if dead.len() >= count {
            assert_eq!(dead.len(), count);
            return dead;
        }
        assert!(Instant::now() < deadline, "no dead letter");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_crashes_neither_lose_nor_duplicate_effects() {
    const EVENTS: usize = 600;
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.rule(json!({"name": "all", "event_type": "tick", "actions": {"webhooks": ["ops"]}})).await;
    let config = json!({"name": "n", "event_type": "tick", "detection_type": "count", "cooldown_seconds": 3_600,
        "config": {"window_seconds": 3_600, "max_count": EVENTS - 1}});
    world.store.create::<NewAnomalyConfig>(serde_json::from_value(config).unwrap()).await.unwrap();
    world.run_dispatcher(dispatcher_settings());
    for part in 0..20u64 {
        let kill = CancellationToken::new();
        world.run_engine(kill.clone());
        world.publish((0..EVENTS / 20).map(|_| custom("shop", "tick")).collect()).await;
        tokio::time::sleep(Duration::from_micros(part * 731)).await;
        kill.cancel();
    }
    world.run_engine(world.tasks.stop().clone());
    receiver.wait_for(EVENTS).await;
    // A redelivery would happen within the lease.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let requests = receiver.all();
    let mut events: Vec<String> = requests.iter().map(|r| r.json()["event_id"].as_str().unwrap().to_owned()).collect();
    events.sort();
    events.dedup();
    assert_eq!((requests.len(), events.len()), (EVENTS, EVENTS));
    let filter = DeliveryFilter { status: Some(DeliveryStatus::Delivered), ..DeliveryFilter::default() };
    assert_eq!(world.store.deliveries(filter, FIRST_PAGE).await.unwrap().items.len(), EVENTS);
    // The window counted each event once: only the last one exceeded the bound.
    let anomalies = world.store.anomaly_events(None, None, None, FIRST_PAGE).await.unwrap().items;
    assert_eq!(anomalies.len(), 1);
    assert_eq!(anomalies[0].details["value"], EVENTS);
}

/// The same events have the same effects in the same order, however many threads match rules.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_threads_does_not_change_the_effects() {
    const EVENTS: i64 = 3_000;
    let mut events: Vec<EventEnvelope> = (0..EVENTS).map(|n| purchase("shop", n * 7 % 1_000)).collect();
    events.iter_mut().step_by(5).for_each(|event| *event = custom("shop", "tick"));
    events.insert(1_500, EventEnvelope { id: "not\0kept".to_owned(), ..custom("shop", "tick") });
    let mut outcomes = Vec::new();
    for match_threads_max in [1, 4] {
        let world = World::open();
        world.webhook("ops", "http://127.0.0.1:1/").await;
        for n in 0..12 {
            let expression = format!("event.purchase_complete.total_cents % 12 == {n}");
            let condition = json!({"path": "$.purchase_complete.total_cents", "operator": "gte", "value": n * 50});
            let rule = json!({"name": format!("rule {n}"), "expression": expression, "conditions": [condition],
                "priority": n % 5, "actions": {"webhooks": ["ops"]}});
            world.rule(rule).await;
        }
        world.rule(json!({"name": "all", "event_type": "tick", "actions": {"webhooks": ["ops"]}})).await;
        let config = json!({"name": "n", "detection_type": "count", "cooldown_seconds": 0,
            "config": {"window_seconds": 3_600, "max_count": 2_500}});
        world.store.create::<NewAnomalyConfig>(serde_json::from_value(config).unwrap()).await.unwrap();
        world.publish(events.clone()).await;
        let settings = EngineSettings { match_threads_max, ..EngineSettings::default() };
        world.run_engine_with(settings, world.tasks.stop().clone());
        let deadline = Instant::now() + PATIENCE;
        while world.bus.status().await.unwrap().consumers.iter().all(|consumer| consumer.ack_floor <= EVENTS as u64) {
            assert!(Instant::now() < deadline, "not all judged");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let names: HashMap<_, _> = world
            .store
            .list::<NewRule>(FIRST_PAGE)
            .await
            .unwrap()
            .items
            .into_iter()
            .map(|rule| (rule.id, rule.document.name))
            .collect();
        let (mut deliveries, mut cursor) = (Vec::new(), None);
        loop {
            let page = world.store.deliveries(DeliveryFilter::default(), PageRequest { limit: 1_000, cursor }).await;
            let page = page.unwrap();
            deliveries.extend(page.items.into_iter().map(|d| (d.event_id, names[&d.rule_id.unwrap()].clone())));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let anomalies = world.store.anomaly_events(None, None, None, FIRST_PAGE).await.unwrap().items;
        let anomalies: Vec<_> = anomalies.into_iter().map(|found| (found.event_id, found.details)).collect();
        assert_eq!(dead_letters(&world, 1).await[0].sequence, 1_501);
        outcomes.push((deliveries, anomalies));
    }
    let four = outcomes.pop().unwrap();
    let one = outcomes.pop().unwrap();
    assert_eq!(one.1.len(), 500);
    assert!(one.0.len() > 1_500, "{} deliveries", one.0.len());
    assert!(one == four, "{} and {} deliveries, {} anomalies", one.0.len(), four.0.len(), four.1.len());
}

/// Consumes `count` messages from a subject.
async fn take(world: &World, filter: &str, count: usize) -> Vec<(String, Value)> {
    let spec = ConsumerSpec {
        name: "test".to_owned(),
        filter: filter.to_owned(),
        matches_most: false,
        coarse_acks: false,
        ack_wait: Duration::from_secs(60),
        max_deliver: 1,
        pending_max: 1_000,
    };
    let mut subscription = world.bus.subscribe(spec).await.unwrap();
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = tokio::time::timeout(PATIENCE, subscription.fetch(100, 1 << 20)).await.unwrap().unwrap();
        for delivery in batch {
            let subject = String::from_utf8(delivery.subject().to_vec()).unwrap();
            taken.push((subject, serde_json::from_slice(delivery.payload()).unwrap()));
        }
    }
    taken
}

/// A rule whose evaluation would not end is its own fault and affects no other rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_and_expensive_rules_are_reported_and_delay_nothing() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    world.webhook("ops", &receiver.url()).await;
    world.run().await;
    let all = "event.custom_event.string_params.all";
    let costly = format!("{all}(a, {all}(b, {all}(c, {all}(d, a != b + c + d))))");
    world.rule(json!({"name": "costly", "expression": costly})).await;
    world.rule(json!({"name": "divides", "expression": "1 / event.custom_event.int_params['zero'] == 1"})).await;
    world
        .rule(json!({"name": "path", "conditions": [{"path": "$.*.*[?count($..[*,*,*]) == 0 || count($..[*,*,*]) == 1]", "operator": "eq", "value": "no"}]}))
        .await;
    world.rule(json!({"name": "good", "expression": "event.app_id == 'shop'", "actions": {"webhooks": ["ops"]}})).await;
    let anomaly = json!({"name": "anomaly", "detection_type": "threshold", "config": {"path": "$.*.*[?count($..[*,*,*]) == 0 || count($..[*,*,*]) == 1]", "max": 1e18}});
    world.store.create::<NewAnomalyConfig>(serde_json::from_value(anomaly).unwrap()).await.unwrap();
    let mut event = custom("shop", "tick");
    let Some(Payload::CustomEvent(payload)) = &mut event.payload else { panic!("a custom event") };
    payload.string_params = (0..200).map(|n| (format!("key {n}"), "x".repeat(100))).collect();
    payload.int_params = [("zero".to_owned(), 0)].into();
    world.publish(vec![event]).await;
    assert_eq!(receiver.wait_for(1).await[0].json()["rule_name"], "good");
    let deadline = Instant::now() + PATIENCE;
    let budget = "costs more than one rule may on one event";
    for (name, expected) in [("costly", budget), ("divides", "divides by zero"), ("path", budget), ("anomaly", budget)]
    {
        loop {
            let faults = match name {
                "anomaly" => world.store.find::<NewAnomalyConfig>(name).await.unwrap().unwrap().faults,
                _ => world.store.find::<NewRule>(name).await.unwrap().unwrap().faults,
            };
            if faults.count == 1 {
                assert_eq!(faults.last_error.as_deref(), Some(expected), "{name}");
                assert!(faults.last_at.is_some());
                break;
            }
            assert!(Instant::now() < deadline, "{name} has {faults:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert_eq!(world.store.find::<NewRule>("good").await.unwrap().unwrap().faults.count, 0);
}

/// Evaluation stops between two rules; unprocessed messages are redelivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn expensive_rules_do_not_delay_a_stop() {
    let world = World::open();
    let all = "event.custom_event.string_params.all";
    for n in 0..50 {
        let costly = format!("{all}(a, {all}(b, {all}(c, {all}(d, a != b + c + d + '{n}'))))");
        world.rule(json!({"name": format!("costly {n}"), "expression": costly})).await;
    }
    let mut event = custom("shop", "tick");
    let Some(Payload::CustomEvent(payload)) = &mut event.payload else { panic!("a custom event") };
    payload.string_params = (0..200).map(|n| (format!("key {n}"), "x".repeat(100))).collect();
    world.publish(vec![event; 1_000]).await;
    let stop = CancellationToken::new();
    let engine = run_engine(EngineSettings::default(), world.bus.clone(), world.store.clone(), stop.clone());
    let (done, ended) = tokio::sync::oneshot::channel();
    world.tasks.spawn(async move {
        let _ = done.send(engine.await.map_err(|error| error.to_string()));
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    stop.cancel();
    ended.await.unwrap().unwrap();
    // 50,000 evaluations of a few milliseconds each were pending.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
}
