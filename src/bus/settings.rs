//! The settings of each engine: values that the server would refuse, or that would lose events, are refused when they
//! are read.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::settings::{Attempts, Reader, Size, Url, choice};

/// The default server when roles run as separate processes.
const URL: &str = "nats://localhost:4222";
/// Recent events kept in memory for consumers near the head.
const TAIL_BYTES_MAX: usize = 24 << 20;
/// Subjects that the stream must retain: events, and the anomalies found in them.
const KEPT: [&str; 2] = ["events.>", "anomalies.>"];
/// The durable consumer of the sinks. If rules shared it, they would see only a part of the events.
pub const SINK_CONSUMER: &str = "warehouse-sink";
/// The maximum message size that NATS advises, and small enough to keep many events in memory.
const EVENT_BYTES_MAX: u64 = 8_000_000;
/// The roles that can be readers of the stream.
const READER_SINK: &str = "sink";
const READER_REACTION: &str = "reaction";
/// Bytes of the name of a stream or a consumer.
const NAME_BYTES_MAX: usize = 200;

/// How long messages may stay unanswered before they are delivered again.
pub fn ack_wait(from: &mut Reader<'_>) -> Duration {
    from.duration_from("nats_ack_wait", Duration::from_secs(1))
}

/// The largest payload to be published.
pub fn event_bytes_max(from: &mut Reader<'_>) -> usize {
    let is_allowed = |Size(bytes): &Size| (1_000..=EVENT_BYTES_MAX).contains(bytes);
    from.get_if::<Size>("max_event_bytes", "a size from 1KB to 8MB", is_allowed).0 as usize
}

/// The durable consumer of the rules.
pub fn rules_consumer(from: &mut Reader<'_>) -> String {
    let consumer = name(from, "consumer_name");
    if consumer == SINK_CONSUMER {
        from.refuse("consumer_name", "another name than the sinks' own");
    }
    consumer
}

fn name(from: &mut Reader<'_>, setting: &'static str) -> String {
    let allowed = "a name without blanks, dots, slashes, backslashes, `*` and `>`";
    from.get_if(setting, allowed, |name: &String| is_name(name))
}

/// Settings of the embedded engine.
#[derive(Clone, Debug)]
pub struct EmbeddedSettings {
    /// The directory that holds `bus.db`.
    pub dir: PathBuf,
    /// Stored bytes above which publishing is refused.
    pub bytes_max: u64,
    /// Messages that every consumer has acknowledged are purged at this age.
    pub age_max: Duration,
    /// Dead letters are purged at this age.
    pub dead_letter_age_max: Duration,
    /// How long a message id is remembered.
    pub dedup_window: Duration,
    /// Bytes of recent groups kept in memory for consumers near the head.
    pub tail_bytes_max: usize,
}

/// Settings of the NATS engine: how it reaches the server, and the streams it maintains there.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// Server addresses, comma-separated: `nats://user:password@host:4222`, `tls://host:4222`.
    pub url: Url,
    pub client_name: String,
    /// A `.creds` file (JWT and nkey).
    pub credentials_file: Option<PathBuf>,
    /// A PEM file with the certificate authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Consecutive failed attempts after which reconnecting is abandoned and the process ends; `None`: never.
    pub reconnects_max: Option<usize>,
    pub reconnect_wait: Duration,
    /// The timeout of one request: a connection attempt, an acknowledged publish, a JetStream API call.
    pub timeout: Duration,
    pub stream: String,
    pub subjects: Vec<String>,
    /// Durable consumers that must have acknowledged a message before it is purged. A consumer that does not exist yet
    /// counts as having read nothing.
    pub readers: Vec<String>,
    pub age_max: Duration,
    pub bytes_max: u64,
    pub replicas: usize,
    pub storage: StreamStorage,
    pub dead_letter_stream: String,
    pub dead_letter_age_max: Duration,
    pub dedup_window: Duration,
    pub publish: PublishMode,
    /// The largest payload to be published. A warning is raised for a server that accepts less.
    pub event_bytes_max: usize,
}

impl EmbeddedSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        Self {
            dir: from.get("data_dir"),
            bytes_max: from.get::<Size>("nats_stream_max_bytes").0,
            age_max: from.get("nats_stream_max_age"),
            dead_letter_age_max: from.get("nats_stream_dlq_max_age"),
            dedup_window: from.get("dedup_window"),
            tail_bytes_max: TAIL_BYTES_MAX,
        }
    }
}

