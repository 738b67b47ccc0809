//! The conformance suite of the bus: tests that every engine must pass, written only against `Bus`.
//!
//! An engine runs the suite with `conformance::suite!(open)`, where `open` creates a fresh [`Fixture`].

mod erase;
mod input;

use std::time::{Duration, Instant};

use crate::bus::{
    Batch, Bus, BusErrorKind, ConsumerSpec, Delivery, EmbeddedSettings, NatsSettings, PublishMode, Published,
    StreamStorage, Subscription,
};
use crate::services::nats::{NatsServer, Version};

/// A bus that can be closed and opened again on the same data.
pub(crate) struct Fixture {
    pub(crate) bus: Bus,
    over: Over,
}

enum Over {
    Embedded { settings: EmbeddedSettings, _dir: tempfile::TempDir },
    Nats { settings: Box<NatsSettings>, _server: NatsServer },
}

impl Fixture {
    pub(crate) fn embedded(change: impl FnOnce(&mut EmbeddedSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = EmbeddedSettings {
            dir: dir.path().join("bus"),
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(3_600),
            dead_letter_age_max: Duration::from_secs(3_600),
            dedup_window: Duration::from_secs(600),
            tail_bytes_max: 1 << 20,
        };
        change(&mut settings);
        Self { bus: Bus::open_embedded(settings.clone()).unwrap(), over: Over::Embedded { settings, _dir: dir } }
    }

    pub(crate) async fn open_embedded(change: impl FnOnce(&mut EmbeddedSettings)) -> Self {
        Self::embedded(change)
    }

    pub(crate) async fn oldest_nats(change: impl FnOnce(&mut NatsSettings)) -> Self {
        Self::nats(NatsServer::start(Version::Oldest), change).await
    }

    pub(crate) async fn newest_nats(change: impl FnOnce(&mut NatsSettings)) -> Self {
        Self::nats(NatsServer::start(Version::Newest), change).await
    }

    pub(crate) async fn nats(server: NatsServer, change: impl FnOnce(&mut NatsSettings)) -> Self {
        let mut settings = nats_settings(&server);
        change(&mut settings);
        let bus = Bus::connect_nats(settings.clone()).await.unwrap();
        Self { bus, over: Over::Nats { settings: Box::new(settings), _server: server } }
    }

    pub(crate) fn settings(&self) -> &EmbeddedSettings {
        match &self.over {
            Over::Embedded { settings, .. } => settings,
            Over::Nats { .. } => panic!("not an embedded bus"),
        }
    }

    pub(crate) fn nats_url(&self) -> String {
        match &self.over {
            Over::Nats { settings, .. } => settings.url.to_string(),
            Over::Embedded { .. } => panic!("not on NATS"),
        }
    }

    /// Whether the engine itself notices a lost lease and purges when it is full; a server does neither.
    pub(crate) fn is_embedded(&self) -> bool {
        matches!(self.over, Over::Embedded { .. })
    }

    /// Closes the bus and opens it again.
    pub(crate) async fn reopen(&mut self) {
        self.bus.close().await;
        self.bus = match &self.over {
            Over::Embedded { settings, .. } => Bus::open_embedded(settings.clone()).unwrap(),
            Over::Nats { settings, .. } => Bus::connect_nats((**settings).clone()).await.unwrap(),
        };
    }
}

/// Streams for the subjects of these tests, on a dedicated server.
pub(crate) fn nats_settings(server: &NatsServer) -> NatsSettings {
    NatsSettings {
        url: server.url().into(),
        client_name: "conformance".to_owned(),
        credentials_file: None,
        ca_file: None,
        reconnects_max: None,
        reconnect_wait: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
        stream: "TESTS".to_owned(),
        subjects: ["a.>", "events.>", "anomalies.>", "anomalies"].map(str::to_owned).to_vec(),
        readers: Vec::new(),
        age_max: Duration::from_secs(3_600),
        bytes_max: 1 << 30,
        replicas: 1,
        storage: StreamStorage::File,
        dead_letter_stream: "TESTS_DLQ".to_owned(),
        dead_letter_age_max: Duration::from_secs(3_600),
        dedup_window: Duration::from_secs(600),
        publish: PublishMode::Auto,
        event_bytes_max: 1_000_000,
    }
}

pub(crate) fn spec(name: &str, filter: &str) -> ConsumerSpec {
    ConsumerSpec {
        name: name.into(),
        filter: filter.into(),
        matches_most: false,
        coarse_acks: false,
        ack_wait: Duration::from_secs(30),
        max_deliver: 3,
        pending_max: 100_000,
    }
}

pub(crate) async fn publish(bus: &Bus, messages: &[(&str, Option<&str>, &str)]) -> Vec<Published> {
    let mut batch = Batch::new();
    for (subject, id, payload) in messages {
        batch.push(subject, *id, |out| out.extend_from_slice(payload.as_bytes()));
    }
    bus.publish(batch).await.into_iter().map(|answer| answer.unwrap()).collect()
}

/// Publishes `a.b` messages with these numbers as payloads.
pub(crate) async fn publish_numbers(bus: &Bus, numbers: std::ops::Range<u64>) {
    let mut batch = Batch::new();
    numbers.for_each(|n| batch.push("a.b", None, |out| out.extend_from_slice(n.to_string().as_bytes())));
    assert!(bus.publish(batch).await.iter().all(Result::is_ok));
}

pub(crate) fn payloads(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| String::from_utf8(delivery.payload().to_vec()).unwrap()).collect()
}

