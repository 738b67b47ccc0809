//! What must be kept is kept by the stream or refused; only what need not be kept goes to whoever listens.

use std::time::Duration;

use futures_util::StreamExt;

use crate::bus::conformance::nats_settings;
use crate::bus::{Batch, Bus, BusErrorKind, NatsSettings, PublishMode};
use crate::services::nats::{NatsServer, Version};

/// Ten of each, so that they could go as one atomic batch.
fn batch(passing: bool) -> Batch {
    let mut batch = Batch::new();
    for n in 0..10_u8 {
        batch.push("events.shop.user.login", None, |out| out.push(n));
        match passing {
            true => batch.push_passing("events.other.user.login", None, |out| out.push(n)),
            false => batch.push("events.other.user.login", None, |out| out.push(n)),
        }
    }
    batch
}

async fn stored_or_refused(publish: PublishMode) {
    let server = NatsServer::start(Version::Newest);
    let subjects = vec!["events.shop.>".to_owned()];
    let bus = Bus::connect_nats(NatsSettings { subjects, publish, ..nats_settings(&server) }).await.unwrap();
    let listener = async_nats::connect(server.url()).await.unwrap();
    let mut heard = listener.subscribe("events.other.>").await.unwrap();
    listener.flush().await.unwrap();

    let answers = bus.publish(batch(false)).await;
    for pair in answers.chunks(2) {
        assert!(pair[0].as_ref().unwrap().sequence > 0);
        let error = pair[1].as_ref().unwrap_err();
        let why = std::error::Error::source(error).unwrap().to_string();
        assert!(error.kind == BusErrorKind::Refused && why.contains("nats_stream_subjects"), "{error:?}");
    }
    assert_eq!(bus.status().await.unwrap().messages, 10);
    let silent = tokio::time::timeout(Duration::from_millis(100), heard.next()).await;
    assert!(silent.is_err(), "what must be kept is not sent to where nobody keeps it");

    let answers = bus.publish(batch(true)).await;
    let sequences: Vec<u64> = answers.into_iter().map(|answer| answer.unwrap().sequence).collect();
    assert!(sequences.chunks(2).all(|pair| pair[0] > 0 && pair[1] == 0), "{sequences:?}");
    assert_eq!(bus.status().await.unwrap().messages, 20);
    for n in 0..10_u8 {
        let message = tokio::time::timeout(Duration::from_secs(10), heard.next()).await.unwrap().unwrap();
        assert_eq!(message.payload[..], [n]);
    }
}

#[tokio::test]
async fn what_the_stream_does_not_take_is_refused_or_goes_to_whoever_listens() {
    stored_or_refused(PublishMode::Single).await;
}

#[tokio::test]
async fn it_is_the_same_in_atomic_batches() {
    stored_or_refused(PublishMode::Atomic).await;
}
