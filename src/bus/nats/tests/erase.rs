//! Erasing on three servers with replicated streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use futures_util::TryStreamExt as _;

use crate::bus::conformance::{fetch, nats_settings, payloads, publish_numbers, receipts, spec};
use crate::bus::{Bus, ErasePredicate, EraseSpan, NatsSettings, acked_through};
use crate::services::nats::{NatsServer, Version};
use crate::services::signal;

const MESSAGES: u64 = 3_000;

/// Waits until every replica of every stream has applied what its leader has. A replica that has just stalled still
/// delivers what the others have erased; an erasure is not settled before the consumers have passed it.
async fn wait_caught_up(server: &NatsServer) {
    let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let began = Instant::now();
    loop {
        let streams: Result<Vec<_>, _> = context.streams().try_collect().await;
        let caught_up = streams.as_ref().is_ok_and(|streams| {
            streams.iter().filter_map(|stream| stream.cluster.as_ref()).all(|cluster| {
                cluster.leader.is_some()
                    && cluster.replicas.iter().all(|replica| replica.current && replica.lag.is_none_or(|lag| lag == 0))
            })
        });
        if caught_up {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{streams:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Each server stalls in turn, including the one that the bus is connected to, and another one leads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_replicas_keep_nothing_that_was_erased() {
    let servers = NatsServer::start_cluster(Version::Newest);
    let url = servers.each_ref().map(NatsServer::url).join(",").into();
    let settings = NatsSettings { url, replicas: 3, ..nats_settings(&servers[0]) };
    let began = Instant::now();
    let bus = loop {
        match Bus::connect_nats(settings.clone()).await {
            Ok(bus) => break bus,
            // They have not elected a leader yet.
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
    };
    for start in (0..MESSAGES).step_by(100) {
        publish_numbers(&bus, start..start + 100).await;
    }
    let matches: ErasePredicate = Arc::new(|_, payload| payload.ends_with(b"7"));
    let erase = async {
        let (mut after, mut messages, began) = (0, 0, Instant::now());
        while after < MESSAGES {
            assert!(began.elapsed() < Duration::from_secs(120), "{after} of {MESSAGES}");
            let span = EraseSpan { after, through: MESSAGES, messages_max: 300, time_max: Duration::from_secs(5) };
            // Requests to a stalled server are repeated.
            if let Ok(erased) = bus.erase(span, &matches).await {
                (after, messages) = (erased.scanned_through, messages + erased.messages);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        messages
    };
    let stand_still = async {
        for server in servers.iter().cycle() {
            signal(server.pid(), "STOP");
            tokio::time::sleep(Duration::from_millis(600)).await;
            signal(server.pid(), "CONT");
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let messages = tokio::select! {
        messages = erase => messages,
        () = stand_still => unreachable!("it goes on for ever"),
    };
    servers.iter().for_each(|server| signal(server.pid(), "CONT"));
    // A lost answer may be of messages that were erased nevertheless.
    assert!(messages <= MESSAGES / 10, "{messages}");
    let all = EraseSpan { after: 0, through: MESSAGES, messages_max: u64::MAX, time_max: Duration::from_secs(60) };
    let began = Instant::now();
    let again = loop {
        match bus.erase(all, &matches).await {
            Ok(again) => break again,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(60), "{error}"),
        }
    };
    assert_eq!((again.scanned_through, again.messages), (MESSAGES, 0));
    wait_caught_up(&servers[0]).await;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let kept: Vec<String> = (0..MESSAGES).map(|n| n.to_string()).filter(|n| !n.ends_with('7')).collect();
    let read = fetch(&mut subscription, kept.len()).await;
    assert_eq!(payloads(&read), kept);
    subscription.acker().ack(&receipts(&read)).await.unwrap();
    let began = Instant::now();
    while !bus.status().await.is_ok_and(|status| acked_through(&status, MESSAGES)) {
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", bus.status().await);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
