//! A message that the server does not accept is refused alone, whatever is published with it.

use crate::bus::conformance::nats_settings;
use crate::bus::{Batch, Bus, BusErrorKind, NatsSettings, PublishMode, Published};
use crate::services::nats::{NatsServer, Version};

const MAX_PAYLOAD: usize = 100_000;

fn server(max_payload: usize) -> NatsServer {
    NatsServer::start_with(Version::Newest, &format!("max_payload: {max_payload}"))
}

/// One message of each size in bytes.
fn batch(sizes: &[usize]) -> Batch {
    let mut batch = Batch::new();
    for bytes in sizes {
        batch.push("events.shop.user.login", None, |out| out.resize(out.len() + bytes, 7));
    }
    batch
}

fn why(error: &crate::bus::BusError) -> String {
    std::error::Error::source(error).map(ToString::to_string).unwrap_or_default()
}

async fn refused_alone(publish: PublishMode) {
    let server = server(MAX_PAYLOAD);
    let bus = Bus::connect_nats(NatsSettings { publish, ..nats_settings(&server) }).await.unwrap();
    let mut sizes = [300; 10];
    sizes[4] = MAX_PAYLOAD + 1;
    sizes[7] = MAX_PAYLOAD - 1;
    let large = async {
        let answers = bus.publish(batch(&sizes)).await;
        for (index, answer) in answers.iter().enumerate() {
            match answer {
                Ok(Published { sequence, .. }) => assert!(*sequence > 0 && ![4, 7].contains(&index)),
                Err(error) => {
                    assert!(error.kind == BusErrorKind::Invalid && [4, 7].contains(&index), "{index}: {error:?}");
                    let why = why(error);
                    assert!(why.contains(&sizes[index].to_string()) && why.contains("max_payload"), "{why}");
                }
            }
        }
    };
    // In atomic batches they share a batch.
    let others = async {
        for _ in 0..20 {
            let answers = bus.publish(batch(&[200; 10])).await;
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        }
    };
    tokio::join!(large, others, async {
        assert!(bus.publish(batch(&[10; 5])).await.iter().all(Result::is_ok));
    });
    assert_eq!(bus.status().await.unwrap().messages, 8 + 200 + 5);
}

#[tokio::test]
async fn a_message_over_max_payload_is_refused_alone_in_single_publishes() {
    refused_alone(PublishMode::Single).await;
}

#[tokio::test]
async fn a_message_over_max_payload_is_refused_alone_in_atomic_batches() {
    refused_alone(PublishMode::Atomic).await;
}

/// The limit of the current connection applies, and so does the limit of the stream itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_returns_with_a_smaller_limit_refuses_alone() {
    for publish in [PublishMode::Single, PublishMode::Atomic] {
        let mut server = server(MAX_PAYLOAD);
        let bus = Bus::connect_nats(NatsSettings { publish, ..nats_settings(&server) }).await.unwrap();
        let mut sizes = [300; 10];
        sizes[5] = 60_000;
        assert!(bus.publish(batch(&sizes)).await.iter().all(Result::is_ok));
        server.kill9();
        server.reconfigure("max_payload: 100000", "max_payload: 50000");
        server.restart();
        let kinds = async || {
            let answers = bus.publish(batch(&sizes)).await;
            answers.into_iter().map(|answer| answer.err().map(|error| error.kind)).collect::<Vec<_>>()
        };
        let started = std::time::Instant::now();
        let mut now = kinds().await;
        while now.contains(&Some(BusErrorKind::Unavailable)) {
            assert!(started.elapsed().as_secs() < 30, "{now:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            now = kinds().await;
        }
        let mut wanted = vec![None; 10];
        wanted[5] = Some(BusErrorKind::Invalid);
        assert_eq!(now, wanted, "{publish:?}");
    }
}

/// The limit of the stream is reset at the start; one that is set at runtime applies until then.
#[tokio::test]
async fn a_message_over_the_streams_own_limit_is_refused_alone() {
    for publish in [PublishMode::Single, PublishMode::Atomic] {
        let server = server(MAX_PAYLOAD);
        let bus = Bus::connect_nats(NatsSettings { publish, ..nats_settings(&server) }).await.unwrap();
        let context = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
        let mut config = context.get_stream("TESTS").await.unwrap().cached_info().config.clone();
        config.max_message_size = 1_000;
        context.update_stream(&config).await.unwrap();
        let mut sizes = [300; 10];
        sizes[5] = 2_000;
        let answers = bus.publish(batch(&sizes)).await;
        for (index, answer) in answers.iter().enumerate() {
            let kind = answer.as_ref().err().map(|error| error.kind);
            assert_eq!(kind, (index == 5).then_some(BusErrorKind::Invalid), "{publish:?} {index}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_server_limit_below_the_event_limit_is_warned_of() {
    let server = server(MAX_PAYLOAD);
    let warned = async |event_bytes_max| {
        let settings = NatsSettings { event_bytes_max, ..nats_settings(&server) };
        let bus = Bus::connect_nats(settings).await.unwrap();
        bus.warnings().into_iter().find_map(|(_, text)| text)
    };
    assert_eq!(warned(90_000).await, None);
    let text = warned(1_000_000).await.unwrap();
    for named in ["max_payload", "100000", "95904", "max_event_bytes", "1000000"] {
        assert!(text.contains(named), "{named}: {text}");
    }
}

/// The headers of a dead letter fit alongside the largest accepted message.
#[tokio::test]
async fn the_largest_message_fits_among_the_dead_letters() {
    let server = server(MAX_PAYLOAD);
    let bus = Bus::connect_nats(nats_settings(&server)).await.unwrap();
    let mut long = Batch::new();
    let subject = format!("events.{}", "s".repeat(1_000));
    long.push(&subject, None, |out| out.resize(out.len() + MAX_PAYLOAD - 4_096, 7));
    bus.publish(long).await.remove(0).unwrap();
    let spec = crate::bus::conformance::spec(&"c".repeat(180), ">");
    let mut subscription = bus.subscribe(spec).await.unwrap();
    let all = crate::bus::conformance::fetch(&mut subscription, 1).await;
    subscription.acker().dead_letter(all[0].receipt, &"\u{1f980}".repeat(2_000)).await.unwrap();
    let letters = bus.dead_letters(None, 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].payload.len(), &*letters[0].subject), (1, MAX_PAYLOAD - 4_096, &*subject));
}
