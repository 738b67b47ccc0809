//! The conformance suite for erasing messages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Fixture, fetch, payloads, publish, publish_numbers, receipts, spec};
use crate::bus::{
    Bus, ConsumerSpec, ErasePredicate, EraseSpan, Erased, ErasedDeadLetters, RefusedInput, Subscription, acked_through,
};

/// Longer than any of these tests takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Matches payloads that end with these digits.
fn ending(digits: &'static str) -> ErasePredicate {
    Arc::new(move |_, payload| payload.ends_with(digits.as_bytes()))
}

fn span(after: u64, through: u64) -> EraseSpan {
    EraseSpan { after, through, messages_max: u64::MAX, time_max: PATIENCE }
}

/// Fetches and acknowledges until nothing more arrives.
async fn drain(subscription: &mut Subscription) -> Vec<String> {
    let mut all = Vec::new();
    while let Ok(fetched) =
        tokio::time::timeout(Duration::from_millis(800), subscription.fetch(1_000, usize::MAX)).await
    {
        let fetched = fetched.unwrap();
        subscription.acker().ack(&receipts(&fetched)).await.unwrap();
        all.extend(payloads(&fetched));
    }
    all
}

async fn until_settled(bus: &Bus, sequence: u64) {
    let began = Instant::now();
    loop {
        let status = bus.status().await.unwrap();
        if acked_through(&status, sequence) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn without(digits: &str, numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|n| n.to_string()).filter(|n| !n.ends_with(digits)).collect()
}

pub(crate) async fn erased_messages_are_not_delivered(mut fixture: Fixture) {
    let bus = &fixture.bus;
    let mut early = bus.subscribe(spec("early", ">")).await.unwrap();
    bus.ensure_consumer(&ConsumerSpec { coarse_acks: true, matches_most: true, ..spec("coarse", ">") }).await.unwrap();
    for start in (0..1_000).step_by(100) {
        publish_numbers(bus, start..start + 100).await;
    }
    let first = fetch(&mut early, 50).await;
    early.acker().ack(&receipts(&first)).await.unwrap();
    let erased = bus.erase(span(0, 1_000), &ending("7")).await.unwrap();
    assert_eq!(erased, Erased { scanned_through: 1_000, reached: 1_000, messages: 100 });
    assert!(bus.wipe(Instant::now() + Duration::from_secs(20)).await.unwrap());
    let again = bus.erase(span(0, 1_000), &ending("7")).await.unwrap();
    assert_eq!(again, Erased { scanned_through: 1_000, reached: 1_000, messages: 0 }, "repeating it changes nothing");
    assert!(!acked_through(&bus.status().await.unwrap(), 1_000), "others have not read");
    // The last message of the stream, and one that is stored later.
    publish_numbers(bus, 1_000..1_008).await;
    assert_eq!(bus.erase(span(1_000, 1_008), &ending("7")).await.unwrap().messages, 1);
    publish_numbers(bus, 1_008..1_020).await;
    assert_eq!(
        drain(&mut early).await,
        without("7", 50..1_008).into_iter().chain(without("-", 1_008..1_020)).collect::<Vec<_>>()
    );
    drop(early);
    fixture.reopen().await;
    let bus = &fixture.bus;
    let expected: Vec<String> = without("7", 0..1_008).into_iter().chain(without("-", 1_008..1_020)).collect();
    for coarse in [false, true] {
        let name = if coarse { "coarse" } else { "late" };
        let consumer = ConsumerSpec { coarse_acks: coarse, matches_most: coarse, ..spec(name, ">") };
        let mut subscription = bus.subscribe(consumer).await.unwrap();
        assert_eq!(drain(&mut subscription).await, expected, "{name}");
    }
    until_settled(bus, 1_020).await;
    assert_eq!(bus.status().await.unwrap().last_sequence, 1_020, "no sequence is given to another message");
}

/// Its floor is at its own last message.
pub(crate) async fn consumers_of_other_subjects_do_not_block(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut others = bus.subscribe(spec("others", "anomalies.>")).await.unwrap();
    publish(bus, &[("anomalies.a.x", None, "1"), ("anomalies.a.y", None, "2")]).await;
    assert_eq!(fetch(&mut others, 2).await.len(), 2);
    publish_numbers(bus, 0..20).await;
    let erased = bus.erase(span(0, 22), &ending("7")).await.unwrap();
    assert_eq!(erased, Erased { scanned_through: 22, reached: 22, messages: 2 });
    // Its own message, which it has not answered.
    let erased = bus.erase(span(0, 22), &ending("1")).await.unwrap();
    let waits = if fixture.is_embedded() { 22 } else { 0 };
    assert_eq!((erased.scanned_through, erased.reached), (waits, 22));
}

pub(crate) async fn erasing_is_bounded_and_resumable(fixture: Fixture) {
    let bus = &fixture.bus;
    for start in (0..600).step_by(20) {
        publish_numbers(bus, start..start + 20).await;
    }
    assert_eq!(
        bus.erase(span(0, 0), &ending("7")).await.unwrap(),
        Erased { scanned_through: 0, reached: 0, messages: 0 }
    );
    let none = EraseSpan { time_max: Duration::ZERO, ..span(0, 600) };
    assert_eq!(bus.erase(none, &ending("7")).await.unwrap().scanned_through, 0);
    let (mut reached, mut messages) = (100, 0);
    while reached < 500 {
        let erased = bus.erase(EraseSpan { messages_max: 30, ..span(reached, 500) }, &ending("7")).await.unwrap();
        assert!(erased.scanned_through > reached && erased.scanned_through <= 500, "{erased:?}");
        (reached, messages) = (erased.scanned_through, messages + erased.messages);
    }
    assert_eq!(messages, 40);
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let kept = [without("-", 0..100), without("7", 100..500), without("-", 500..600)].concat();
    assert_eq!(drain(&mut subscription).await, kept, "what is outside of the span stays");
}

/// Erases until everything is scanned, while a subscription keeps consuming. Returns how many messages were erased, and
/// what the subscription received.
async fn erase_while_draining(bus: &Bus, through: u64, subscription: &mut Subscription) -> (u64, Vec<String>) {
    let (mut seen, mut messages, began) = (Vec::new(), 0, Instant::now());
    loop {
        let erased = bus.erase(span(0, through), &ending("7")).await.unwrap();
        messages += erased.messages;
        seen.extend(drain(subscription).await);
        if erased.scanned_through == through && acked_through(&bus.status().await.unwrap(), through) {
            return (messages, seen);
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{erased:?} {:?}", bus.status().await);
    }
}

/// Answered, released and unanswered deliveries: none of them blocks the others.
async fn in_flight_does_not_block(fixture: Fixture, coarse: bool) {
    let bus = &fixture.bus;
    let short =
        ConsumerSpec { ack_wait: Duration::from_secs(2), coarse_acks: coarse, matches_most: coarse, ..spec("c", ">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    publish_numbers(bus, 0..40).await;
    let held = fetch(&mut subscription, 10).await;
    let acker = subscription.acker();
    acker.nak(&[held[7].receipt], Duration::from_millis(100), "later").await.unwrap();
    let erased = bus.erase(span(0, 40), &ending("7")).await.unwrap();
    let settled = acked_through(&bus.status().await.unwrap(), 40);
    assert!(!(erased.scanned_through == 40 && settled), "some is in hand");
    acker.ack(&receipts(&held[..5])).await.unwrap();
    let (messages, seen) = erase_while_draining(bus, 40, &mut subscription).await;
    assert_eq!(erased.messages + messages, 4);
    let mut seen: Vec<String> = payloads(&held[..5]).into_iter().chain(seen).filter(|n| !n.ends_with('7')).collect();
    seen.sort_by_key(|n| n.parse::<u64>().unwrap());
    if coarse {
        // A chunk is redelivered as a whole.
        seen.dedup();
    }
    assert_eq!(seen, without("7", 0..40));
    let mut late = bus.subscribe(spec("late", ">")).await.unwrap();
    assert_eq!(drain(&mut late).await, without("7", 0..40));
}

pub(crate) async fn erased_messages_in_flight_do_not_block(fixture: Fixture) {
    in_flight_does_not_block(fixture, false).await;
}

pub(crate) async fn a_partly_erased_chunk_in_flight_does_not_block(fixture: Fixture) {
    in_flight_does_not_block(fixture, true).await;
}

/// A message in flight is not both scanned and acknowledged before it is answered.
async fn in_flight_is_not_settled(fixture: Fixture, coarse: bool) {
    let bus = &fixture.bus;
    let consumer = ConsumerSpec { coarse_acks: coarse, matches_most: coarse, ..spec("c", ">") };
    let mut subscription = bus.subscribe(consumer).await.unwrap();
    publish_numbers(bus, 7..8).await;
    let held = fetch(&mut subscription, 1).await;
    let mut messages = 0;
    for _ in 0..5 {
        let erased = bus.erase(span(0, 1), &ending("7")).await.unwrap();
        messages += erased.messages;
        let status = bus.status().await.unwrap();
        assert!(!(erased.scanned_through == 1 && acked_through(&status, 1)), "{erased:?} {status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(payloads(&held), ["7"]);
    subscription.acker().ack(&receipts(&held)).await.unwrap();
    let (more, seen) = erase_while_draining(bus, 1, &mut subscription).await;
    assert_eq!((messages + more, seen), (1, Vec::new()));
}

pub(crate) async fn a_message_in_flight_is_not_settled(fixture: Fixture) {
    in_flight_is_not_settled(fixture, false).await;
}

pub(crate) async fn a_chunk_in_flight_is_not_settled(fixture: Fixture) {
    in_flight_is_not_settled(fixture, true).await;
}

pub(crate) async fn an_erased_message_leaves_no_dead_letter(fixture: Fixture) {
    let bus = &fixture.bus;
    publish(bus, &[("a.b", Some("one"), "7"), ("a.b", Some("two"), "8")]).await;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let held = fetch(&mut subscription, 2).await;
    bus.erase(span(0, 2), &ending("7")).await.unwrap();
    for delivery in &held {
        subscription.acker().dead_letter(delivery.receipt, "cannot be read").await.unwrap();
    }
    // Where it has stayed until now, it has a dead letter, which is erased like the others.
    erase_while_draining(bus, 2, &mut subscription).await;
    bus.erase_dead_letters(&|letter| letter.payload.ends_with(b"7"), PATIENCE).await.unwrap();
    let letters = bus.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters.iter().map(|letter| &letter.payload[..]).collect::<Vec<_>>(), [b"8"]);
    assert_eq!(bus.dead_letter_count().await.unwrap(), 1);
    // Its id is still known, but leads to no message.
    let duplicate = publish(bus, &[("a.b", Some("one"), "9")]).await.remove(0);
    assert!(duplicate.duplicate);
    let original = bus.originals(vec![duplicate.original], |payload| Some(payload.len())).await.unwrap();
    assert_eq!(original, [None]);
}

pub(crate) async fn dead_letters_are_erased_by_content(fixture: Fixture) {
    let bus = &fixture.bus;
    publish_numbers(bus, 0..100).await;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    for delivery in &fetch(&mut subscription, 100).await {
        subscription.acker().dead_letter(delivery.receipt, "cannot be read").await.unwrap();
    }
    let input = |payload: &'static str| RefusedInput {
        subject: "quarantine.shop.value".to_owned(),
        reason: "wrong".to_owned(),
        received_at_ms: 1,
        payload: Bytes::from_static(payload.as_bytes()),
    };
    bus.keep_input(vec![input("input 7"), input("input 8")], 1 << 20).await.unwrap();
    let erase =
        async |time_max| bus.erase_dead_letters(&|letter| letter.payload.ends_with(b"7"), time_max).await.unwrap();
    // Each of these calls makes progress, however short it is.
    let mut letters = 0;
    loop {
        let erased = erase(Duration::ZERO).await;
        letters += erased.letters;
        if erased.is_complete {
            break;
        }
        assert!(erased.letters > 0, "{erased:?}");
    }
    assert_eq!(letters, 11);
    let left = bus.dead_letters(None, 1_000).await.unwrap();
    assert_eq!((left.len(), bus.dead_letter_count().await.unwrap()), (91, 91));
    assert!(left.iter().all(|letter| !letter.payload.ends_with(b"7")));
    assert_eq!(erase(PATIENCE).await, ErasedDeadLetters { letters: 0, is_complete: true });
}
