//! Streams and consumers that are deleted on the server at runtime are noticed, reported and created again, and
//! messages that were handled before are flagged as possibly redelivered.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use async_nats::jetstream::{self, Context};

use crate::bus::conformance::{nats_settings, publish_numbers, spec};
use crate::bus::{Bus, BusError, ConsumerSpec, Delivery, NatsSettings, Receipt, Subscription};
use crate::services::nats::{NatsServer, Version};

/// Anything missing must be noticed and created again within this time, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// The messages of both streams on the server's disk.
const MESSAGES: [&str; 2] = ["TESTS/msgs", "TESTS_RANGES/msgs"];

struct Setup {
    server: NatsServer,
    settings: NatsSettings,
    bus: Bus,
    context: Context,
}

impl Setup {
    async fn new(version: Version) -> Self {
        let server = NatsServer::start(version);
        let settings = NatsSettings { timeout: Duration::from_secs(2), ..nats_settings(&server) };
        let bus = Bus::connect_nats(settings.clone()).await.unwrap();
        let context = jetstream::new(async_nats::connect(server.url()).await.unwrap());
        Self { server, settings, bus, context }
    }

    async fn delete_consumer(&self, stream: &str, name: &str) {
        self.context.get_stream(stream).await.unwrap().delete_consumer(name).await.unwrap();
    }