/// Fetches until `count` messages have arrived.
pub(crate) async fn fetch(subscription: &mut Subscription, count: usize) -> Vec<Delivery> {
    let mut all = Vec::new();
    while all.len() < count {
        let fetched = subscription.fetch(count - all.len(), usize::MAX);
        all.extend(tokio::time::timeout(Duration::from_secs(10), fetched).await.expect("messages are due").unwrap());
    }
    all
}

/// Asserts that nothing is delivered for a while.
async fn assert_silent(subscription: &mut Subscription) {
    let fetched = tokio::time::timeout(Duration::from_millis(150), subscription.fetch(10, usize::MAX)).await;
    assert!(fetched.is_err(), "nothing is due, but {fetched:?} came");
}

pub(crate) fn receipts(deliveries: &[Delivery]) -> Vec<crate::bus::Receipt> {
    deliveries.iter().map(|delivery| delivery.receipt).collect()
}

pub(crate) async fn delivers_in_order_and_only_once(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    for start in (0..1_000).step_by(50) {
        publish_numbers(bus, start..start + 50).await;
    }
    let first = fetch(&mut subscription, 300).await;
    let rest = fetch(&mut subscription, 700).await;
    let expected: Vec<String> = (0..1_000).map(|n| n.to_string()).collect();
    assert_eq!([payloads(&first), payloads(&rest)].concat(), expected);
    let sequences: Vec<u64> = first.iter().chain(&rest).map(Delivery::sequence).collect();
    assert_eq!(sequences, (1..=1_000).collect::<Vec<_>>());
    assert!(first.iter().all(|d| d.delivery_count == 1 && !d.possibly_redelivered && d.subject() == b"a.b"));
    subscription.acker().ack(&receipts(&first)).await.unwrap();
    subscription.acker().ack(&receipts(&rest)).await.unwrap();
    subscription.acker().ack(&receipts(&rest)).await.expect("acknowledging twice is no error");
    assert_silent(&mut subscription).await;
    let status = bus.status().await.unwrap();
    assert_eq!((status.last_sequence, status.messages), (1_000, 1_000));
    let consumer = &status.consumers[0];
    assert_eq!((consumer.backlog, consumer.pending, consumer.ack_floor), (0, 0, 1_000));
    assert_eq!(consumer.oldest_age_ms, None);
}

pub(crate) async fn a_waiting_fetch_wakes_immediately(fixture: Fixture) {
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    let publish = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let began = Instant::now();
        publish_numbers(&fixture.bus, 7..8).await;
        began
    };
    let (fetched, began) = tokio::join!(subscription.fetch(10, 1), publish);
    assert_eq!(payloads(&fetched.unwrap()), ["7"]);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

pub(crate) async fn respects_the_limits_of_a_fetch(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut subscription = bus.subscribe(ConsumerSpec { pending_max: 8, ..spec("c", ">") }).await.unwrap();
    publish_numbers(bus, 0..20).await;
    fetch(&mut subscription, 3).await;
    assert_eq!(subscription.fetch(5, 1).await.unwrap().len(), 1, "one message passes any limit of bytes");
    let mut some = subscription.fetch(100, usize::MAX).await.unwrap();
    while some.len() < 4 {
        some.extend(subscription.fetch(100, usize::MAX).await.unwrap());
    }
    assert_eq!(some.len(), 4, "no more than pending_max is out");
    assert_silent(&mut subscription).await;
    let status = bus.status().await.unwrap();
    assert_eq!((status.consumers[0].backlog, status.consumers[0].pending), (20, 8));
    subscription.acker().ack(&receipts(&some)).await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 4).await), ["8", "9", "10", "11"]);
}