impl NatsSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let url = from.optional("nats_url");
        let stream = name(from, "nats_stream_name");
        let dead_letter_stream = name(from, "nats_stream_dlq_stream_name");
        if let Some("" | "_RANGES") = dead_letter_stream.strip_prefix(&stream) {
            let allowed = "another name than nats_stream_name, and than that with _RANGES";
            from.refuse("nats_stream_dlq_stream_name", allowed);
        }
        Self {
            url: url.unwrap_or_else(|| URL.into()),
            credentials_file: from.optional("nats_credentials_file"),
            ca_file: from.optional("nats_ca_file"),
            client_name: from.get("nats_client_name"),
            reconnects_max: from.get::<Attempts>("nats_max_reconnects").0,
            reconnect_wait: from.get("nats_reconnect_wait"),
            timeout: from.positive("nats_timeout"),
            publish: from.get("nats_publish_mode"),
            stream,
            subjects: from.get_if(
                "nats_stream_subjects",
                "subject filters of which one takes all of events.> and one all of anomalies.>: what no stream takes \
                 would be lost",
                |filters: &Vec<String>| {
                    let kept = |wanted: &&str| filters.iter().any(|filter| covers(filter, wanted));
                    filters.iter().all(|filter| is_filter(filter)) && KEPT.iter().all(kept)
                },
            ),
            readers: readers(from),
            bytes_max: from.get::<Size>("nats_stream_max_bytes").0,
            age_max: from.get("nats_stream_max_age"),
            replicas: from.get_if("nats_stream_replicas", "1, 3 or 5", |count| matches!(count, 1 | 3 | 5)),
            storage: from.get("nats_stream_storage"),
            dead_letter_stream,
            dead_letter_age_max: from.get("nats_stream_dlq_max_age"),
            dedup_window: from.get("dedup_window"),
            event_bytes_max: event_bytes_max(from),
        }
    }
}

/// The consumers of all roles of this deployment, not only of this process.
fn readers(from: &mut Reader<'_>) -> Vec<String> {
    let rules = rules_consumer(from);
    let of_role = |role: &String| match role.as_str() {
        READER_SINK => Some(SINK_CONSUMER.to_owned()),
        READER_REACTION => Some(rules.clone()),
        _ => None,
    };
    let are_roles = |roles: &Vec<String>| roles.iter().all(|role| of_role(role).is_some());
    let roles = from.get_if("nats_stream_readers", "sink, reaction, or both", are_roles);
    roles.iter().filter_map(of_role).collect()
}

choice! {
    /// The storage of a stream.
    StreamStorage { File = "file", Memory = "memory" }
}

choice! {
    /// How groups of messages are published to JetStream.
    PublishMode {
        /// Chooses the faster mode for the server.
        Auto = "auto",
        /// One acknowledgement per message, pipelined.
        Single = "single",
        /// Atomic batches, one acknowledgement each (server 2.12 or later).
        Atomic = "atomic",
    }
}

/// Whether the server accepts this name of a stream or a consumer, which is also a token of subjects.
fn is_name(text: &str) -> bool {
    let allowed = |c: char| c > ' ' && !matches!(c, '.' | '*' | '>' | '/' | '\\' | '\x7f');
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.chars().all(|c| allowed(c) && !c.is_whitespace())
}

/// Checks a subject filter: nonempty tokens without blanks, where `*` and a final `>` are wildcards only as whole
/// tokens.
fn is_filter(text: &str) -> bool {
    let count = text.split('.').count();
    text.split('.').enumerate().all(|(index, token)| match token {
        "*" => true,
        ">" => index + 1 == count,
        _ => !token.is_empty() && token.chars().all(|c| c > ' ' && !matches!(c, '*' | '>' | '\x7f')),
    })
}

