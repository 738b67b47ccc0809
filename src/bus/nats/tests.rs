//! The conformance suite on the oldest and the newest server, and what only this engine promises.

mod oldest {
    use crate::bus::conformance::{Fixture, suite};

    suite!(Fixture::oldest_nats);
}

mod newest {
    use crate::bus::conformance::{Fixture, suite};

    suite!(Fixture::newest_nats);
}

/// The same in atomic batches, on a server that syncs each of them.
mod atomic {
    use crate::bus::PublishMode;
    use crate::bus::conformance::{Fixture, suite};
    use crate::services::nats::{NatsServer, Version};

    async fn open(change: impl FnOnce(&mut crate::bus::NatsSettings)) -> Fixture {
        let server = NatsServer::start_with(Version::Newest, "#jetstream\n  sync_interval: always");
        let batches = |settings: &mut crate::bus::NatsSettings| settings.publish = PublishMode::Atomic;
        Fixture::nats(server, |settings| {
            batches(settings);
            change(settings);
        })
        .await
    }

    suite!(open);
}

use std::time::{Duration, Instant};

use crate::bus::conformance::{nats_settings, publish_numbers, spec};
use crate::bus::{Batch, Bus, BusErrorKind, NatsSettings};
use crate::services::free_port;
use crate::services::nats::{NatsServer, Version};

pub(super) async fn refused(settings: NatsSettings) -> (BusErrorKind, String) {
    let error = Bus::connect_nats(settings).await.err().expect("refused");
    let source = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
    (error.kind, source)
}

