//! The conformance suite for refused input.

use bytes::Bytes;

use super::{Fixture, fetch, payloads, spec};
use crate::bus::{Batch, DeadLetter, KeptInput, RefusedInput};

fn input(app: &str, payload: &'static str) -> RefusedInput {
    RefusedInput {
        subject: format!("quarantine.{app}.value"),
        reason: "/a: is wrong\nhere".to_owned(),
        received_at_ms: 1_700_000_000_000,
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

fn told(letter: &DeadLetter) -> (&str, &str, &[u8]) {
    (&letter.subject, &letter.consumer, &letter.payload)
}

pub(crate) async fn input_is_kept_within_its_room(mut fixture: Fixture) {
    const LARGE: &str = "0123456789";
    let many = |count: usize| vec![input("shop", LARGE); count];
    let kept = fixture.bus.keep_input(vec![input("shop", "a"), input("%", "b")], 1 << 20).await.unwrap();
    assert_eq!(kept, KeptInput { kept: 2, full: false });
    // However the engine counts overhead, this room fits some of them but not all.
    let kept = fixture.bus.keep_input(many(100), 10_000).await.unwrap();
    assert!(kept.full && (5..60).contains(&kept.kept), "{kept:?}");
    assert!(fixture.bus.keep_input(many(100), 10_000).await.unwrap().full);
    fixture.reopen().await;
    let bus = &fixture.bus;
    let letters = bus.dead_letters(None, 1_000).await.unwrap();
    assert!(letters.len() >= kept.kept + 2 && bus.dead_letter_count().await.unwrap() == letters.len() as u64);
    assert!(letters.iter().all(DeadLetter::is_input));
    let oldest = letters.last().unwrap();
    // Several are sent to a server concurrently.
    let two: std::collections::BTreeSet<_> = letters[letters.len() - 2..].iter().map(told).collect();
    assert_eq!(
        two,
        [("quarantine.%.value", "gateway", &b"b"[..]), ("quarantine.shop.value", "gateway", &b"a"[..])].into()
    );
    assert_eq!((oldest.published_at_ms, oldest.delivery_count), (1_700_000_000_000, 0));
    assert!(oldest.reason.starts_with("/a: is wrong"));
    let counts = bus.input_counts(10).await.unwrap();
    assert_eq!(
        counts,
        [("quarantine.shop.value".to_owned(), letters.len() as u64 - 1), ("quarantine.%.value".to_owned(), 1)]
    );
    assert_eq!(bus.input_counts(1).await.unwrap().len(), 1);
    assert_eq!(bus.status().await.unwrap().messages, 0, "it is no message");
    bus.purge_dead_letters(None).await.unwrap();
    assert!(bus.input_counts(10).await.unwrap().is_empty());
}

pub(crate) async fn input_is_resubmitted_once(mut fixture: Fixture) {
    let batch = |ids: &[&str]| {
        let mut batch = Batch::new();
        ids.iter().for_each(|id| batch.push("a.b", Some(id), |out| out.extend_from_slice(id.as_bytes())));
        batch
    };
    fixture.bus.keep_input(vec![input("shop", "one")], 1 << 20).await.unwrap();
    fixture.bus.keep_input(vec![input("shop", "two")], 1 << 20).await.unwrap();
    let letters = fixture.bus.dead_letters(None, 10).await.unwrap();
    let (second, first) = (letters[0].id, letters[1].id);
    let answers = fixture.bus.resubmit_input(first, batch(&["1a", "1b"])).await.unwrap().unwrap();
    assert!(answers.into_iter().all(|answer| !answer.unwrap().duplicate));
    assert!(fixture.bus.resubmit_input(first, batch(&["1a", "1b"])).await.unwrap().is_none(), "it is gone");
    // As if interrupted after its messages were published.
    assert!(fixture.bus.publish(batch(&["2a"])).await.remove(0).is_ok());
    fixture.reopen().await;
    let answers = fixture.bus.resubmit_input(second, batch(&["2a", "2b"])).await.unwrap().unwrap();
    assert_eq!(answers.into_iter().map(|answer| answer.unwrap().duplicate).collect::<Vec<_>>(), [true, false]);
    assert_eq!(fixture.bus.dead_letter_count().await.unwrap(), 0);
    let mut subscription = fixture.bus.subscribe(spec("c", "a.>")).await.unwrap();
    assert_eq!(payloads(&fetch(&mut subscription, 4).await), ["1a", "1b", "2a", "2b"]);
    assert_eq!(fixture.bus.status().await.unwrap().messages, 4);
}

pub(crate) async fn input_is_amended(fixture: Fixture) {
    let bus = &fixture.bus;
    bus.keep_input(vec![input("shop", "before")], 1 << 20).await.unwrap();
    let id = bus.dead_letters(None, 10).await.unwrap()[0].id;
    assert!(bus.amend_input(id, input("other", "after")).await.unwrap());
    let letters = bus.dead_letters(None, 10).await.unwrap();
    let expected = ("quarantine.other.value", "gateway", &b"after"[..]);
    assert_eq!(letters.iter().map(told).collect::<Vec<_>>(), [expected]);
    assert!(!bus.amend_input(letters[0].id + 10, input("shop", "none")).await.unwrap());
}