pub(crate) async fn filters_by_subject(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut anomalies = bus.subscribe(spec("alerting", "anomalies.>")).await.unwrap();
    let mut logins = bus.subscribe(spec("logins", "events.*.user.login")).await.unwrap();
    // The same consumer, before it was known to match most messages.
    drop(bus.subscribe(spec("sink", "events.>")).await.unwrap());
    let most = ConsumerSpec { matches_most: true, ..spec("sink", "events.>") };
    let mut events = bus.subscribe(most).await.unwrap();
    let messages = [
        ("events.a.user.login", None, "1"),
        ("anomalies.a.x", None, "2"),
        ("events.a.user.logout", None, "3"),
        ("events.b.user.login", None, "4"),
        ("anomalies", None, "5"),
    ];
    publish(bus, &messages).await;
    let found = fetch(&mut anomalies, 1).await;
    assert_eq!(payloads(&found), ["2"]);
    let both = fetch(&mut logins, 2).await;
    assert_eq!(payloads(&both), ["1", "4"]);
    assert_silent(&mut anomalies).await;
    anomalies.acker().ack(&receipts(&found)).await.unwrap();
    logins.acker().ack(&receipts(&both[1..])).await.unwrap();
    assert_silent(&mut logins).await;
    let all = fetch(&mut events, 3).await;
    assert_eq!(payloads(&all), ["1", "3", "4"]);
    assert_silent(&mut events).await;
    events.acker().ack(&receipts(&all)).await.unwrap();
    let status = bus.status().await.unwrap();
    let backlog: Vec<_> = status.consumers.iter().map(|c| (c.name.as_str(), c.backlog, c.pending)).collect();
    assert_eq!(backlog, [("alerting", 0, 0), ("logins", 1, 1), ("sink", 0, 0)]);
}

pub(crate) async fn redelivers_unacknowledged_messages(fixture: Fixture) {
    let bus = &fixture.bus;
    let short = ConsumerSpec { ack_wait: Duration::from_millis(200), ..spec("c", ">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    publish_numbers(bus, 0..4).await;
    // No later than the leases, however long the acknowledgement takes.
    let began = Instant::now();
    let first = fetch(&mut subscription, 4).await;
    subscription.acker().ack(&[first[1].receipt]).await.unwrap();
    let again = fetch(&mut subscription, 3).await;
    assert!(began.elapsed() >= Duration::from_millis(150), "redelivered after {:?}", began.elapsed());
    assert_eq!(payloads(&again), ["0", "2", "3"]);
    assert!(again.iter().all(|delivery| delivery.delivery_count == 2 && delivery.possibly_redelivered));
    let late = subscription.acker().ack(&receipts(&first)).await;
    if fixture.is_embedded() {
        assert_eq!(late.map_err(|error| error.kind), Err(BusErrorKind::LeaseLost));
    }
    subscription.acker().ack(&receipts(&again)).await.unwrap();
    assert_silent(&mut subscription).await;
}

pub(crate) async fn a_renewed_lease_holds(fixture: Fixture) {
    let bus = &fixture.bus;
    let short = ConsumerSpec { ack_wait: Duration::from_secs(1), ..spec("c", ">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    publish_numbers(bus, 0..2).await;
    let first = fetch(&mut subscription, 2).await;
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(350)).await;
        subscription.acker().renew(&[first[0].receipt]).await.unwrap();
    }
    let again = fetch(&mut subscription, 1).await;
    assert_eq!(payloads(&again), ["1"], "what was not renewed comes again, what was does not");
    let lapsed = subscription.acker().renew(&receipts(&first)).await;
    if fixture.is_embedded() {
        assert_eq!(lapsed.map_err(|error| error.kind), Err(BusErrorKind::LeaseLost));
    }
    subscription.acker().ack(&[first[0].receipt, again[0].receipt]).await.unwrap();
    assert_silent(&mut subscription).await;
}

pub(crate) async fn failed_messages_are_redelivered_after_their_delay(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    publish_numbers(bus, 0..3).await;
    let first = fetch(&mut subscription, 3).await;
    let began = Instant::now();
    let acker = subscription.acker();
    acker.nak(&[first[0].receipt], Duration::from_millis(700), "later").await.unwrap();
    acker.nak(&[first[2].receipt], Duration::ZERO, "now").await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 1).await), ["2"]);
    assert!(began.elapsed() < Duration::from_millis(600), "{:?}", began.elapsed());
    let late = fetch(&mut subscription, 1).await;
    assert!(began.elapsed() >= Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!((payloads(&late), late[0].delivery_count), (vec!["0".to_owned()], 2));
}

pub(crate) async fn dead_letters_only_messages_that_fail_too_often(fixture: Fixture) {
    let bus = &fixture.bus;
    let short = ConsumerSpec { ack_wait: Duration::from_millis(250), max_deliver: 2, ..spec("c", ">") };
    let mut subscription = bus.subscribe(short).await.unwrap();
    let stored = publish(bus, &[("a.nak", None, "nak"), ("a.silent", None, "silent"), ("a.good", None, "good")]).await;
    let acker = subscription.acker();
    let mut silent = Vec::new();
    while silent.len() < 6 {
        let fetched = tokio::time::timeout(Duration::from_millis(500), subscription.fetch(10, usize::MAX)).await;
        for delivery in fetched.map(Result::unwrap).unwrap_or_default() {
            match delivery.payload() {
                b"good" => acker.ack(&[delivery.receipt]).await.unwrap(),
                b"nak" => acker.nak(&[delivery.receipt], Duration::ZERO, "cannot decode").await.unwrap(),
                _ => silent.push(delivery.isolated),
            }
        }
    }
    assert_eq!(silent[..4], [false, false, false, true], "isolated after three deliveries without an answer");
    let letters = bus.dead_letters(None, 10).await.unwrap();
    assert_eq!((letters.len(), bus.dead_letter_count().await.unwrap()), (1, 1));
    assert_eq!((letters[0].subject.as_str(), letters[0].reason.as_str()), ("a.nak", "cannot decode"));
    assert_eq!((letters[0].sequence, letters[0].delivery_count), (stored[0].sequence, 2));
    assert_eq!(bus.status().await.unwrap().consumers[0].backlog, 1);
}

