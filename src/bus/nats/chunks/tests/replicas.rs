//! Chunks on three servers with replicated streams.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::{coarse, figures, receipts, sequences};
use crate::bus::conformance::nats_settings;
use crate::bus::{Batch, Bus, BusError, ConsumerSpec, NatsSettings};
use crate::services::nats::{NatsServer, Version};
use crate::services::signal;

/// Each server stalls in turn, and is behind when it resumes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_missing_on_a_replica_are_not_skipped() {
    const BATCHES: usize = 1_000;
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
    let (published, read) = (OnceLock::new(), Mutex::new(HashSet::new()));
    let publish = async {
        let text = "x".repeat(2_000);
        for _ in 0..BATCHES {
            let mut batch = Batch::new();
            (0..20).for_each(|_| batch.push("a.b", None, |out| out.extend_from_slice(text.as_bytes())));
            // On a busy machine another leader may be elected meanwhile: then the contents of the stream count.
            bus.publish(batch).await;
        }
        let last_sequence = loop {
            if let Ok(status) = bus.status().await {
                break status.last_sequence;
            }
        };
        published.set(last_sequence).unwrap();
    };
    let stand_still = async {
        for server in servers.iter().cycle() {
            if published.get().is_some() {
                return;
            }
            signal(server.pid(), "STOP");
            tokio::time::sleep(Duration::from_millis(400)).await;
            signal(server.pid(), "CONT");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let read_some = async || -> Result<(), BusError> {
        let spec = ConsumerSpec { ack_wait: Duration::from_secs(5), max_deliver: 1_000, ..coarse(">") };
        let mut subscription = bus.subscribe(spec).await?;
        for _ in 0..3 {
            let fetched = tokio::time::timeout(Duration::from_secs(1), subscription.fetch(100, usize::MAX)).await;
            let Ok(some) = fetched else { break };
            let some = some?;
            read.lock().unwrap().extend(sequences(&some));
            subscription.acker().ack(&receipts(&some)).await?;
        }
        subscription.release().await
    };
    // Starts over again and again: each time a consumer is created, on any of the servers.
    let reading = async || {
        let began = Instant::now();
        let all_read = |last: &u64| {
            let read = read.lock().unwrap();
            (1..=*last).all(|sequence| read.contains(&sequence))
        };
        while !published.get().is_some_and(all_read) {
            let _ = read_some().await;
            assert!(began.elapsed() < Duration::from_secs(120), "{:?}", figures(&bus).await);
        }
    };
    tokio::join!(publish, stand_still, reading(), reading());
    assert!(published.into_inner().unwrap() >= 10 * BATCHES as u64);
}
