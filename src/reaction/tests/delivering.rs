//! The dispatcher against endpoints that respond, fail, vanish or hang.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::receiver::Receiver;
use super::{World, dispatcher_settings};
use crate::reaction::{AllowedNetworks, DispatcherSettings, run_dispatcher};
use crate::store::{DeliveryStatus, NewWebhook};

const BODY: &str = r#"{"event_id":"0190","total":12500}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_auth_type_is_sent() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (204, None)).await;
    world.run_dispatcher(dispatcher_settings());
    let standard = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    for (auth_type, auth_config) in [
        ("none", json!(null)),
        ("basic", json!({"username": "Aladdin", "password": "open sesame"})),
        ("bearer", json!({"token": "t0ken"})),
        ("hmac", json!({"secret": "s3cret"})),
        ("standard", json!({"secret": standard, "previous_secret": standard})),
    ] {
        let webhook = world
            .webhook_with(json!({
                "name": auth_type, "url": receiver.url(), "method": "PUT", "headers": {"X-Env": "prod"},
                "auth_type": auth_type, "auth_config": auth_config,
            }))
            .await;
        let id = world.add_delivery(webhook.id, BODY).await;
        let delivered = world.finished(id).await;
        assert_eq!((delivered.status, delivered.attempts), (DeliveryStatus::Delivered, 1));
        assert_eq!(delivered.last_status_code, Some(204));

        let request = receiver.all().pop().unwrap();
        assert_eq!((request.method.clone(), request.path.as_str()), (Method::PUT, "/hook"));
        assert_eq!(request.body, BODY);
        assert_eq!(request.header("content-type"), "application/json");
        assert!(request.header("user-agent").starts_with("causality/"));
        assert_eq!(request.header("x-env"), "prod");
        assert_eq!(request.header("webhook-id"), id.to_string());
        match auth_type {
            "basic" => assert_eq!(request.header("authorization"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            "bearer" => assert_eq!(request.header("authorization"), "Bearer t0ken"),
            // Computed with Python's hmac.
            "hmac" => {
                assert_eq!(request.header("x-signature"), "sha256=0oJynSkadFJfbHjULJtFGrHxlXxGYpfGdDF8kxsxJjg=");
            }
            "standard" => {
                let now = jiff::Timestamp::now().as_second();
                let sent: i64 = request.header("webhook-timestamp").parse().unwrap();
                assert!((now - 10..=now).contains(&sent));
                let signatures: Vec<&str> = request.header("webhook-signature").split(' ').collect();
                assert_eq!(signatures.len(), 2);
                assert!(signatures.iter().all(|signature| signature.starts_with("v1,") && signature.len() == 47));
            }
            _ => assert_eq!(request.header("authorization"), ""),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_keep_one_id_until_it_is_delivered() {
    let world = World::open();
    let receiver =
        Receiver::start(&world.tasks, |n| ([500, 302, 200][n.min(2)], Some(("location", "/elsewhere")))).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &receiver.url()).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    let delivered = world.finished(id).await;
    assert_eq!((delivered.status, delivered.attempts), (DeliveryStatus::Delivered, 3));
    assert_eq!(delivered.last_error, None);
    let requests = receiver.wait_for(3).await;
    assert_eq!(requests.len(), 3);
    let ids: HashSet<&str> = requests.iter().map(|request| request.header("webhook-id")).collect();
    assert_eq!(ids, HashSet::from([id.to_string().as_str()]));
    // The redirect was not followed.
    assert!(requests.iter().all(|request| request.path == "/hook" && request.method == Method::POST));
    assert!(requests.iter().all(|request| request.body == BODY));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_honoured() {
    let world = World::open();
    let receiver =
        Receiver::start(&world.tasks, |n| if n == 0 { (503, Some(("retry-after", "1"))) } else { (200, None) }).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &receiver.url()).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    assert_eq!(world.finished(id).await.status, DeliveryStatus::Delivered);
    let requests = receiver.wait_for(2).await;
    let waited = requests[1].at - requests[0].at;
    assert!(waited >= Duration::from_millis(995) && waited < Duration::from_secs(3), "{waited:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_attempt_ends_in_a_dead_letter_that_can_be_retried_by_hand() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |n| (if n < 3 { 404 } else { 200 }, None)).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &receiver.url()).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    let dead = world.finished(id).await;
    assert_eq!((dead.status, dead.attempts), (DeliveryStatus::DeadLetter, 3));
    assert_eq!((dead.last_status_code, dead.last_error.as_deref()), (Some(404), Some("HTTP 404 Not Found")));
    assert_eq!(receiver.all().len(), 3);
    world.store.retry_delivery(id).await.unwrap();
    assert_eq!(world.finished(id).await.status, DeliveryStatus::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_410_disables_the_webhook() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (410, None)).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &receiver.url()).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    let failed = world.finished(id).await;
    assert_eq!((failed.status, failed.attempts), (DeliveryStatus::Failed, 1));
    let deadline = Instant::now() + Duration::from_secs(5);
    while world.store.find::<NewWebhook>("ops").await.unwrap().unwrap().document.enabled {
        assert!(Instant::now() < deadline, "the webhook is still enabled");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    world.add_delivery(webhook.id, BODY).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(receiver.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_does_not_delay_others() {
    let world = World::open();
    // Accepts in the kernel and never responds.
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let hanging = world.webhook("hanging", &format!("http://{}/", silent.local_addr().unwrap())).await;
    let refusing = world.webhook("refusing", "http://127.0.0.1:1/").await;
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    let alive = world.webhook("alive", &receiver.url()).await;
    world.add_deliveries(hanging.id, BODY, 1_000).await;
    world.add_deliveries(refusing.id, BODY, 1_000).await;
    world.run_dispatcher(DispatcherSettings { workers: 32, ..dispatcher_settings() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    for sent in 1..=20 {
        world.add_delivery(alive.id, BODY).await;
        receiver.wait_for(sent).await;
    }
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recovered_endpoint_gets_its_pending_deliveries() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |n| (if n < 12 { 503 } else { 200 }, None)).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &receiver.url()).await;
    let ids = world.add_deliveries(webhook.id, BODY, 40).await;
    let mut delivered = 0;
    for id in ids {
        delivered += usize::from(world.finished(id).await.status == DeliveryStatus::Delivered);
    }
    // Twelve failures can use up the attempts of four deliveries at most.
    assert!(delivered >= 36, "{delivered}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_not_connected_to() {
    let world = World::open();
    let receiver = Receiver::start(&world.tasks, |_| (200, None)).await;
    let port = receiver.address.port();
    world.run_dispatcher(DispatcherSettings { allowed_networks: AllowedNetworks::default(), ..dispatcher_settings() });
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "0.0.0.0"] {
        let webhook = world.webhook(host, &format!("http://{host}:{port}/hook")).await;
        let id = world.add_delivery(webhook.id, BODY).await;
        let dead = world.finished(id).await;
        assert_eq!(dead.status, DeliveryStatus::DeadLetter, "{host}");
        let error = dead.last_error.unwrap();
        assert!(error.contains("the address is not public"), "{host}: {error}");
    }
    assert!(receiver.all().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn webhook_changes_take_effect_immediately() {
    let world = World::open();
    let (before, after) =
        (Receiver::start(&world.tasks, |_| (200, None)).await, Receiver::start(&world.tasks, |_| (200, None)).await);
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook("ops", &before.url()).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    world.finished(id).await;
    let mut document = webhook.document.clone();
    document.url = after.url();
    world.store.replace::<NewWebhook>("ops", document, None).await.unwrap();
    let id = world.add_delivery(webhook.id, BODY).await;
    world.finished(id).await;
    assert_eq!((before.all().len(), after.all().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_waits_for_outstanding_requests_and_releases_the_rest() {
    let world = World::open();
    let receiver = Receiver::start_slow(&world.tasks, Duration::from_millis(300), |_| (200, None)).await;
    let webhook = world.webhook("ops", &receiver.url()).await;
    let ids = world.add_deliveries(webhook.id, BODY, 10).await;
    let stop = CancellationToken::new();
    let settings = DispatcherSettings { endpoint_concurrency_max: 2, ..dispatcher_settings() };
    let dispatcher =
        run_dispatcher(settings, world.store.clone(), world.bus.clone(), world.tasks.clone(), stop.clone());
    let ended = async {
        receiver.wait_for(2).await;
        stop.cancel();
    };
    let (result, ()) = tokio::join!(dispatcher, ended);
    result.unwrap();
    assert_eq!(receiver.all().len(), 2);
    let mut delivered = 0;
    for id in ids {
        let delivery = world.store.delivery(id).await.unwrap().unwrap();
        delivered += usize::from(delivery.status == DeliveryStatus::Delivered);
        assert!(delivery.last_error.is_none());
    }
    assert_eq!(delivered, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_timeout_is_a_failure() {
    let world = World::open();
    let receiver = Receiver::start_slow(&world.tasks, Duration::from_secs(60), |_| (200, None)).await;
    world.run_dispatcher(dispatcher_settings());
    let webhook = world.webhook_with(json!({"name": "slow", "url": receiver.url(), "timeout_ms": 100})).await;
    let id = world.add_delivery(webhook.id, BODY).await;
    let dead = world.finished(id).await;
    assert_eq!((dead.status, dead.attempts, dead.last_status_code), (DeliveryStatus::DeadLetter, 3, None));
    assert_eq!(dead.last_error.as_deref(), Some("no answer within 100 ms"));
}