/// Whether every subject that matches `wanted` also matches `filter`.
fn covers(filter: &str, wanted: &str) -> bool {
    let mut wanted = wanted.split('.');
    for token in filter.split('.') {
        let covered = match (token, wanted.next()) {
            (_, None) => false,
            (">", Some(_)) => return true,
            // `*` matches one token, `>` one or more.
            ("*", Some(next)) => next != ">",
            (literal, Some(next)) => literal == next,
        };
        if !covered {
            return false;
        }
    }
    wanted.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::settings::read_with;

    fn read(values: &[(&str, &str)]) -> Result<NatsSettings, String> {
        read_with(values, NatsSettings::read)
    }

    fn refused(name: &str, value: &str) {
        let error = read(&[(name, value)]).expect_err(value);
        assert!(error.contains(&name.to_ascii_lowercase()), "{value}: {error}");
    }

    #[test]
    fn a_filter_covers_another_that_matches_a_subset() {
        for (filter, wanted, expected) in [
            ("events.>", "events.>", true),
            (">", "events.>", true),
            ("*.>", "events.>", true),
            ("events.*.>", "events.>", false),
            ("events.*", "events.>", false),
            ("events.shop.>", "events.>", false),
            ("events", "events.>", false),
            ("event.>", "events.>", false),
            ("*", "events.>", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.*.c", true),
            ("a.b.c", "a.*.c", false),
            ("a.b", "a.b.c", false),
            ("a.b.c", "a.b", false),
        ] {
            assert_eq!(covers(filter, wanted), expected, "{filter} {wanted}");
        }
    }

    #[test]
    fn names_that_no_server_accepts_are_refused() {
        let long = "n".repeat(NAME_BYTES_MAX + 1);
        for name in ["CONSUMER_NAME", "NATS_STREAM_NAME", "NATS_STREAM_DLQ_STREAM_NAME"] {
            for invalid in ["a.b", "a*", ">", "a b", "a/b", "a\\b", "a\tb", &long] {
                refused(name, invalid);
            }
            read(&[(name, "Rules_2-b")]).unwrap();
        }
        refused("NATS_STREAM_DLQ_STREAM_NAME", "CAUSALITY_EVENTS");
        refused("NATS_STREAM_DLQ_STREAM_NAME", "CAUSALITY_EVENTS_RANGES");
        refused("CONSUMER_NAME", SINK_CONSUMER);
    }

    #[test]
    fn readers_are_roles_that_read() {
        for invalid in ["gateway", "sink,analysis-engine", "all"] {
            refused("NATS_STREAM_READERS", invalid);
        }
        for right in ["sink", "reaction", "reaction,sink"] {
            read(&[("NATS_STREAM_READERS", right)]).unwrap();
        }
    }

    #[test]
    fn numbers_that_no_server_accepts_are_refused() {
        for invalid in ["0", "2", "4", "6"] {
            refused("NATS_STREAM_REPLICAS", invalid);
        }
        for right in ["1", "3", "5"] {
            read(&[("NATS_STREAM_REPLICAS", right)]).unwrap();
        }
        for invalid in ["0", "-2", "many"] {
            refused("NATS_MAX_RECONNECTS", invalid);
        }
        assert_eq!(read(&[("NATS_MAX_RECONNECTS", "2")]).unwrap().reconnects_max, Some(2));
        assert_eq!(read(&[("NATS_MAX_RECONNECTS", "-1")]).unwrap().reconnects_max, None);
    }

    #[test]
    fn subjects_that_would_lose_events_are_refused() {
        for lossy in ["events.shop.>,anomalies.>", "events.>", "anomalies.>", "events.*,anomalies.>", "requests.>"] {
            refused("NATS_STREAM_SUBJECTS", lossy);
        }
        for malformed in ["events.>,anomalies.>,a..b", "events.>,anomalies.>,>.a", "events.>,anomalies.>,a b"] {
            refused("NATS_STREAM_SUBJECTS", malformed);
        }
        for whole in ["events.>,anomalies.>", "events.>, anomalies.>, alerts.*", "*.>", ">"] {
            read(&[("NATS_STREAM_SUBJECTS", whole)]).expect(whole);
        }
    }

    #[test]
    fn the_bus_waits_for_the_readers_of_the_deployment() {
        let both = [SINK_CONSUMER.to_owned(), read_with(&[], rules_consumer).unwrap()];
        assert_eq!(read(&[]).unwrap().readers, both);
        assert_eq!(read(&[("NATS_STREAM_READERS", "sink")]).unwrap().readers, both[..1]);
    }
}