/// Subscriptions that repeatedly end without an answer, as crashing processes do: those before any trial begins, and
/// each one that has the message `fatal`. Returns the number of trials.
pub(crate) async fn crash_on(bus: &Bus, spec: &ConsumerSpec, messages: usize, fatal: &str) -> usize {
    let (mut trials, mut acknowledged) = (0, std::collections::BTreeSet::new());
    let began = Instant::now();
    let mut subscription = bus.subscribe(spec.clone()).await.unwrap();
    while acknowledged.len() + bus.dead_letters(None, 10).await.unwrap().len() < messages {
        assert!(began.elapsed() < Duration::from_secs(60), "{} acknowledged", acknowledged.len());
        let fetched = tokio::time::timeout(Duration::from_millis(500), subscription.fetch(100, usize::MAX)).await;
        let Ok(fetched) = fetched.map(Result::unwrap) else { continue };
        assert!(fetched.iter().all(|one| one.isolated == fetched[0].isolated), "isolated ones come alone");
        if fetched[0].isolated {
            trials += 1;
            subscription.acker().begin_trial(&receipts(&fetched)).await;
        }
        if !fetched[0].isolated || payloads(&fetched).iter().any(|payload| payload == fatal) {
            drop(subscription);
            subscription = bus.subscribe(spec.clone()).await.unwrap();
            continue;
        }
        subscription.acker().ack(&receipts(&fetched)).await.unwrap();
        acknowledged.extend(fetched.iter().map(Delivery::sequence));
    }
    trials
}

