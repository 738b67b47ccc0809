//! Streams and consumers that somebody created beforehand: any field that could lose, change or hold back messages is
//! corrected, or fails the start with the field and its value.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::consumer::{AckPolicy, Config as Consumer, DeliverPolicy, PriorityPolicy, ReplayPolicy};
use async_nats::jetstream::stream::{
    Compression, Config, ConsumerLimits, DiscardPolicy, PersistenceMode, Republish, RetentionPolicy, Source,
    StorageType, SubjectTransform,
};
use async_nats::jetstream::{self, Context};

use super::refused;
use crate::bus::conformance::{fetch, nats_settings, payloads, publish_numbers, spec};
use crate::bus::{Batch, Bus, BusErrorKind, NatsSettings, PublishMode};
use crate::services::nats::{NatsServer, Version};

async fn context(server: &NatsServer) -> Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

/// What happens to the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Treatment {
    Corrected,
    Kept,
    Refused,
}

use Treatment::{Corrected, Kept, Refused};

type Case<T> = (&'static str, Treatment, fn(&mut T));

/// The field as named by the server, how to set it, and what happens to it.
const STREAM: [Case<Config>; 28] = [
    ("max_msgs", Corrected, |c| c.max_messages = 5),
    ("max_msgs_per_subject", Corrected, |c| c.max_messages_per_subject = 1),
    ("discard_new_per_subject", Corrected, |c| {
        (c.max_messages_per_subject, c.discard) = (1, DiscardPolicy::New);
        c.discard_new_per_subject = true;
    }),
    ("max_bytes", Corrected, |c| c.max_bytes = 1_000_000),
    ("max_age", Corrected, |c| c.max_age = Duration::from_secs(3_600)),
    ("max_msg_size", Corrected, |c| c.max_message_size = 10),
    ("discard", Corrected, |c| c.discard = DiscardPolicy::Old),
    ("no_ack", Corrected, |c| c.no_ack = true),
    ("duplicate_window", Corrected, |c| c.duplicate_window = Duration::from_secs(1)),
    ("allow_rollup_hdrs", Corrected, |c| c.allow_rollup = true),
    ("subject_transform", Corrected, |c| {
        c.subject_transform = Some(SubjectTransform { source: "a.*".into(), destination: "b.$1".into() });
    }),
    ("consumer_limits", Corrected, |c| {
        let inactive_threshold = Duration::from_secs(60);
        c.consumer_limits = Some(ConsumerLimits { inactive_threshold, max_ack_pending: 0 });
    }),
    ("subject_delete_marker_ttl", Corrected, |c| {
        (c.max_age, c.allow_message_ttl) = (Duration::from_secs(3_600), true);
        (c.allow_rollup, c.subject_delete_marker_ttl) = (true, Some(Duration::from_secs(5)));
    }),
    ("subjects", Corrected, |c| c.subjects = vec!["events.only.>".into()]),
    ("allow_atomic", Corrected, |_| {}),
    ("retention", Corrected, |c| c.retention = RetentionPolicy::Interest),
    ("retention", Refused, |c| c.retention = RetentionPolicy::WorkQueue),
    ("max_consumers", Corrected, |c| c.max_consumers = 2),
    ("storage", Refused, |c| c.storage = StorageType::Memory),
    ("deny_purge", Refused, |c| c.deny_purge = true),
    ("mirror", Refused, |c| {
        c.subjects.clear();
        c.mirror = Some(Source { name: "ELSEWHERE".into(), ..Source::default() });
    }),
    ("persist_mode", Refused, |c| c.persist_mode = Some(PersistenceMode::Async)),
    ("allow_msg_counter", Refused, |c| c.allow_message_counter = true),
    ("deny_delete", Kept, |c| c.deny_delete = true),
    ("allow_direct", Kept, |c| c.allow_direct = true),
    ("compression", Kept, |c| c.compression = Some(Compression::S2)),
    ("sources", Kept, |c| c.sources = Some(vec![Source { name: "ELSEWHERE".into(), ..Source::default() }])),
    ("republish", Kept, |c| {
        c.republish = Some(Republish { source: "a.>".into(), destination: "copy.>".into(), headers_only: false });
    }),
];

fn field<T: serde::Serialize>(config: &T, name: &str) -> serde_json::Value {
    serde_json::to_value(config).unwrap()[name].clone()
}

#[tokio::test]
async fn every_field_of_a_stream_is_corrected_kept_or_named() {
    let server = NatsServer::start(Version::Newest);
    let (context, settings) = (context(&server).await, nats_settings(&server));
    let elsewhere = Config { name: "ELSEWHERE".into(), subjects: vec!["else.>".into()], ..Config::default() };
    context.create_stream(elsewhere).await.unwrap();
    let mut wrong = Vec::new();
    for (name, treatment, change) in STREAM {
        let mut made =
            Config { name: "TESTS".into(), subjects: vec!["a.>".into()], num_replicas: 1, ..Config::default() };
        change(&mut made);
        if let Err(error) = context.create_stream(made).await {
            wrong.push(format!("{name}: not made: {error}"));
            continue;
        }
        let stream = context.get_stream("TESTS").await.unwrap();
        // The server removes the files of a stream after it has answered: a stream of the same name may find some of
        // them.
        if stream.cached_info().state.messages > 0 {
            stream.purge().await.unwrap();
        }
        let before = field(&stream.cached_info().config, name);
        let found = match Bus::connect_nats(settings.clone()).await {
            Ok(bus) => {
                publish_numbers(&bus, 0..20).await;
                let stored = bus.status().await.unwrap().messages;
                if stored != 20 {
                    wrong.push(format!("{name}: {stored} messages of 20"));
                }
                let after = field(&context.get_stream("TESTS").await.unwrap().cached_info().config, name);
                bus.close().await;
                if before == after { Kept } else { Corrected }
            }
            Err(error) => {
                let why = std::error::Error::source(&error).unwrap().to_string();
                if error.kind != BusErrorKind::Refused || !why.contains(&format!("{name} = {before} (must be ")) {
                    wrong.push(format!("{name}: {:?} {why}", error.kind));
                }
                Refused
            }
        };
        if found != treatment {
            wrong.push(format!("{name}: {found:?}, not {treatment:?}"));
        }
        context.delete_stream("TESTS").await.unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_sealed_stream_ends_the_start() {
    let server = NatsServer::start(Version::Oldest);
    let settings = nats_settings(&server);
    Bus::connect_nats(settings.clone()).await.unwrap().close().await;
    let context = context(&server).await;
    let mut config = context.get_stream("TESTS").await.unwrap().cached_info().config.clone();
    (config.sealed, config.allow_rollup, config.discard) = (true, false, DiscardPolicy::New);
    context.update_stream(&config).await.unwrap();
    let (kind, why) = refused(settings).await;
    assert!(kind == BusErrorKind::Refused && why.contains("sealed = true"), "{why}");
}

/// The other streams do not lose anything either.
#[tokio::test]
async fn the_other_streams_are_reconciled_too() {
    let server = NatsServer::start(Version::Oldest);
    let (context, settings) = (context(&server).await, nats_settings(&server));
    let streams = [("TESTS_RANGES", "ranges.TESTS.*"), ("TESTS_DLQ", "dlq.>")];
    for (name, subject) in streams {
        let subjects = vec![subject.to_owned()];
        let mut made = Config { name: name.into(), subjects, max_messages: 3, max_bytes: 1_000, ..Config::default() };
        made.max_messages_per_subject = 1;
        made.max_message_size = 100;
        context.create_stream(made).await.unwrap();
    }
    Bus::connect_nats(settings.clone()).await.unwrap();
    for (name, _) in streams {
        let config = context.get_stream(name).await.unwrap().cached_info().config.clone();
        let limits = (config.max_messages, config.max_bytes, config.max_messages_per_subject, config.max_message_size);
        assert_eq!(limits, (-1, -1, -1, -1), "{name}");
        context.delete_stream(name).await.unwrap();
        let denied = Config { deny_delete: true, ..config };
        context.create_stream(denied).await.unwrap();
        let (kind, why) = refused(settings.clone()).await;
        assert!(kind == BusErrorKind::Refused && why.contains(name) && why.contains("deny_delete = true"), "{why}");
        context.delete_stream(name).await.unwrap();
    }
}

const ONE_HOUR: Duration = Duration::from_secs(3_600);

const CONSUMER: [Case<Consumer>; 18] = [
    ("headers_only", Corrected, |c| c.headers_only = true),
    ("max_deliver", Corrected, |c| c.max_deliver = 1),
    ("backoff", Corrected, |c| {
        (c.max_deliver, c.backoff) = (5, vec![ONE_HOUR, ONE_HOUR]);
    }),
    ("inactive_threshold", Corrected, |c| c.inactive_threshold = ONE_HOUR),
    ("max_ack_pending", Corrected, |c| c.max_ack_pending = 1),
    ("ack_wait", Corrected, |c| c.ack_wait = ONE_HOUR),
    ("filter_subject", Corrected, |c| c.filter_subject = "a.other".into()),
    ("filter_subjects", Corrected, |c| c.filter_subjects = vec!["a.other".into(), "a.more".into()]),
    ("max_batch", Corrected, |c| c.max_batch = 1),
    ("max_expires", Corrected, |c| c.max_expires = Duration::from_secs(1)),
    ("pause_until", Corrected, |c| c.pause_until = Some(hours_ahead())),
    ("priority_groups", Corrected, |c| {
        (c.priority_policy, c.priority_groups) = (PriorityPolicy::Overflow, vec!["jobs".into()]);
    }),
    ("sample_freq", Corrected, |c| c.sample_frequency = 10),
    ("ack_policy", Refused, |c| c.ack_policy = AckPolicy::None),
    ("ack_policy", Refused, |c| c.ack_policy = AckPolicy::All),
    ("deliver_policy", Refused, |c| c.deliver_policy = DeliverPolicy::New),
    ("deliver_policy", Refused, |c| c.deliver_policy = DeliverPolicy::Last),
    ("replay_policy", Refused, |c| c.replay_policy = ReplayPolicy::Original),
];

fn hours_ahead() -> DateTime {
    DateTime::from_unix_timestamp(jiff::Timestamp::now().as_second() + 7_200).unwrap()
}

#[tokio::test]
async fn every_field_of_a_consumer_is_corrected_kept_or_named() {
    let server = NatsServer::start(Version::Newest);
    let bus = Bus::connect_nats(nats_settings(&server)).await.unwrap();
    let stream = context(&server).await.get_stream("TESTS").await.unwrap();
    publish_numbers(&bus, 0..20).await;
    let mut wrong = Vec::new();
    for (name, treatment, change) in CONSUMER {
        let mut made = Consumer {
            durable_name: Some("early".into()),
            ack_policy: AckPolicy::Explicit,
            max_waiting: 512,
            ..Consumer::default()
        };
        change(&mut made);
        if let Err(error) = stream.create_consumer(made).await {
            wrong.push(format!("{name}: not made: {error}"));
            continue;
        }
        let before = field(&stream.consumer_info("early").await.unwrap().config, name);
        let found = match bus.subscribe(spec("early", ">")).await {
            Ok(mut subscription) => {
                let after = field(&stream.consumer_info("early").await.unwrap().config, name);
                if treatment != Refused && payloads(&fetch(&mut subscription, 20).await).len() != 20 {
                    wrong.push(format!("{name}: messages are missing"));
                }
                if before == after { Kept } else { Corrected }
            }
            Err(error) => {
                let why = std::error::Error::source(&error).unwrap().to_string();
                if error.kind != BusErrorKind::Refused || !why.contains(&format!("{name} = {before} (must be ")) {
                    wrong.push(format!("{name}: {:?} {why}", error.kind));
                }
                Refused
            }
        };
        if found != treatment {
            wrong.push(format!("{name}: {found:?}, not {treatment:?}"));
        }
        stream.delete_consumer("early").await.unwrap();
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One subject, many messages: each of them counts.
#[tokio::test]
async fn a_stream_that_kept_one_message_a_subject_keeps_all() {
    for (version, publish) in [(Version::Oldest, PublishMode::Single), (Version::Newest, PublishMode::Atomic)] {
        let server = NatsServer::start(version);
        let made = Config {
            name: "TESTS".into(),
            subjects: vec!["events.>".into()],
            max_messages_per_subject: 1,
            ..Config::default()
        };
        context(&server).await.create_stream(made).await.unwrap();
        let bus = Bus::connect_nats(NatsSettings { publish, ..nats_settings(&server) }).await.unwrap();
        let mut batch = Batch::new();
        for n in 0..20 {
            batch.push("events.shop.user.login", None, |out| out.push(n));
        }
        assert!(bus.publish(batch).await.iter().all(Result::is_ok));
        assert_eq!(bus.status().await.unwrap().messages, 20);
    }
}
