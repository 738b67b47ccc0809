//! What a consumer of ranges promises, on the oldest and the newest server.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::bus::conformance::{Fixture, fetch, nats_settings, payloads, publish, publish_numbers, spec};
use crate::bus::{Bus, ConsumerSpec, Delivery, Receipt, Subscription};
use crate::services::nats::{NatsServer, Version};

fn coarse(filter: &str) -> ConsumerSpec {
    ConsumerSpec { takes_most: true, coarse: true, ..spec("sink", filter) }
}

fn receipts(deliveries: &[Delivery]) -> Vec<Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

fn sequences(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(Delivery::sequence).collect()
}

async fn both(change: fn(&mut crate::bus::NatsSettings)) -> [Fixture; 2] {
    [Fixture::oldest_nats(change).await, Fixture::newest_nats(change).await]
}

async fn silent(subscription: &mut Subscription) -> bool {
    tokio::time::timeout(Duration::from_millis(300), subscription.fetch(10, usize::MAX)).await.is_err()
}

/// The figures of the only consumer: backlog, pending, floor.
async fn figures(bus: &Bus) -> (u64, u64, u64) {
    let status = bus.status().await.unwrap();
    let consumer = &status.consumers[0];
    (consumer.backlog, consumer.pending, consumer.ack_floor)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_come_in_order_and_once() {
    for fixture in both(|_| {}).await {
        let bus = &fixture.bus;
        publish_numbers(bus, 0..1_000).await;
        let mut subscription = bus.subscribe(coarse(">")).await.unwrap();
        assert_eq!(figures(bus).await, (1_000, 0, 0));
        let mut all = Vec::new();
        while all.len() < 1_000 {
            let some = subscription.fetch(300, usize::MAX).await.unwrap();
            assert!(some.len() <= 300 && some.iter().all(|delivery| delivery.suspect));
            all.extend(some);
        }
        for start in (1_000..2_000).step_by(100) {
            publish_numbers(bus, start..start + 100).await;
            let some = fetch(&mut subscription, 100).await;
            assert!(some.iter().all(|delivery| !delivery.suspect && delivery.delivery_count == 1));
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
async fn a_waiting_fetch_wakes_at_once() {
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
async fn limits_of_bytes_hold_and_one_message_passes_any() {
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
async fn subscriptions_share_the_ranges_and_each_message_goes_to_one() {
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
async fn what_is_not_acknowledged_comes_again_with_its_range() {
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
        assert!(again.iter().all(|delivery| delivery.suspect && delivery.delivery_count == 2));
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