pub(crate) async fn only_messages_that_end_the_process_alone_are_dead_lettered(fixture: Fixture) {
    let bus = &fixture.bus;
    publish_numbers(bus, 0..16).await;
    let short = ConsumerSpec { ack_wait: Duration::from_millis(400), max_deliver: 1, ..spec("c", ">") };
    let trials = crash_on(bus, &short, 16, "5").await;
    assert!(trials < 16, "{trials} trials of 16 messages");
    let letters = bus.dead_letters(None, 10).await.unwrap();
    let said: Vec<_> = letters.iter().map(|letter| (&letter.payload[..], letter.reason.contains("alone"))).collect();
    assert_eq!(said, [(&b"5"[..], true)]);
    assert_eq!((letters[0].consumer.as_str(), bus.status().await.unwrap().dead_letters), ("c", 1));
    // An acknowledgement that the server has not counted yet may be on its way.
    let began = Instant::now();
    while bus.status().await.unwrap().consumers[0].backlog > 0 {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A graceful stop, or an unreachable store, is not the fault of the message.
pub(crate) async fn a_trial_that_is_withdrawn_does_not_count(mut fixture: Fixture) {
    let short = ConsumerSpec { ack_wait: Duration::from_millis(300), ..spec("c", ">") };
    publish_numbers(&fixture.bus, 0..1).await;
    let mut isolated = 0;
    for round in 0..20 {
        if isolated == 5 {
            break;
        }
        let mut subscription = fixture.bus.subscribe(short.clone()).await.unwrap();
        let one = fetch(&mut subscription, 1).await;
        if one[0].isolated {
            isolated += 1;
            subscription.acker().begin_trial(&receipts(&one)).await;
            match round % 2 {
                0 => subscription.acker().end_trial(crate::bus::TrialOutcome::Withdrawn).await,
                _ => fixture.reopen().await,
            }
        }
    }
    assert_eq!(isolated, 5);
    assert_eq!(fixture.bus.dead_letter_count().await.unwrap(), 0);
}

pub(crate) async fn a_dead_letter_is_replayed_to_its_consumer_alone(mut fixture: Fixture) {
    let mut first = fixture.bus.subscribe(spec("first", "events.>")).await.unwrap();
    let mut second = fixture.bus.subscribe(spec("second", "events.>")).await.unwrap();
    let ids = [("events.x", Some("id-1"), "one"), ("events.y", Some("id-2"), "two")];
    publish(&fixture.bus, &ids).await;
    let delivered = fetch(&mut first, 2).await;
    first.acker().dead_letter(delivered[0].receipt, "not readable").await.unwrap();
    first.acker().ack(&[delivered[1].receipt]).await.unwrap();
    let others = fetch(&mut second, 2).await;
    second.acker().ack(&receipts(&others)).await.unwrap();
    drop((first, second));
    fixture.reopen().await;

    let bus = &fixture.bus;
    let letters = bus.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    let shown = bus.dead_letter(letters[0].id).await.unwrap().unwrap();
    assert_eq!((shown.reason.as_str(), &shown.payload[..]), ("not readable", &b"one"[..]));
    let mut first = bus.subscribe(spec("first", "events.>")).await.unwrap();
    let mut second = bus.subscribe(spec("second", "events.>")).await.unwrap();
    assert!(bus.replay_dead_letter(shown.id).await.unwrap());
    assert!(!bus.replay_dead_letter(shown.id).await.unwrap(), "it is gone");
    assert!(bus.dead_letters(None, 10).await.unwrap().is_empty());
    let again = fetch(&mut first, 1).await;
    assert_eq!((payloads(&again), again[0].subject()), (vec!["one".to_owned()], &b"events.x"[..]));
    assert_eq!(again[0].sequence(), 3);
    assert_silent(&mut second).await;
    first.acker().dead_letter(again[0].receipt, "still not").await.unwrap();
    let id = bus.dead_letters(None, 10).await.unwrap()[0].id;
    assert!(bus.dead_letters(Some(id), 10).await.unwrap().is_empty());
    assert!(bus.delete_dead_letter(id).await.unwrap());
    assert!(!bus.delete_dead_letter(id).await.unwrap());
    assert!(bus.dead_letter(id).await.unwrap().is_none());
    assert_silent(&mut first).await;
}

pub(crate) async fn dead_letters_are_purged_by_age(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut consumer = bus.subscribe(spec("first", "events.>")).await.unwrap();
    let now_ms = || jiff::Timestamp::now().as_millisecond();
    let mut between = 0;
    for part in [["a", "b", "c"], ["d", "e", "f"]] {
        between = now_ms();
        tokio::time::sleep(Duration::from_millis(20)).await;
        publish(bus, &part.map(|payload| ("events.x", None, payload))).await;
        for delivery in fetch(&mut consumer, 3).await {
            consumer.acker().dead_letter(delivery.receipt, "not readable").await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let letters = bus.dead_letters(None, 10).await.unwrap();
    assert_eq!(letters.len(), 6);
    assert!(bus.delete_dead_letter(letters[4].id).await.unwrap(), "a gap");
    assert_eq!(bus.purge_dead_letters(Some(between - 3_600_000)).await.unwrap(), 0);
    assert_eq!(bus.purge_dead_letters(Some(between)).await.unwrap(), 2);
    let kept: Vec<_> = bus.dead_letters(None, 10).await.unwrap().into_iter().map(|letter| letter.payload).collect();
    assert_eq!(kept, ["f", "e", "d"]);
    assert_eq!(bus.purge_dead_letters(Some(now_ms() + 3_600_000)).await.unwrap(), 3);
    assert_eq!(bus.purge_dead_letters(None).await.unwrap(), 0);
    publish(bus, &[("events.x", None, "g")]).await;
    let last = fetch(&mut consumer, 1).await;
    consumer.acker().dead_letter(last[0].receipt, "not readable").await.unwrap();
    assert_eq!(bus.purge_dead_letters(None).await.unwrap(), 1);
    assert!(bus.dead_letters(None, 10).await.unwrap().is_empty());
}

pub(crate) async fn an_id_is_stored_once(mut fixture: Fixture) {
    let messages = [
        ("a.b", Some("k1"), "1"),
        ("a.b", None, "2"),
        ("a.b", Some("k1"), "3"),
        ("a.b", Some("k2"), "4"),
        ("a.b", None, "2"),
    ];
    let answers = publish(&fixture.bus, &messages).await;
    let seen = |answers: &[Published]| answers.iter().map(|a| (a.sequence, a.duplicate)).collect::<Vec<_>>();
    assert_eq!(seen(&answers), [(1, false), (2, false), (0, true), (3, false), (4, false)]);
    fixture.reopen().await;
    let answers = publish(&fixture.bus, &[("a.c", Some("k2"), "5"), ("a.b", Some("k3"), "6")]).await;
    assert_eq!(seen(&answers), [(0, true), (5, false)]);
    let answers = publish(&fixture.bus, &[("a.c", Some("k2"), "5")]).await;
    assert_eq!(seen(&answers), [(0, true)], "a batch of nothing new is answered too");
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 5).await), ["1", "2", "4", "2", "6"]);
    assert_silent(&mut subscription).await;
}

pub(crate) async fn a_duplicate_leads_to_its_first_message(mut fixture: Fixture) {
    let read = |payload: &[u8]| Some(String::from_utf8(payload.to_vec()).unwrap());
    let originals = async |bus: &Bus, messages: &[(&str, Option<&str>, &str)]| {
        let answers = publish(bus, messages).await;
        let wanted = answers.iter().filter(|answer| answer.duplicate).map(|answer| answer.original).collect();
        bus.originals(wanted, read).await.unwrap()
    };
    let some = |text: &str| Some(text.to_owned());
    let first: Vec<String> = (0..100).map(|n| n.to_string()).collect();
    for round in first.chunks(25) {
        let messages: Vec<_> =
            round.iter().flat_map(|n| [("a.b", Some(&**n), &**n), ("a.b", None, "between")]).collect();
        assert!(originals(&fixture.bus, &messages).await.is_empty());
    }
    let again: Vec<_> = first.iter().rev().map(|n| ("a.c", Some(&**n), "again")).collect();
    let wanted: Vec<_> = first.iter().rev().map(|n| some(n)).collect();
    assert_eq!(originals(&fixture.bus, &again).await, wanted);
    let within = [("a.b", Some("new"), "one"), ("a.b", Some("new"), "two"), ("a.b", Some("7"), "again")];
    assert_eq!(originals(&fixture.bus, &within).await, [some("one"), some("7")]);
    fixture.reopen().await;
    assert_eq!(originals(&fixture.bus, &again).await, wanted, "after a start");
    let mut subscription = fixture.bus.subscribe(spec("c", ">")).await.unwrap();
    let all: Vec<_> = fetch(&mut subscription, 201).await.iter().map(|delivery| delivery.receipt).collect();
    subscription.acker().ack(&all).await.unwrap();
    fixture.bus.purge_acknowledged().await.unwrap();
    // The embedded engine keeps a group as long as its keys count, a server only unread messages.
    let left = if fixture.is_embedded() { wanted[..2].to_vec() } else { vec![None, None] };
    assert_eq!(originals(&fixture.bus, &again[..2]).await, left);
}

pub(crate) async fn only_one_of_concurrent_publishes_of_an_id_is_stored(fixture: Fixture) {
    let publishes = (0..64).map(|n| {
        let bus = fixture.bus.clone();
        async move {
            let mut batch = Batch::new();
            batch.push("a.b", Some("unique"), |out| out.push(n));
            batch.push("a.b", Some(&format!("own-{n}")), |out| out.push(n));
            bus.publish(batch).await.into_iter().map(|answer| answer.unwrap().duplicate).collect::<Vec<_>>()
        }
    });
    let answers = futures_util::future::join_all(publishes).await;
    assert_eq!(answers.iter().filter(|answer| !answer[0]).count(), 1);
    assert!(answers.iter().all(|answer| !answer[1]));
    assert_eq!(fixture.bus.status().await.unwrap().last_sequence, 65);
}

pub(crate) async fn an_id_is_free_again_after_the_window(fixture: Fixture) {
    assert!(!publish(&fixture.bus, &[("a.b", Some("k"), "1")]).await[0].duplicate);
    assert!(publish(&fixture.bus, &[("a.b", Some("k"), "2")]).await[0].duplicate);
    // The window of the fixture is one second; the unit is a second.
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert!(!publish(&fixture.bus, &[("a.b", Some("k"), "3")]).await[0].duplicate);
    assert!(publish(&fixture.bus, &[("a.b", Some("k"), "4")]).await[0].duplicate);
}

pub(crate) async fn a_malformed_message_is_refused_alone(fixture: Fixture) {
    let mut batch = Batch::new();
    for (subject, id) in [("a..b", None), ("a.b", Some("k")), ("", None), ("a.b", Some("k")), ("a.>", Some("j"))] {
        batch.push(subject, id, |out| out.push(1));
    }
    let answers = fixture.bus.publish(batch).await;
    let kinds: Vec<_> = answers.iter().map(|a| a.as_ref().map(|p| p.sequence).map_err(|e| e.kind)).collect();
    let invalid = Err(BusErrorKind::Invalid);
    assert_eq!(kinds, [invalid, Ok(1), invalid, Ok(0), invalid]);
    assert!(fixture.bus.publish(Batch::new()).await.is_empty());
    let refused = fixture.bus.subscribe(spec("c", "a..b")).await.map(drop);
    assert_eq!(refused.map_err(|error| error.kind), Err(BusErrorKind::Invalid));
}

pub(crate) async fn subscriptions_of_one_consumer_share_it(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut left = bus.subscribe(spec("c", ">")).await.unwrap();
    let mut right = bus.subscribe(spec("c", ">")).await.unwrap();
    publish_numbers(bus, 0..100).await;
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(fetch(&mut left, 10).await);
        all.extend(fetch(&mut right, 10).await);
    }
    assert_eq!(payloads(&all), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    left.acker().ack(&receipts(&all)).await.unwrap();
    drop(left);
    let (fetched, ()) = tokio::join!(right.fetch(10, usize::MAX), publish_numbers(bus, 100..101));
    assert_eq!(payloads(&fetched.unwrap()), ["100"]);
}

pub(crate) async fn positions_survive_a_reopen(mut fixture: Fixture) {
    let short = ConsumerSpec { ack_wait: Duration::from_secs(1), ..spec("c", ">") };
    publish_numbers(&fixture.bus, 0..10).await;
    let mut subscription = fixture.bus.subscribe(short.clone()).await.unwrap();
    let mut ahead = fixture.bus.subscribe(spec("ahead", ">")).await.unwrap();
    let all = fetch(&mut ahead, 10).await;
    ahead.acker().ack(&receipts(&all)).await.unwrap();
    let some = fetch(&mut subscription, 7).await;
    assert!(some.iter().all(|delivery| delivery.possibly_redelivered), "they were stored before the subscription");
    subscription.acker().ack(&[some[0].receipt, some[1].receipt, some[4].receipt]).await.unwrap();
    drop((subscription, ahead));
    fixture.reopen().await;

    let mut subscription = fixture.bus.subscribe(short).await.unwrap();
    let mut rest = fetch(&mut subscription, 7).await;
    subscription.acker().ack(&receipts(&rest)).await.unwrap();
    // A server waits for the leases to expire, and delivers the others meanwhile.
    rest.sort_by_key(Delivery::sequence);
    assert_eq!(payloads(&rest), ["2", "3", "5", "6", "7", "8", "9"]);
    let counts: Vec<u32> = rest.iter().map(|delivery| delivery.delivery_count).collect();
    assert_eq!(counts[..4], [2; 4], "what was delivered before counts");
    // A server may have sent the others to the subscription that is gone.
    assert!(!fixture.is_embedded() || counts[4..] == [1; 3], "{counts:?}");
    assert!(rest.iter().all(|delivery| delivery.possibly_redelivered));
    publish_numbers(&fixture.bus, 10..11).await;
    let fresh = fetch(&mut subscription, 1).await;
    assert!(!fresh[0].possibly_redelivered && fresh[0].sequence() == 11);
    let mut ahead = fixture.bus.subscribe(spec("ahead", ">")).await.unwrap();
    assert_eq!(payloads(&fetch(&mut ahead, 1).await), ["10"]);
}

/// The fixture's limit is 4 MiB.
pub(crate) async fn nothing_unread_is_dropped_and_a_full_bus_recovers(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut slow = bus.subscribe(spec("slow", ">")).await.unwrap();
    let mut quick = bus.subscribe(spec("quick", ">")).await.unwrap();
    let batch = |n: u64| {
        let mut batch = Batch::new();
        batch.push("a.b", Some(&format!("id-{n}")), |out| {
            out.extend_from_slice(n.to_string().as_bytes());
            out.push(b' ');
            // Letters that hardly compress.
            let mut state = n;
            out.extend(
                std::iter::repeat_with(|| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    b'0' + (state >> 58) as u8
                })
                .take(60_000),
            );
        });
        batch
    };
    let mut stored = 0;
    let refused = loop {
        match bus.publish(batch(stored)).await.remove(0) {
            Ok(published) => assert_eq!((published.sequence, published.duplicate), (stored + 1, false)),
            Err(error) => break error,
        }
        stored += 1;
    };
    assert_eq!(refused.kind, BusErrorKind::Full);
    assert!(stored > 40, "only {stored} messages of 60 kB fit");
    assert!(bus.status().await.unwrap().full.is_some());
    let all = fetch(&mut quick, stored as usize).await;
    quick.acker().ack(&receipts(&all)).await.unwrap();
    assert_eq!(bus.purge_acknowledged().await.unwrap(), 0, "the slow consumer has not read them");
    assert_eq!(bus.publish(batch(stored)).await.remove(0).unwrap_err().kind, BusErrorKind::Full);

    let mut read = Vec::new();
    while read.len() < stored as usize {
        let some = fetch(&mut slow, 1).await;
        slow.acker().ack(&receipts(&some)).await.unwrap();
        read.extend(some);
    }
    let number = |payload: &String| payload.split(' ').next().unwrap().parse::<u64>().unwrap();
    let numbers: Vec<u64> = payloads(&read).iter().map(number).collect();
    assert_eq!(numbers, (0..stored).collect::<Vec<_>>());
    if !fixture.is_embedded() {
        assert!(bus.purge_acknowledged().await.unwrap() > 0);
    }
    let published = bus.publish(batch(stored)).await.remove(0).expect("there is room again");
    assert_eq!((published.sequence, published.duplicate), (stored + 1, false), "a failed publish marks no id");
    let old = bus.publish(batch(0)).await.remove(0).unwrap();
    assert!(old.duplicate, "a purge forgets no id within the window");
    bus.purge_acknowledged().await.unwrap();
    let status = bus.status().await.unwrap();
    assert!(status.bytes * 100 <= status.bytes_max * 85 && status.full.is_none(), "{status:?}");
    assert!(status.messages < stored);
}

