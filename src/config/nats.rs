//! What the settings of the bus must hold beyond the form of each value: what the server would take, and
//! what would lose events, is refused here.
//!
//! Knows how subjects are filtered on NATS, and which the product publishes to.

use super::{Config, Setting};

/// All that is published to them must be kept: events, and the anomalies found in them.
const KEPT: [&str; 2] = ["events.>", "anomalies.>"];

/// Refuses by key, value and what is allowed.
pub(super) fn check(config: &Config, refuse: &mut impl FnMut(&str, String, &str)) {
    let subjects = &config.nats_stream_subjects;
    let valid = subjects.0.iter().all(|filter| is_filter(filter));
    let kept = |wanted: &&str| subjects.0.iter().any(|filter| covers(filter, wanted));
    if !valid || !KEPT.iter().all(|wanted| kept(&wanted)) {
        let allowed = "subject filters of which one takes all of events.> and one all of anomalies.>: \
                       what no stream takes would be lost";
        refuse("nats_stream_subjects", subjects.show(), allowed);
    }
}

/// Tokens that are not empty and without blanks; `*` and, at the end, `>` stand for tokens only as a whole.
fn is_filter(text: &str) -> bool {
    let count = text.split('.').count();
    text.split('.').enumerate().all(|(index, token)| match token {
        "*" => true,
        ">" => index + 1 == count,
        _ => !token.is_empty() && token.chars().all(|c| c > ' ' && !matches!(c, '*' | '>' | '\x7f')),
    })
}

/// Whether every subject that passes `wanted` passes `filter`.
fn covers(filter: &str, wanted: &str) -> bool {
    let mut wanted = wanted.split('.');
    for token in filter.split('.') {
        let covered = match (token, wanted.next()) {
            (_, None) => false,
            (">", Some(_)) => return true,
            // One token is fewer than one or more.
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
    fn a_filter_covers_another_when_nothing_passes_that_one_alone() {
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
