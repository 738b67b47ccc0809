//! Messages that must be stored are stored: by a stream with their subject, and until all expected consumers have read
//! them.

use std::time::Duration;

use futures_util::StreamExt;

use crate::bus::conformance::{fetch, nats_settings, payloads, publish_numbers, spec};
use crate::bus::{Batch, Bus, BusErrorKind, ConsumerSpec, NatsSettings, PublishMode, Receipt};
use crate::services::nats::{NatsServer, Version};

/// Ten of each, so that they could form one atomic batch.
fn batch(transient: bool) -> Batch {
    let mut batch = Batch::new();
    for n in 0..10_u8 {
        batch.push("events.shop.user.login", None, |out| out.push(n));
        match transient {
            true => batch.push_transient("events.other.user.login", None, |out| out.push(n)),
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
async fn subjects_outside_the_stream_are_refused_or_go_to_live_subscribers() {
    stored_or_refused(PublishMode::Single).await;
}

#[tokio::test]
async fn the_same_in_atomic_batches() {
    stored_or_refused(PublishMode::Atomic).await;
}

/// A consumer that starts for the first time long after the others finds everything.
#[tokio::test]
async fn nothing_is_purged_before_an_expected_consumer_exists() {
    let server = NatsServer::start(Version::Oldest);
    let readers = vec!["early".to_owned(), "late".to_owned(), "late-sink".to_owned()];
    let settings = NatsSettings { readers, age_max: Duration::from_millis(1), ..nats_settings(&server) };
    let bus = Bus::connect_nats(settings).await.unwrap();
    publish_numbers(&bus, 0..4).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let backlogs = async || {
        let consumers = bus.status().await.unwrap().consumers;
        consumers.into_iter().map(|consumer| (consumer.name, consumer.backlog)).collect::<Vec<_>>()
    };
    let wanted = |early, late, sink| {
        [("early", early), ("late", late), ("late-sink", sink)].map(|(name, n)| (name.to_owned(), n))
    };
    assert_eq!(backlogs().await, wanted(4, 4, 4));
    let sink = ConsumerSpec { coarse_acks: true, matches_most: true, ..spec("late-sink", ">") };
    let mut left = [4, 4, 4];
    for (reader, spec) in [spec("early", ">"), spec("late", ">"), sink].into_iter().enumerate() {
        assert_eq!(bus.purge_acknowledged().await.unwrap(), 0, "{} has read nothing", spec.name);
        bus.ensure_consumer(&spec).await.unwrap();
        assert_eq!(bus.purge_acknowledged().await.unwrap(), 0, "{} has read nothing yet", spec.name);
        let mut subscription = bus.subscribe(spec).await.unwrap();
        let all = fetch(&mut subscription, 4).await;
        assert_eq!(payloads(&all), ["0", "1", "2", "3"]);
        let receipts: Vec<Receipt> = all.iter().map(|delivery| delivery.receipt).collect();
        subscription.acker().ack(&receipts).await.unwrap();
        left[reader] = 0;
        assert_eq!(backlogs().await, wanted(left[0], left[1], left[2]));
    }
    assert_eq!(bus.purge_acknowledged().await.unwrap(), 4);
}

#[tokio::test]
async fn a_full_stream_names_the_readers_that_keep_it_full() {
    let server = NatsServer::start(Version::Newest);
    let readers = vec!["late".to_owned()];
    let bus = Bus::connect_nats(NatsSettings { readers, bytes_max: 1 << 20, ..nats_settings(&server) }).await.unwrap();
    let mut early = bus.subscribe(spec("early", ">")).await.unwrap();
    let fill = async || {
        let mut batch = Batch::new();
        batch.push("events.a.b.c", None, |out| out.resize(64 << 10, 1));
        bus.publish(batch).await.remove(0).map_err(|error| error.kind)
    };
    while let Ok(published) = fill().await {
        let all = fetch(&mut early, 1).await;
        assert_eq!(all[0].sequence(), published.sequence);
        early.acker().ack(&[all[0].receipt]).await.unwrap();
    }
    assert_eq!(fill().await, Err(BusErrorKind::Full));
    assert_eq!(bus.purge_acknowledged().await.unwrap(), 0);
    let full = bus.status().await.unwrap().full.unwrap();
    assert!(full.contains("full") && full.ends_with("not acknowledged by late"), "{full}");
}