/// The fixture's messages are old immediately, its dead letters soon.
pub(crate) async fn acknowledged_messages_are_purged_by_age(fixture: Fixture) {
    let bus = &fixture.bus;
    publish_numbers(bus, 0..1).await;
    publish_numbers(bus, 1..3).await;
    publish_numbers(bus, 3..4).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(bus.purge_acknowledged().await.unwrap(), 0, "without a consumer nothing was read");
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let all = fetch(&mut subscription, 4).await;
    subscription.acker().ack(&receipts(&all[..2])).await.unwrap();
    // The embedded engine keeps the group of an unread message.
    let purged = if fixture.is_embedded() { 1 } else { 2 };
    assert_eq!(bus.purge_acknowledged().await.unwrap(), purged);
    assert_eq!(bus.status().await.unwrap().messages, 4 - purged);
    let mut late = bus.subscribe(spec("late", ">")).await.unwrap();
    let left: Vec<String> = (purged..4).map(|n| n.to_string()).collect();
    assert_eq!(payloads(&fetch(&mut late, left.len()).await), left, "a new consumer begins at the first stored");
    subscription.acker().dead_letter(all[2].receipt, "why").await.unwrap();
    let began = Instant::now();
    while !bus.dead_letters(None, 10).await.unwrap().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "old dead letters go");
        tokio::time::sleep(Duration::from_millis(50)).await;
        bus.purge_acknowledged().await.unwrap();
    }
}