    /// The bus reports it, and then that all is well.
    async fn is_named_and_heals(&self, named: &str) {
        let started = Instant::now();
        let mut seen = false;
        loop {
            match self.bus.ping().await {
                Err(error) => seen |= why(&error).contains(named),
                Ok(()) if seen => return,
                Ok(()) => {}
            }
            assert!(started.elapsed() < SOON, "named: {seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Publishes until it works again.
    async fn publish_again(&self, numbers: std::ops::Range<u64>) {
        let started = Instant::now();
        for n in numbers {
            loop {
                let mut batch = crate::bus::Batch::new();
                batch.push("a.b", Some(&format!("again-{n}")), |out| out.extend_from_slice(n.to_string().as_bytes()));
                if self.bus.publish(batch).await.remove(0).is_ok() {
                    break;
                }
                assert!(started.elapsed() < SOON, "nothing is taken");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

fn why(error: &BusError) -> String {
    crate::base::errors::chain(error)
}

/// Both kinds of consumers, with the stream of each.
fn specs() -> [(ConsumerSpec, &'static str); 2] {
    // Messages taken by a cancelled fetch are redelivered soon; nothing is dead-lettered because of it.
    let (ack_wait, spec) =
        (Duration::from_secs(2), |name: &str, filter: &str| ConsumerSpec { max_deliver: 1_000, ..spec(name, filter) });
    [
        (ConsumerSpec { matches_most: true, ack_wait, ..spec("engine", ">") }, "TESTS"),
        (ConsumerSpec { matches_most: true, coarse_acks: true, ack_wait, ..spec("sink", ">") }, "TESTS_RANGES"),
    ]
}

async fn fetch_some(subscription: &mut Subscription, messages_max: usize) -> Vec<Delivery> {
    let fetched = tokio::time::timeout(SOON, subscription.fetch(messages_max, usize::MAX)).await;
    let fetched = fetched.expect("messages are due").unwrap();
    acknowledge(subscription, &fetched).await;
    fetched
}

/// The deliveries of either of two subscriptions, acknowledged.
async fn fetch_from_either(one: &mut Subscription, other: &mut Subscription, messages_max: usize) -> Vec<Delivery> {
    let fetching = async {
        tokio::select! {
            fetched = one.fetch(messages_max, usize::MAX) => (fetched, true),
            fetched = other.fetch(messages_max, usize::MAX) => (fetched, false),
        }
    };
    let (fetched, first) = tokio::time::timeout(SOON, fetching).await.expect("messages are due");
    let fetched = fetched.unwrap();
    acknowledge(if first { one } else { other }, &fetched).await;
    fetched
}

async fn acknowledge(subscription: &Subscription, fetched: &[Delivery]) {
    let receipts: Vec<Receipt> = fetched.iter().map(|delivery| delivery.receipt).collect();
    subscription.acker().ack(&receipts).await.unwrap();
}

/// Fetches and acknowledges until all of these have arrived; those in `handled` must be flagged as possibly
/// redelivered.
async fn fetch_all(subscription: &mut Subscription, wanted: std::ops::Range<u64>, handled: u64) -> Vec<Delivery> {
    let mut missing: HashSet<String> = wanted.map(|n| n.to_string()).collect();
    let mut all = Vec::new();
    while !missing.is_empty() {
        for delivery in fetch_some(subscription, 1_000).await {
            assert!(
                delivery.possibly_redelivered || delivery.sequence() > handled,
                "{} is not suspect",
                delivery.sequence()
            );
            missing.remove(std::str::from_utf8(delivery.payload()).unwrap());
            all.push(delivery);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_consumer_is_created_again_and_redeliveries_are_flagged() {
    let setup = Setup::new(Version::Newest).await;
    for (spec, stream) in specs() {
        let name = spec.name.clone();
        let mut subscription = setup.bus.subscribe(spec).await.unwrap();
        publish_numbers(&setup.bus, 0..100).await;
        fetch_all(&mut subscription, 0..100, 0).await;
        let handled = setup.bus.status().await.unwrap().last_sequence;
        setup.delete_consumer(stream, &name).await;
        publish_numbers(&setup.bus, 100..120).await;
        let again = fetch_all(&mut subscription, 0..120, handled);
        let gone = format!("consumer {name} is gone");
        let (again, ()) = tokio::join!(again, setup.is_named_and_heals(&gone));
        assert!(again.len() >= 120);
        setup.context.get_stream("TESTS").await.unwrap().purge().await.unwrap();
    }
}

/// Another client creates it again before anything has noticed; the other process has no pending request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_consumer_is_noticed() {
    let setup = Setup::new(Version::Oldest).await;
    let other = Bus::connect_nats(setup.settings.clone()).await.unwrap();
    for (spec, stream) in specs() {
        let mut mine = setup.bus.subscribe(spec.clone()).await.unwrap();
        let mut theirs = other.subscribe(spec.clone()).await.unwrap();
        for round in 0..3 {
            publish_numbers(&setup.bus, 0..60).await;
            let handled = setup.bus.status().await.unwrap().last_sequence;
            // Everything requested arrives, so that no request is pending.
            while setup.bus.status().await.unwrap().consumers.iter().any(|c| c.name == spec.name && c.backlog > 0) {
                fetch_from_either(&mut mine, &mut theirs, 10).await;
            }
            setup.delete_consumer(stream, &spec.name).await;
            other.ensure_consumer(&spec).await.unwrap();
            let mut again = HashSet::new();
            let first = handled - 59;
            while again.len() < 60 {
                for delivery in fetch_from_either(&mut mine, &mut theirs, 7).await {
                    assert!(delivery.possibly_redelivered, "round {round}: {} is not suspect", delivery.sequence());
                    again.extend((delivery.sequence() >= first).then_some(delivery.sequence()));
                }
            }
        }
        setup.context.get_stream("TESTS").await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_queue_of_chunks_is_recreated_from_the_stream() {
    let setup = Setup::new(Version::Newest).await;
    let [_, (spec, stream)] = specs();
    let mut subscription = setup.bus.subscribe(spec).await.unwrap();
    publish_numbers(&setup.bus, 0..100).await;
    fetch_all(&mut subscription, 0..100, 0).await;
    setup.context.delete_stream(stream).await.unwrap();
    publish_numbers(&setup.bus, 100..120).await;
    let again = fetch_all(&mut subscription, 0..120, 100);
    tokio::join!(again, setup.is_named_and_heals("stream TESTS_RANGES is gone"));
    assert!(setup.bus.warnings().iter().any(|(_, text)| text.as_ref().is_some_and(|t| t.contains(stream))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_stream_is_recreated_with_a_new_id() {
    let setup = Setup::new(Version::Oldest).await;
    for (spec, _) in specs() {
        let mut subscription = setup.bus.subscribe(spec).await.unwrap();
        setup.publish_again(0..50).await;
        fetch_all(&mut subscription, 0..50, 0).await;
        let before = subscription.stream_id();
        assert_eq!(before, setup.bus.stream_id());
        setup.context.delete_stream("TESTS").await.unwrap();
        let publish = setup.publish_again(200..220);
        let (came, (), ()) = tokio::join!(
            fetch_all(&mut subscription, 200..220, 0),
            publish,
            setup.is_named_and_heals("stream TESTS is gone")
        );
        assert!(came.iter().all(|delivery| delivery.sequence() <= 40), "it counts anew");
        assert!(subscription.stream_id() != before && subscription.stream_id() == setup.bus.stream_id());
        let warnings = setup.bus.warnings();
        assert!(warnings.iter().any(|(_, text)| text.as_ref().is_some_and(|t| t.contains("stream TESTS was gone"))));
        setup.context.get_stream("TESTS").await.unwrap().purge().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_returns_empty_is_reconciled() {
    let mut setup = Setup::new(Version::Newest).await;
    let mut subscriptions = Vec::new();
    publish_numbers(&setup.bus, 0..30).await;
    for (spec, _) in specs() {
        let mut subscription = setup.bus.subscribe(spec).await.unwrap();
        fetch_all(&mut subscription, 0..30, 0).await;
        subscriptions.push(subscription);
    }
    let before = setup.bus.stream_id();
    setup.server.kill9();
    setup.server.lose_data();
    setup.server.restart();
    setup.publish_again(100..120).await;
    for subscription in &mut subscriptions {
        fetch_all(subscription, 100..120, 0).await;
        assert_ne!(subscription.stream_id(), before);
    }
    let started = Instant::now();
    while setup.bus.ping().await.is_err() {
        assert!(started.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Both streams, as after a power cut, while the positions of the consumers are on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_sequences_of_lost_ones_are_delivered() {
    for version in [Version::Oldest, Version::Newest] {
        let mut setup = Setup::new(version).await;
        let mut subscriptions = Vec::new();
        for (spec, _) in specs() {
            subscriptions.push(setup.bus.subscribe(spec).await.unwrap());
        }
        publish_numbers(&setup.bus, 0..20).await;
        for subscription in &mut subscriptions {
            fetch_all(subscription, 0..20, 0).await;
        }
        let copy = tempfile::tempdir().unwrap();
        setup.server.kill9();
        MESSAGES.iter().for_each(|part| setup.server.copy_stored(part, &copy.path().join(part)));
        setup.server.restart();
        for numbers in [1_000..1_020, 1_020..1_040, 1_040..1_060] {
            setup.publish_again(numbers.clone()).await;
            for subscription in &mut subscriptions {
                fetch_all(subscription, numbers.clone(), 20).await;
            }
        }
        setup.server.kill9();
        MESSAGES.iter().for_each(|part| setup.server.put_back(part, &copy.path().join(part)));
        setup.server.restart();
        setup.publish_again(2_000..2_030).await;
        assert!(setup.bus.status().await.unwrap().last_sequence < 80, "the tail is not lost");
        for subscription in &mut subscriptions {
            fetch_all(subscription, 2_000..2_030, 20).await;
        }
    }
}

/// The stream reuses the sequences beyond the position on disk, which is older than the last deliveries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outdated_position_in_a_stream_that_lost_its_tail_skips_no_message() {
    for version in [Version::Oldest, Version::Newest] {
        let mut setup = Setup::new(version).await;
        let [(spec, _), _] = specs();
        let mut subscription = setup.bus.subscribe(spec).await.unwrap();
        let copy = tempfile::tempdir().unwrap();
        let parts = ["TESTS/msgs", "TESTS/obs/engine"];
        for (numbers, part) in [0..20, 20..40].into_iter().zip(parts) {
            setup.publish_again(numbers.clone()).await;
            fetch_all(&mut subscription, numbers, 0).await;
            // The server writes positions a little later.
            tokio::time::sleep(Duration::from_millis(500)).await;
            setup.server.kill9();
            setup.server.copy_stored(part, &copy.path().join(part));
            setup.server.restart();
        }
        setup.publish_again(40..60).await;
        fetch_all(&mut subscription, 40..60, 0).await;
        setup.server.kill9();
        parts.iter().for_each(|part| setup.server.put_back(part, &copy.path().join(part)));
        setup.server.restart();
        setup.publish_again(1_000..1_025).await;
        assert_eq!(setup.bus.status().await.unwrap().last_sequence, 45);
        fetch_all(&mut subscription, 1_000..1_025, 45).await;
    }
}

/// Until all of these have arrived, without acknowledging them.
async fn take_all(subscription: &mut Subscription, numbers: std::ops::Range<u64>) -> Vec<Receipt> {
    let mut missing: HashSet<String> = numbers.map(|n| n.to_string()).collect();
    let mut receipts = Vec::new();
    while !missing.is_empty() {
        let fetched = tokio::time::timeout(SOON, subscription.fetch(1_000, usize::MAX)).await;
        for delivery in fetched.expect("messages are due").unwrap() {
            missing.remove(std::str::from_utf8(delivery.payload()).unwrap());
            receipts.push(delivery.receipt);
        }
    }
    receipts
}

/// The process that took the new messages ends before it has handled them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_acknowledgements_of_lost_messages_hide_no_new_one() {
    for (spec, _) in specs() {
        let mut setup = Setup::new(Version::Newest).await;
        let mut subscription = setup.bus.subscribe(spec.clone()).await.unwrap();
        publish_numbers(&setup.bus, 0..20).await;
        fetch_all(&mut subscription, 0..20, 0).await;
        let copy = tempfile::tempdir().unwrap();
        setup.server.kill9();
        MESSAGES.iter().for_each(|part| setup.server.copy_stored(part, &copy.path().join(part)));
        setup.server.restart();
        let mut handled = Vec::new();
        for start in [20, 30, 40, 50] {
            setup.publish_again(start..start + 10).await;
            handled.extend(take_all(&mut subscription, start..start + 10).await);
        }
        setup.server.kill9();
        MESSAGES.iter().for_each(|part| setup.server.put_back(part, &copy.path().join(part)));
        setup.server.restart();
        setup.publish_again(1_000..1_020).await;
        let other = Bus::connect_nats(setup.settings.clone()).await.unwrap();
        let mut theirs = other.subscribe(spec).await.unwrap();
        take_all(&mut theirs, 1_000..1_020).await;
        // The server does not confirm those that are still beyond its position.
        let _ = subscription.acker().ack(&handled).await;
        drop(theirs);
        other.close().await;
        fetch_all(&mut subscription, 1_000..1_020, 40).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_stream_continues() {
    let setup = Setup::new(Version::Newest).await;
    for (spec, _) in specs() {
        let mut subscription = setup.bus.subscribe(spec).await.unwrap();
        publish_numbers(&setup.bus, 0..50).await;
        fetch_some(&mut subscription, 10).await;
        setup.context.get_stream("TESTS").await.unwrap().purge().await.unwrap();
        publish_numbers(&setup.bus, 50..70).await;
        fetch_all(&mut subscription, 50..70, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stream_of_dead_letters_is_recreated() {
    let setup = Setup::new(Version::Oldest).await;
    let mut subscription = setup.bus.subscribe(spec("engine", ">")).await.unwrap();
    publish_numbers(&setup.bus, 0..1).await;
    let delivery = subscription.fetch(1, usize::MAX).await.unwrap().remove(0);
    setup.context.delete_stream("TESTS_DLQ").await.unwrap();
    setup.is_named_and_heals("stream TESTS_DLQ is gone").await;
    subscription.acker().dead_letter(delivery.receipt, "cannot be read").await.unwrap();
    assert_eq!(setup.bus.dead_letters(None, 10).await.unwrap().len(), 1);
}

/// A limit that would drop messages, and a consumer that would not deliver them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_at_runtime_are_reverted() {
    let setup = Setup::new(Version::Newest).await;
    let [(spec, _), _] = specs();
    let mut subscription = setup.bus.subscribe(spec).await.unwrap();
    let mut stream = setup.context.get_stream("TESTS").await.unwrap();
    let mut config = stream.cached_info().config.clone();
    config.max_messages_per_subject = 1;
    setup.context.update_stream(&config).await.unwrap();
    let hour = jiff::Timestamp::now().as_second() + 3_600;
    let until = async_nats::datetime::DateTime::from_unix_timestamp(hour).unwrap();
    stream.pause_consumer("engine", until).await.unwrap();
    let started = Instant::now();
    while stream.info().await.unwrap().config.max_messages_per_subject != -1
        || stream.consumer_info("engine").await.unwrap().paused
    {
        assert!(started.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    publish_numbers(&setup.bus, 0..20).await;
    fetch_all(&mut subscription, 0..20, 0).await;
}
