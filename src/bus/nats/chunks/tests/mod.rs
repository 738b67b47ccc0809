//! Tests of consumers that lease chunks, on the oldest and the newest server.

mod replicas;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::bus::conformance::{Fixture, crash_on, fetch, nats_settings, payloads, publish, publish_numbers, spec};
use crate::bus::{Bus, ConsumerSpec, Delivery, Receipt, Subscription};
use crate::services::nats::{NatsServer, Version};

pub(super) fn coarse(filter: &str) -> ConsumerSpec {
    ConsumerSpec { matches_most: true, coarse_acks: true, ..spec("sink", filter) }
}

pub(super) fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

pub(super) fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(Delivery::sequence).collect()
}

async fn both(change: fn(&mut crate::bus::NatsSettings)) -> [Fixture; 2] {
    [Fixture::oldest_nats(change).await, Fixture::newest_nats(change).await]
}

async fn silent(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(Duration::from_millis(300), subscription.fetch(10, usize::MAX)).await.is_err()
}

/// The figures of the only consumer: backlog, pending, floor.
pub(super) async fn figures(bus: &Bus) -> (u64, u64, u64) {
    let status = bus.status().await.unwrap();
    let consumer = &status.consumers[0];
    (consumer.backlog, consumer.pending, consumer.ack_floor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivers_in_order_and_only_once() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        publish_numbers(bus, 0..1_000).await;
        let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
        assert_eq!(figures(bus).await, (1_000, 0, 0));
        let mut all = Vec::new();
        while all.len() < 1_000 {
            let some = subscription.fetch(300, usize::MAX).await.unwrap();
            assert!(some.len() <= 300 && some.iter().all(|delivery| delivery.possibly_redelivered));
            all.extend(some);
        }
        for start in (1_000..2_000).step_by(100) {
            publish_numbers(bus, start..start + 100).await;
            let some = fetch(&mut subscription, 100).await;
            assert!(some.iter().all(|delivery| !delivery.possibly_redelivered && delivery.delivery_count == 1));
            all.extend(some);
        }
        assert_eq!(sequences(&all), (1..=2_000).collect::<Vec<_>>());
        assert_eq!(payloads(&all), (0..2_000).map(|n| n.to_string()).collect::<Vec<_>>());
        assert!(all.iter().all(|delivery| delivery.subject() == b"a.b" && delivery.published_at_ms > 0));
        assert_eq!(figures(bus).await, (2_000, 2_000, 0));
        let acker = subscription.acker();
        acker.ack(&receipts(&all[..1_500])).await.unwrap();
        let (backlog, _, floor) = figures(bus).await;
        assert!((1_400..=1_500).contains(&floor) && (500..=600).contains(&backlog), "{backlog} {floor}");
        acker.ack(&receipts(&all)).await.expect("to acknowledge twice is no error");
        assert_eq!(figures(bus).await, (0, 0, 2_000));
        assert!(silent(&mut subscription).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_fetch_wakes_immediately() {
    for fixture in both(|_| {}).await {
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        for round in 0..5 {
            assert!(silent(&mut subscription).await);
            let began = Instant::now();
            let (fetched, ()) =
                tokio::join!(subscription.fetch(10, 1), publish_numbers(&fixture.bus, round..round + 1));
            assert_eq!(payloads(&fetched.unwrap()), [round.to_string()]);
            assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn byte_limits_hold_except_for_a_single_message() {
    let fixture = Fixture::newest_nats(|_| {}).await;
    let bus = &fixture.bus;
    let mut batch = crate::bus::Batch::new();
    (0..60_u8).for_each(|n| batch.push("a.b", None, |out| out.extend(std::iter::repeat_n(n, 100_000))));
    assert!(bus.publish(batch).await.iter().all(Result::is_ok));
    let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
    let mut all = Vec::new();
    while all.len() < 60 {
        let some = subscription.fetch(1_000, if all.is_empty() { 1 } else { 450_000 }).await.unwrap();
        assert!(some.len() <= if all.is_empty() { 1 } else { 5 }, "{}", some.len());
        all.extend(some);
    }
    assert_eq!(sequences(&all), (1..=60).collect::<Vec<_>>());
    subscription.acker().ack(&receipts(&all)).await.unwrap();
    assert_eq!(figures(bus).await, (0, 0, 60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_share_the_chunks_and_each_message_goes_to_one() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        let read = |bus: Bus| async move {
            let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
            let mut seen = Vec::new();
            while let Ok(some) =
                tokio::time::timeout(Duration::from_millis(1_500), subscription.fetch(500, usize::MAX)).await
            {
                let some = some.unwrap();
                subscription.acker().ack(&receipts(&some)).await.unwrap();
                seen.extend(sequences(&some));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            seen
        };
        publish_numbers(bus, 0..20_000).await;
        let publishing = async {
            for start in (20_000..24_000).step_by(20) {
                publish_numbers(bus, start..start + 20).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let (left, right, third, ()) =
            tokio::join!(read(bus.clone()), read(bus.clone()), read(bus.clone()), publishing);
        let mut all = [&left[..], &right, &third].concat();
        all.sort_unstable();
        assert_eq!(all, (1..=24_000).collect::<Vec<_>>());
        assert!(left.len().min(right.len()).min(third.len()) > 1_000, "{} {} {}", left.len(), right.len(), third.len());
        assert_eq!(figures(bus).await, (0, 0, 24_000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unacknowledged_messages_are_redelivered_with_their_chunk() {
    for mut fixture in both(|_| {}).await {
        let short = ConsumerSpec { ack_wait: Duration::from_secs(1), ..coarse(">") };
        publish_numbers(&fixture.bus, 0..10).await;
        let mut subscription = fixture.bus.subscribe(short.clone()).await.unwrap();
        let began = Instant::now();
        let all = fetch(&mut subscription, 10).await;
        publish_numbers(&fixture.bus, 10..12).await;
        let more = fetch(&mut subscription, 2).await;
        let acker = subscription.acker();
        acker.ack(&receipts(&all[..9])).await.unwrap();
        acker.ack(&receipts(&more)).await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            acker.renew(&[all[9].receipt]).await.unwrap();
        }
        assert!(silent(&mut subscription).await, "it is renewed");
        let again = fetch(&mut subscription, 10).await;
        assert!(began.elapsed() > Duration::from_millis(2_600), "{:?}", began.elapsed());
        assert_eq!(sequences(&again), (1..=10).collect::<Vec<_>>());
        assert!(again.iter().all(|delivery| delivery.possibly_redelivered && delivery.delivery_count == 2));
        let lost = acker.renew(&receipts(&all)).await.unwrap_err();
        assert_eq!(lost.kind, crate::bus::BusErrorKind::LeaseLost);
        drop(subscription);
        fixture.reopen().await;
        let mut subscription = fixture.bus.subscribe(short).await.unwrap();
        let third = fetch(&mut subscription, 10).await;
        assert_eq!((sequences(&third), third[0].delivery_count), ((1..=10).collect(), 3));
        subscription.acker().ack(&receipts(&third)).await.unwrap();
        assert_eq!(figures(&fixture.bus).await, (0, 0, 12));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn released_messages_are_redelivered_immediately() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        publish_numbers(bus, 0..300).await;
        let waits =
            |name: &str| ConsumerSpec { ack_wait: Duration::from_secs(30), name: name.to_owned(), ..coarse(">") };
        let mut subscription = bus.subscribe(waits("sink")).await.unwrap();
        let some = subscription.fetch(100, usize::MAX).await.unwrap();
        subscription.acker().ack(&receipts(&some[..40])).await.unwrap();
        // Messages that the server is just sending are redelivered when their lease expires.
        tokio::time::sleep(Duration::from_millis(300)).await;
        subscription.release().await.unwrap();
        drop(subscription);
        let mut subscription = bus.subscribe(waits("sink")).await.unwrap();
        let began = Instant::now();
        let again = fetch(&mut subscription, 300).await;
        assert_eq!(sequences(&again).into_iter().collect::<HashSet<_>>(), (1..=300).collect());
        assert!(again.iter().all(|delivery| delivery.possibly_redelivered) && began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_for_others_and_messages_that_are_gone_are_skipped() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        let mut other = bus.subscribe(spec("other", "events.>")).await.unwrap();
        let messages = ["events.a", "anomalies", "events.b", "events.c", "anomalies.x", "events.d"];
        publish(bus, &messages.map(|subject| (subject, None, subject))).await;
        let reconnects_exhausted = fetch(&mut other, 4).await;
        other.acker().dead_letter(reconnects_exhausted[0].receipt, "not readable").await.unwrap();
        other.acker().ack(&receipts(&reconnects_exhausted)).await.unwrap();
        let letter = bus.dead_letters(None, 1).await.unwrap().remove(0);
        assert!(bus.replay_dead_letter(letter.id).await.unwrap());
        let stream = raw_stream(&fixture).await;
        assert!(stream.delete_message(4).await.unwrap());
        let mut subscription = bus.subscribe(coarse("events.>")).await.unwrap();
        let all = fetch(&mut subscription, 3).await;
        assert_eq!(payloads(&all), ["events.a", "events.b", "events.d"], "not the replay for the other consumer");
        assert!(silent(&mut subscription).await);
        subscription.acker().ack(&receipts(&all)).await.unwrap();
        let sink = |status: crate::bus::BusStatus| status.consumers.into_iter().find(|c| c.name == "sink").unwrap();
        let place = sink(bus.status().await.unwrap());
        assert_eq!((place.backlog, place.pending, place.ack_floor), (0, 0, 7));

        // Allocated, not leased, and gone before they are read: at the end, in the middle, and all.
        drop(subscription);
        let mut subscription = bus.subscribe(coarse("events.>")).await.unwrap();
        publish(bus, &["events.e", "events.f", "events.g"].map(|subject| (subject, None, subject))).await;
        let some = fetch(&mut subscription, 3).await;
        drop((some, subscription));
        for sequence in [9, 10] {
            stream.delete_message(sequence).await.unwrap();
        }
        let short = ConsumerSpec { ack_wait: Duration::from_secs(1), ..coarse("events.>") };
        let mut subscription = bus.subscribe(short).await.unwrap();
        let rest = fetch(&mut subscription, 1).await;
        assert_eq!(payloads(&rest), ["events.e"]);
        subscription.acker().ack(&receipts(&rest)).await.unwrap();
        publish(bus, &["events.h", "events.i"].map(|subject| (subject, None, subject))).await;
        let rest = fetch(&mut subscription, 2).await;
        assert_eq!(payloads(&rest), ["events.h", "events.i"]);
        subscription.acker().ack(&receipts(&rest)).await.unwrap();
        stream.purge().await.unwrap();
        publish(bus, &[("events.j", None, "events.j")]).await;
        let last = fetch(&mut subscription, 1).await;
        assert_eq!(payloads(&last), ["events.j"]);
        subscription.acker().ack(&receipts(&last)).await.unwrap();
        let began = Instant::now();
        while sink(bus.status().await.unwrap()).backlog > 0 {
            assert!(began.elapsed() < Duration::from_secs(10), "{:?}", bus.status().await);
            // Messages that no longer exist are redelivered, and found to be gone.
            let _ = tokio::time::timeout(Duration::from_millis(200), subscription.fetch(10, 1 << 20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_messages_of_a_chunk_are_released_and_dead_lettered() {
    let fixture = Fixture::newest_nats(|_| {}).await;
    let bus = &fixture.bus;
    let short = ConsumerSpec { ack_wait: Duration::from_secs(1), max_deliver: 2, ..coarse(">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    publish_numbers(bus, 0..4).await;
    let all = fetch(&mut subscription, 4).await;
    let acker = subscription.acker();
    acker.dead_letter(all[1].receipt, "not readable").await.unwrap();
    acker.nak(&[all[2].receipt], Duration::ZERO, "again").await.unwrap();
    assert!(silent(&mut subscription).await, "the range is not settled yet");
    acker.ack(&[all[0].receipt, all[3].receipt]).await.unwrap();
    let again = fetch(&mut subscription, 4).await;
    assert_eq!((sequences(&again), again[0].delivery_count), (vec![1, 2, 3, 4], 2));
    acker.nak(&[again[2].receipt], Duration::ZERO, "the last time").await.unwrap();
    acker.ack(&[again[0].receipt]).await.unwrap();
    // Two of four were not answered, which does not count as a failure.
    let third = fetch(&mut subscription, 4).await;
    acker.ack(&receipts(&third)).await.unwrap();
    let letters = bus.dead_letters(None, 10).await.unwrap();
    let mut said: Vec<_> = letters.iter().map(|letter| (letter.sequence, letter.reason.as_str())).collect();
    said.sort_unstable();
    assert_eq!(said, [(2, "not readable"), (3, "the last time")]);
    assert_eq!(figures(bus).await, (0, 0, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_messages_that_end_the_process_alone_are_dead_lettered() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        publish_numbers(bus, 0..40).await;
        let short = ConsumerSpec { ack_wait: Duration::from_secs(1), max_deliver: 1, ..coarse(">") };
        let trials = crash_on(bus, &short, 40, "17").await;
        // Messages that survived a trial are redelivered with their chunk, in another trial.
        assert!(trials < 40, "{trials} trials of 40 messages");
        let letters = bus.dead_letters(None, 10).await.unwrap();
        assert_eq!((letters.len(), &letters[0].payload[..]), (1, &b"17"[..]), "{letters:?}");
    }
}

/// Neither unread messages nor chunks that are still needed are purged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_acknowledged_by_all_are_purged_with_their_chunks() {
    for mut fixture in both(|settings| settings.age_max = Duration::ZERO).await {
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        let mut all = Vec::new();
        for round in 0..6 {
            publish_numbers(&fixture.bus, round * 10..round * 10 + 10).await;
            all.extend(fetch(&mut subscription, 10).await);
        }
        let purge = |bus: Bus| async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let purged = bus.purge_acknowledged().await.unwrap();
            (purged, bus.status().await.unwrap().messages)
        };
        let queue = |fixture: &Fixture| {
            let queue = raw_stream_named(fixture, "TESTS_RANGES");
            async move { queue.await.get_info().await.unwrap().state.messages }
        };
        assert_eq!(purge(fixture.bus.clone()).await, (0, 60));
        let chunks = queue(&fixture).await;
        subscription.acker().ack(&receipts(&all[..35])).await.unwrap();
        subscription.acker().ack(&receipts(&all[50..])).await.unwrap();
        let (purged, kept) = purge(fixture.bus.clone()).await;
        assert!((20..=30).contains(&purged) && purged + kept == 60, "{purged}, {kept}");
        assert!(queue(&fixture).await < chunks, "of {chunks}");
        fixture.reopen().await;
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        publish_numbers(&fixture.bus, 60..61).await;
        assert_eq!(payloads(&fetch(&mut subscription, 1).await), ["60"]);
        subscription.acker().ack(&receipts(&all)).await.unwrap();
        assert_eq!(purge(fixture.bus.clone()).await.0, 0, "of another subscription's messages nothing is known");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_of_single_messages_is_taken_over_at_its_position() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        publish_numbers(bus, 0..20).await;
        let mut before = bus.subscribe(spec("sink", ">")).await.unwrap();
        let some = fetch(&mut before, 12).await;
        before.acker().ack(&receipts(&some[..8])).await.unwrap();
        drop(before);
        let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
        let rest = fetch(&mut subscription, 12).await;
        assert_eq!(sequences(&rest), (9..=20).collect::<Vec<_>>());
        subscription.acker().ack(&receipts(&rest)).await.unwrap();
        let status = bus.status().await.unwrap();
        assert_eq!((status.consumers.len(), status.consumers[0].backlog), (1, 0), "{status:?}");
    }
}

/// A stream that was created again, or lost its end in a crash and has reassigned those sequences since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_with_reused_sequences_are_read_too() {
    for mut fixture in both(|_| {}).await {
        publish_numbers(&fixture.bus, 0..30).await;
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        let all = fetch(&mut subscription, 30).await;
        subscription.acker().ack(&receipts(&all)).await.unwrap();
        drop(subscription);
        let stream = raw_stream(&fixture).await;
        let queue = raw_stream_named(&fixture, "TESTS_RANGES").await;
        // As if the chunk of the last ten had been allocated from messages that were lost.
        let subject = "ranges.TESTS.sink";
        let last = queue.get_last_raw_message_by_subject(subject).await.unwrap();
        let mut chunk: serde_json::Value = serde_json::from_slice(&last.payload).unwrap();
        assert_eq!((&chunk["first"], &chunk["last"]), (&1.into(), &30.into()));
        let time = stream.get_raw_message(20).await.unwrap().time.unix_timestamp_nanos() as i64;
        let context = raw_context(&fixture).await;
        queue.purge().await.unwrap();
        for (first, last, last_time) in [(1, 20, time), (21, 25, 7), (26, 40, 8)] {
            chunk["first"] = first.into();
            chunk["last"] = last.into();
            chunk["last_time"] = last_time.into();
            context.publish(subject, chunk.to_string().into()).await.unwrap().await.unwrap();
        }
        fixture.reopen().await;
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        let mut again = HashSet::new();
        while again.len() < 30 {
            let some = fetch(&mut subscription, 1).await;
            assert!(some[0].possibly_redelivered);
            again.extend(sequences(&some));
            subscription.acker().ack(&receipts(&some)).await.unwrap();
        }
        assert_eq!(figures(&fixture.bus).await, (0, 0, 30));

        context.delete_stream("TESTS").await.unwrap();
        fixture.reopen().await;
        publish_numbers(&fixture.bus, 100..105).await;
        let mut subscription = fixture.bus.subscribe(coarse(">")).await.unwrap();
        let anew = fetch(&mut subscription, 5).await;
        assert_eq!(payloads(&anew), ["100", "101", "102", "103", "104"]);
        subscription.acker().ack(&receipts(&anew)).await.unwrap();
        assert_eq!(figures(&fixture.bus).await, (0, 0, 5));
    }
}

/// Stored by a process that did not know yet that the stream had lost its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_beyond_the_end_of_the_stream_is_removed() {
    let fixture = Fixture::newest_nats(|_| {}).await;
    let bus = &fixture.bus;
    let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
    publish_numbers(bus, 0..10).await;
    let all = fetch(&mut subscription, 10).await;
    subscription.acker().ack(&receipts(&all)).await.unwrap();
    let subject = "ranges.TESTS.sink";
    let queue = raw_stream_named(&fixture, "TESTS_RANGES").await;
    let last = queue.get_last_raw_message_by_subject(subject).await.unwrap();
    let mut chunk: serde_json::Value = serde_json::from_slice(&last.payload).unwrap();
    (chunk["first"], chunk["last"]) = (11.into(), 20.into());
    raw_context(&fixture).await.publish(subject, chunk.to_string().into()).await.unwrap().await.unwrap();
    let reading = async {
        let mut seen = HashSet::new();
        while seen.len() < 15 {
            let some = fetch(&mut subscription, 1).await;
            seen.extend(sequences(&some));
            subscription.acker().ack(&receipts(&some)).await.unwrap();
        }
        seen
    };
    let publishing = async {
        for n in 0..15 {
            tokio::time::sleep(Duration::from_millis(if n == 5 { 8_000 } else { 10 })).await;
            publish_numbers(bus, n..n + 1).await;
        }
    };
    let (seen, ()) = tokio::join!(reading, publishing);
    assert_eq!(seen, (11..=25).collect());
    let began = Instant::now();
    while figures(bus).await != (0, 0, 25) {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", figures(bus).await);
        if let Ok(some) = tokio::time::timeout(Duration::from_millis(200), subscription.fetch(500, 1 << 20)).await {
            subscription.acker().ack(&receipts(&some.unwrap())).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_loses_no_message() {
    let mut server = NatsServer::start(Version::Newest);
    let bus = Bus::connect_nats(nats_settings(&server)).await.unwrap();
    let short = ConsumerSpec { ack_wait: Duration::from_secs(2), ..coarse(">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    let mut seen = HashSet::new();
    for round in 1..=4_u64 {
        publish_numbers(&bus, 0..500).await;
        let some = fetch(&mut subscription, 100).await;
        assert!(subscription.lease_grant().is_remembered());
        let leased = subscription.lease_grant();
        server.kill9();
        // It may be sent again to the new server; then they are not redelivered.
        seen.extend(sequences(&some));
        let _ = subscription.acker().ack(&receipts(&some)).await;
        server.restart();
        let began = Instant::now();
        while leased.is_remembered() {
            assert!(began.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while (seen.len() as u64) < 500 * round {
            let some = fetch(&mut subscription, 1).await;
            seen.extend(sequences(&some));
            subscription.acker().ack(&receipts(&some)).await.unwrap();
            assert!(began.elapsed() < Duration::from_secs(20), "{} in round {round}", seen.len());
        }
    }
    let began = Instant::now();
    while figures(&bus).await != (0, 0, 2_000) {
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", figures(&bus).await);
        // Messages acknowledged over a connection that was lost are redelivered.
        if let Ok(some) = tokio::time::timeout(Duration::from_millis(200), subscription.fetch(500, 1 << 20)).await {
            subscription.acker().ack(&receipts(&some.unwrap())).await.unwrap();
        }
    }
}

async fn raw_context(fixture: &Fixture) -> async_nats::jetstream::Context {
    let client = async_nats::connect(fixture.nats_url()).await.unwrap();
    async_nats::jetstream::new(client)
}

async fn raw_stream(fixture: &Fixture) -> async_nats::jetstream::stream::Stream {
    raw_stream_named(fixture, "TESTS").await
}

fn raw_stream_named(
    fixture: &Fixture,
    name: &'static str,
) -> impl Future<Output = async_nats::jetstream::stream::Stream> + use<> {
    let url = fixture.nats_url();
    async move {
        let client = async_nats::connect(url).await.unwrap();
        async_nats::jetstream::new(client).get_stream(name).await.unwrap()
    }
}