pub(crate) async fn a_closed_bus_reports_it(fixture: Fixture) {
    let bus = &fixture.bus;
    let mut subscription = bus.subscribe(spec("c", ">")).await.unwrap();
    let close = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        bus.close().await;
    };
    let (fetched, ()) = tokio::join!(subscription.fetch(1, 1), close);
    assert_eq!(fetched.unwrap_err().kind, BusErrorKind::Closed);
    let mut batch = Batch::new();
    batch.push("a.b", None, |out| out.push(1));
    assert_eq!(bus.publish(batch).await.remove(0).unwrap_err().kind, BusErrorKind::Closed);
    assert_eq!(bus.dead_letters(None, 1).await.unwrap_err().kind, BusErrorKind::Closed);
    assert_eq!(bus.purge_acknowledged().await.unwrap_err().kind, BusErrorKind::Closed);
}

pub(crate) use erase::{
    a_chunk_in_flight_is_not_settled, a_message_in_flight_is_not_settled,
    a_partly_erased_chunk_in_flight_does_not_block, an_erased_message_leaves_no_dead_letter,
    consumers_of_other_subjects_do_not_block, dead_letters_are_erased_by_content, erased_messages_are_not_delivered,
    erased_messages_in_flight_do_not_block, erasing_is_bounded_and_resumable,
};
pub(crate) use input::{input_is_amended, input_is_kept_within_its_room, input_is_resubmitted_once};

