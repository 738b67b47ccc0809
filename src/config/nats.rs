//! Checks the settings of the bus: values that the server would refuse, and subjects that would lose events.
//!
//! Knows the subject filters of NATS and the subjects that the product publishes to.

use super::settings::Config;
use super::value::Setting;

/// Subjects that the stream must retain: events, and the anomalies found in them.
const KEPT: [&str; 2] = ["events.>", "anomalies.>"];

/// The durable consumer of the sinks. If rules shared it, they would see only a part of the events.
pub const SINK_CONSUMER: &str = "warehouse-sink";
/// The roles that can be readers of the stream.
pub const READER_SINK: &str = "sink";
pub const READER_REACTION: &str = "reaction";
/// Bytes of the name of a stream or a consumer.
const NAME_BYTES_MAX: usize = 200;

/// Calls `refuse` with key, value and allowed values.
pub(super) fn check(config: &Config, refuse: &mut impl FnMut(&str, String, &str)) {
    if !matches!(config.nats_stream_replicas.0, 1 | 3 | 5) {
        refuse("nats_stream_replicas", config.nats_stream_replicas.show(), "1, 3 or 5");
    }
    for (key, name) in [
        ("nats_stream_name", &config.nats_stream_name),
        ("nats_stream_dlq_stream_name", &config.nats_stream_dlq_stream_name),
        ("consumer_name", &config.consumer_name),
    ] {
        if !is_name(name) {
            refuse(key, name.show(), "a name without blanks, dots, slashes, backslashes, `*` and `>`");
        }
    }
    if let Some("" | "_RANGES") = config.nats_stream_dlq_stream_name.strip_prefix(&config.nats_stream_name) {
        let allowed = "another name than nats_stream_name, and than that with _RANGES";
        refuse("nats_stream_dlq_stream_name", config.nats_stream_dlq_stream_name.show(), allowed);
    }
    if config.consumer_name == SINK_CONSUMER {
        refuse("consumer_name", config.consumer_name.show(), "another name than the sinks' own");
    }
    let readers = &config.nats_stream_readers;
    if !readers.0.iter().all(|role| [READER_SINK, READER_REACTION].contains(&role.as_str())) {
        refuse("nats_stream_readers", readers.show(), "sink, reaction, or both");
    }
    let subjects = &config.nats_stream_subjects;
    let valid = subjects.0.iter().all(|filter| is_filter(filter));
    let kept = |wanted: &&str| subjects.0.iter().any(|filter| covers(filter, wanted));
    if !valid || !KEPT.iter().all(kept) {
        let allowed = "subject filters of which one takes all of events.> and one all of anomalies.>: \
                       what no stream takes would be lost";
        refuse("nats_stream_subjects", subjects.show(), allowed);
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
    use super::super::{ConfigError, Loaded, load_from};
    use super::*;

    fn load_env(environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
        load_from(None, environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), &[])
    }

    fn refused(name: &str, value: &str) {
        let error = load_env(&[(name, value)]).expect_err(value).to_string();
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
            load_env(&[(name, "Rules_2-b")]).unwrap();
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
            load_env(&[("NATS_STREAM_READERS", right)]).unwrap();
        }
    }

    #[test]
    fn numbers_that_no_server_accepts_are_refused() {
        for invalid in ["0", "2", "4", "6"] {
            refused("NATS_STREAM_REPLICAS", invalid);
        }
        for right in ["1", "3", "5"] {
            load_env(&[("NATS_STREAM_REPLICAS", right)]).unwrap();
        }
        for invalid in ["0", "-2", "many"] {
            refused("NATS_MAX_RECONNECTS", invalid);
        }
        assert_eq!(load_env(&[("NATS_MAX_RECONNECTS", "2")]).unwrap().config.nats_max_reconnects.0, Some(2));
        assert_eq!(load_env(&[("NATS_MAX_RECONNECTS", "-1")]).unwrap().config.nats_max_reconnects.0, None);
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
            load_env(&[("NATS_STREAM_SUBJECTS", whole)]).expect(whole);
        }
    }
}
