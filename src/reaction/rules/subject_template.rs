//! Templates of the bus subjects that a match is published to.
//!
//! Invariant: whatever the names of the app, the category and the type, a filled template is a valid subject and never
//! one under `events.`, where it would feed its own rule.

use crate::event::subject::escape_token;

/// Bytes of a template.
const TEMPLATE_BYTES_MAX: usize = 256;
/// Reserved first tokens: the input itself, and subjects of the bus.
const RESERVED: [&str; 3] = ["events", "dlq", "_INBOX"];

/// A subject with the placeholders `{app_id}`, `{category}` and `{type}`.
#[derive(Debug)]
pub(in crate::reaction) struct SubjectTemplate(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(Box<str>),
    App,
    Category,
    Type,
}

impl SubjectTemplate {
    /// Compiles a template. The error is one clause for its author.
    pub(in crate::reaction) fn compile(source: &str) -> Result<Self, String> {
        if source.is_empty() || source.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("must be from 1 to {TEMPLATE_BYTES_MAX} bytes long"));
        }
        let mut parts = Vec::new();
        let mut rest = source;
        while let Some(open) = rest.find('{') {
            let close = rest[open..].find('}').ok_or("opens a `{` and does not close it")? + open;
            if open > 0 {
                parts.push(Part::Text(rest[..open].into()));
            }
            parts.push(match &rest[open + 1..close] {
                "app_id" => Part::App,
                "category" => Part::Category,
                "type" => Part::Type,
                _ => return Err("may hold {app_id}, {category} and {type} alone".to_owned()),
            });
            rest = &rest[close + 1..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.into()));
        }
        let template = Self(parts);
        template.check()?;
        Ok(template)
    }

    fn check(&self) -> Result<(), String> {
        let Some(Part::Text(first)) = self.0.first() else {
            return Err("must begin with a token of its own, not with a placeholder".to_owned());
        };
        let (head, closed) = first.split_once('.').map_or((&**first, false), |(head, _)| (head, true));
        if RESERVED.contains(&head) || head.starts_with('$') {
            return Err("must not be under `events.`, `dlq.` or a subject of the bus itself".to_owned());
        }
        // `even{type}` could become `events`.
        if !closed && self.0.len() > 1 {
            return Err("must not have a placeholder in its first token".to_owned());
        }
        let sample = self.fill("a", "a", "a");
        let valid = |c: char| c.is_ascii_graphic() && !matches!(c, '*' | '>' | '{' | '}');
        if sample.split('.').any(str::is_empty) || !sample.replace('.', "").chars().all(valid) {
            return Err("must be tokens of visible ASCII characters, joined by `.`, without wildcards".to_owned());
        }
        Ok(())
    }

    pub(in crate::reaction) fn fill(&self, app: &str, category: &str, event_type: &str) -> String {
        let mut subject = String::with_capacity(64);
        for part in &self.0 {
            match part {
                Part::Text(text) => subject.push_str(text),
                Part::App => subject.push_str(&escape_token(app)),
                Part::Category => subject.push_str(&escape_token(category)),
                Part::Type => subject.push_str(&escape_token(event_type)),
            }
        }
        subject
    }
}

/// The prefix of anomaly subjects.
const ANOMALIES: &str = "anomalies.";

/// The subject to which every anomaly is published.
pub(in crate::reaction) fn anomaly_subject(app: &str, name: &str) -> String {
    format!("{ANOMALIES}{}.{}", escape_token(app), escape_token(name))
}

/// Whether the bus must retain messages on this subject. Subjects that rules publish to may have no stream.
pub(in crate::reaction) fn must_be_retained(subject: &str) -> bool {
    subject.starts_with(ANOMALIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_escaped_tokens() {
        let template = SubjectTemplate::compile("alerts.{app_id}.{category}-{type}.x").unwrap();
        assert_eq!(template.fill("shop", "custom", "a.b c"), "alerts.shop.custom-a%2Eb%20c.x");
        assert_eq!(SubjectTemplate::compile("alerts").unwrap().fill("a", "b", "c"), "alerts");
        assert_eq!(anomaly_subject("com.shop", "too many"), "anomalies.com%2Eshop.too%20many");
    }

    #[test]
    fn loops_and_invalid_subjects_are_refused() {
        for source in [
            "",
            "events",
            "events.x",
            "events.{app_id}.custom.x",
            "{category}.x",
            "even{type}.x",
            "e{type}",
            "dlq.x",
            "$JS.API.x",
            "_INBOX.x",
            "alerts..x",
            "alerts.",
            ".alerts",
            "alerts.*",
            "alerts.>",
            "alerts x",
            "alerts.é",
            "alerts.{device_id}",
            "alerts.{app_id",
            "alerts.app_id}",
        ] {
            assert!(SubjectTemplate::compile(source).is_err(), "{source}");
        }
        assert!(SubjectTemplate::compile(&"a".repeat(TEMPLATE_BYTES_MAX + 1)).is_err());
        assert!(SubjectTemplate::compile("events_alerts.{type}").is_ok());
    }
}
