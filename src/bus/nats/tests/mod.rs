//! The conformance suite on the oldest and the newest server, and tests of guarantees that only this engine gives.

mod deleted;
mod erase;
mod foreign;
mod size;
mod stored;
mod tls;

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

use crate::bus::conformance::{nats_settings, publish_numbers};
use crate::bus::{Batch, Bus, BusErrorKind, NatsSettings};
use crate::services::free_port;
use crate::services::nats::{NatsServer, Version};

pub(super) async fn refused(settings: NatsSettings) -> (BusErrorKind, String) {
    let error = Bus::connect_nats(settings).await.err().expect("refused");
    let source = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
    (error.kind, source)
}

/// Each error names the setting to change.
#[tokio::test]
async fn impossible_settings_fail_the_start_and_are_named() {
    let server = NatsServer::start_with(Version::Newest, r#"authorization { user: a, password: "b/c" }"#);
    let url = format!("nats://a:b%2Fc@127.0.0.1:{}", server.port()).into();
    let right = NatsSettings { url, ..nats_settings(&server) };
    let (kind, text) = refused(nats_settings(&server)).await;
    assert!(kind == BusErrorKind::Refused && text.contains("nats_url"), "{kind:?} {text}");
    let (kind, text) = refused(NatsSettings { replicas: 3, ..right.clone() }).await;
    assert!(kind == BusErrorKind::Refused && text.contains("nats_stream_"), "{kind:?} {text}");
    let nobody = format!("nats://127.0.0.1:{}", free_port()).into();
    let timeout = Duration::from_millis(300);
    let (kind, text) = refused(NatsSettings { url: nobody, timeout, ..right.clone() }).await;
    assert!(kind == BusErrorKind::Unavailable && text.contains("nats_url"), "{kind:?} {text}");
    Bus::connect_nats(right).await.unwrap();
}

#[tokio::test]
async fn streams_are_reconciled_with_the_settings() {
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

/// Everything acknowledged before the kill is there after it. Calls in the meantime fail soon, and then work again by
/// themselves.
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
        let response = Instant::now();
        assert_eq!(bus.publish(one(0)).await.remove(0).unwrap_err().kind, BusErrorKind::Unavailable);
        assert!(response.elapsed() < Duration::from_secs(6), "{:?}", response.elapsed());
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