/// Each names the setting to change.
#[tokio::test]
async fn what_cannot_work_ends_the_start_with_the_settings_name() {
    let server = NatsServer::start_with(Version::Newest, r#"authorization { user: a, password: "b/c" }"#);
    let right = NatsSettings { url: format!("nats://a:b%2Fc@127.0.0.1:{}", server.port()), ..nats_settings(&server) };
    let (kind, text) = refused(nats_settings(&server)).await;
    assert!(kind == BusErrorKind::Refused && text.contains("nats_url"), "{kind:?} {text}");
    let (kind, text) = refused(NatsSettings { replicas: 3, ..right.clone() }).await;
    assert!(kind == BusErrorKind::Refused && text.contains("nats_stream_"), "{kind:?} {text}");
    let nobody = format!("nats://127.0.0.1:{}", free_port());
    let timeout = Duration::from_millis(300);
    let (kind, text) = refused(NatsSettings { url: nobody, timeout, ..right.clone() }).await;
    assert!(kind == BusErrorKind::Unavailable && text.contains("nats_url"), "{kind:?} {text}");
    Bus::connect_nats(right).await.unwrap();
}

#[tokio::test]
async fn streams_are_brought_to_the_settings() {
    let server = NatsServer::start(Version::Oldest);
    let first = nats_settings(&server);
    let bus = Bus::connect_nats(first.clone()).await.unwrap();
    publish_numbers(&bus, 0..3).await;
    let id = bus.stream_id();
    bus.close().await;
    let changed = NatsSettings { bytes_max: 5 << 20, dedup_window: Duration::from_secs(30), ..first.clone() };
    let bus = Bus::connect_nats(changed).await.unwrap();
    let status = bus.status().await.unwrap();
    assert_eq!((bus.stream_id(), status.messages, status.bytes_max), (id, 3, 5 << 20));
    bus.close().await;
    let moved = NatsSettings { storage: crate::bus::StreamStorage::Memory, ..first };
    assert_eq!(refused(moved).await.0, BusErrorKind::Refused, "a change that the server refuses is not ignored");
}

/// What was acknowledged before the kill is there after it; calls meanwhile fail soon, and then work by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_nothing_and_is_found_again() {
    let mut server = NatsServer::start(Version::Newest);
    let settings = NatsSettings { timeout: Duration::from_secs(2), ..nats_settings(&server) };
    let bus = Bus::connect_nats(settings).await.unwrap();
    let mut acknowledged = 0;
    for round in 0..3 {
        publish_numbers(&bus, 0..500).await;
        acknowledged += 500;
        server.kill9();
        let one = |n: u64| {
            let mut batch = Batch::new();
            batch.push("a.b", Some(&format!("{round}-{n}")), |out| out.push(1));
            batch
        };
        let asked = Instant::now();
        assert_eq!(bus.publish(one(0)).await.remove(0).unwrap_err().kind, BusErrorKind::Unavailable);
        assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
        server.restart();
        let back = Instant::now();
        while bus.publish(one(0)).await.remove(0).is_err() {
            assert!(back.elapsed() < Duration::from_secs(30), "not found again");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // The failed publish and its retry are one message.
        acknowledged += 1;
        assert_eq!(bus.status().await.unwrap().last_sequence, acknowledged);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_published_by_two_at_once_is_stored_once() {
    let server = NatsServer::start(Version::Newest);
    let (one, other) =
        tokio::join!(Bus::connect_nats(nats_settings(&server)), Bus::connect_nats(nats_settings(&server)));
    let (one, other) = (one.unwrap(), other.unwrap());
    for n in 0..50 {
        let batch = || {
            let mut batch = Batch::new();
            batch.push("a.b", Some(&format!("k{n}")), |out| out.push(1));
            batch
        };
        let (left, right) = tokio::join!(one.publish(batch()), other.publish(batch()));
        let duplicates = [left, right].map(|mut answers| answers.remove(0).unwrap().duplicate);
        assert_eq!(duplicates.iter().filter(|duplicate| **duplicate).count(), 1, "key {n}");
    }
    assert_eq!(one.status().await.unwrap().last_sequence, 50);
}

/// Requests that end by their messages and by their bytes: what is counted of them must not leave a
/// subscription waiting for messages that nobody will send, which would show as the silence of a lost request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_reads_ahead_gets_all_in_order_without_a_pause() {
    for version in [Version::Oldest, Version::Newest] {
        let server = NatsServer::start(version);
        let bus = Bus::connect_nats(nats_settings(&server)).await.unwrap();
        let mut subscription = bus.subscribe(spec("reader", "a.>")).await.unwrap();
        subscription.read_ahead();
        let (mut next, mut published) = (1, 0);
        // What bytes are asked for hold some thousands of these.
        let payload = vec![7; 1_000];
        for (messages, fetched_max, bytes_max) in
            [(6_000, 500, 1 << 20), (18_000, 8_192, 2 << 20), (100, 8_192, 1 << 20)]
        {
            published += messages;
            // While they come, so that two requests are with the server when one of them ends.
            let publishing = async {
                for _ in 0..messages / 100 {
                    let mut batch = Batch::new();
                    (0..100).for_each(|_| batch.push("a.b", None, |out| out.extend_from_slice(&payload)));
                    assert!(bus.publish(batch).await.iter().all(Result::is_ok));
                }
            };
            let reading = async {
                while next <= published {
                    let deliveries = subscription.fetch(fetched_max, bytes_max).await.unwrap();
                    assert!(deliveries.len() <= fetched_max);
                    for delivery in &deliveries {
                        assert_eq!((delivery.sequence(), delivery.delivery_count), (next, 1));
                        next += 1;
                    }
                    let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
                    subscription.acker().ack(&receipts).await.unwrap();
                }
            };
            let began = Instant::now();
            tokio::join!(publishing, reading);
            assert!(began.elapsed() < Duration::from_secs(4), "{:?} for {messages}", began.elapsed());
        }
        bus.close().await;
    }
}

/// What was read ahead and then waited for most of its lease is not handed out: somebody else may have it by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_ahead_and_waited_too_long_comes_again() {
    let server = NatsServer::start(Version::Newest);
    let bus = Bus::connect_nats(nats_settings(&server)).await.unwrap();
    publish_numbers(&bus, 0..30).await;
    let ack_wait = Duration::from_secs(2);
    let mut subscription = bus.subscribe(crate::bus::ConsumerSpec { ack_wait, ..spec("reader", "a.>") }).await.unwrap();
    subscription.read_ahead();
    let mut fetched = Vec::new();
    while fetched.len() < 10 {
        let deliveries = subscription.fetch(10 - fetched.len(), 1 << 20).await.unwrap();
        fetched.extend(deliveries.into_iter().map(|delivery| delivery.receipt));
    }
    subscription.acker().ack(&fetched).await.unwrap();
    tokio::time::sleep(ack_wait * 3 / 4).await;
    let mut seen: std::collections::HashSet<u64> = fetched.iter().map(|receipt| receipt.sequence).collect();
    while seen.len() < 30 {
        let deliveries = subscription.fetch(10, 1 << 20).await.unwrap();
        assert!(subscription.leased().at.elapsed() < ack_wait / 2, "handed out with most of the lease gone");
        let receipts: Vec<_> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        subscription.acker().ack(&receipts).await.unwrap();
        assert!(deliveries.iter().all(|delivery| seen.insert(delivery.sequence())), "twice");
    }
}