/// One test per case, each on a fresh fixture.
macro_rules! suite {
    ($open:path) => {
        $crate::bus::conformance::suite! { $open;
            delivers_in_order_and_only_once => |_| {},
            a_waiting_fetch_wakes_immediately => |_| {},
            respects_the_limits_of_a_fetch => |_| {},
            filters_by_subject => |_| {},
            redelivers_unacknowledged_messages => |_| {},
            a_renewed_lease_holds => |_| {},
            failed_messages_are_redelivered_after_their_delay => |_| {},
            dead_letters_only_messages_that_fail_too_often => |_| {},
            only_messages_that_end_the_process_alone_are_dead_lettered => |_| {},
            a_trial_that_is_withdrawn_does_not_count => |_| {},
            a_dead_letter_is_replayed_to_its_consumer_alone => |_| {},
            dead_letters_are_purged_by_age => |_| {},
            input_is_kept_within_its_room => |_| {},
            input_is_resubmitted_once => |_| {},
            input_is_amended => |_| {},
            an_id_is_stored_once => |_| {},
            a_duplicate_leads_to_its_first_message => |s| s.age_max = std::time::Duration::ZERO,
            only_one_of_concurrent_publishes_of_an_id_is_stored => |_| {},
            an_id_is_free_again_after_the_window => |s| s.dedup_window = std::time::Duration::from_secs(1),
            a_malformed_message_is_refused_alone => |_| {},
            subscriptions_of_one_consumer_share_it => |_| {},
            positions_survive_a_reopen => |_| {},
            acknowledged_messages_are_purged_by_age => |s| {
                s.age_max = std::time::Duration::ZERO;
                s.dead_letter_age_max = std::time::Duration::from_millis(200);
            },
            nothing_unread_is_dropped_and_a_full_bus_recovers => |s| s.bytes_max = 4 << 20,
            erased_messages_are_not_delivered => |_| {},
            consumers_of_other_subjects_do_not_block => |_| {},
            erasing_is_bounded_and_resumable => |_| {},
            erased_messages_in_flight_do_not_block => |_| {},
            a_message_in_flight_is_not_settled => |_| {},
            a_partly_erased_chunk_in_flight_does_not_block => |_| {},
            a_chunk_in_flight_is_not_settled => |_| {},
            an_erased_message_leaves_no_dead_letter => |_| {},
            dead_letters_are_erased_by_content => |_| {},
            a_closed_bus_reports_it => |_| {},
        }
    };
    ($open:path; $($case:ident => $change:expr,)*) => {
        $(
            #[tokio::test]
            async fn $case() {
                $crate::bus::conformance::$case($open($change).await).await;
            }
        )*
    };
}
pub(crate) use suite;
