//! A backlog of events on a bus.

use std::time::Duration;

use causality::bus::{Batch, Bus, NatsSettings, PublishMode, StreamStorage};
use causality::event::EventRef;
use causality::event::subject::write_event_subject;
use futures_util::StreamExt;
use prost::Message;

use crate::shop;

/// Events published together, and how many such batches are on their way.
pub(crate) const BATCH: u64 = 1_000;
const BATCHES_IN_FLIGHT: usize = 4;
/// What an event takes in the stream, generously.
const EVENT_BYTES_MAX: u64 = 1_024;

/// Publishes the events of a shop, numbered from 0.
pub(crate) async fn publish(bus: &Bus, events: u64) {
    let batches = (0..events / BATCH).map(|batch| async move {
        let mut random = shop::Random(42 + batch);
        let mut out = Batch::with_capacity(BATCH as usize, BATCH as usize * 500);
        for n in batch * BATCH..(batch + 1) * BATCH {
            let bytes = shop::event(n, &mut random).encode_to_vec();
            let event = EventRef::decode(&bytes).unwrap();
            let mut subject = String::new();
            write_event_subject(&mut subject, event.app_id, event.category(), &event.event_type());
            out.push(&subject, None, |out| out.extend_from_slice(&bytes));
        }
        assert!(bus.publish(out).await.iter().all(Result::is_ok));
    });
    futures_util::stream::iter(batches).buffer_unordered(BATCHES_IN_FLIGHT).collect::<Vec<()>>().await;
}

/// Room for this many events.
pub(crate) fn nats_settings(url: String, events: u64) -> NatsSettings {
    NatsSettings {
        url: url.into(),
        client_name: "causality-bench".to_owned(),
        credentials_file: None,
        ca_file: None,
        reconnects_max: None,
        reconnect_wait: Duration::from_secs(1),
        timeout: Duration::from_secs(10),
        stream: "CAUSALITY_EVENTS".to_owned(),
        subjects: ["events.>", "requests.>", "responses.>", "anomalies.>"].map(str::to_owned).to_vec(),
        readers: Vec::new(),
        age_max: Duration::from_secs(86_400),
        // The server refuses more than the disk has.
        bytes_max: (events * EVENT_BYTES_MAX).max(1 << 30),
        replicas: 1,
        storage: StreamStorage::File,
        dead_letter_stream: "CAUSALITY_DLQ".to_owned(),
        dead_letter_age_max: Duration::from_secs(86_400),
        dedup_window: Duration::from_secs(60),
        publish: PublishMode::Auto,
        event_bytes_max: 1_000_000,
    }
}
