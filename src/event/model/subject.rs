//! Bus subjects of events: `events.{app}.{category}.{type}`.
//!
//! Invariant: two different (app, category, type) triples never share a subject, and a subject decodes to its triple. A
//! token has only letters, digits, `-`, `_` and `%`, so it is valid on every bus, whatever the app or custom event is
//! called.

use std::borrow::Cow;
use std::fmt::Write as _;

const PREFIX: &str = "events.";
/// Prefix for refused input. No consumer reads it.
const REFUSED_PREFIX: &str = "quarantine.";
/// Encodes the empty string, which is not a valid token.
const EMPTY: &str = "%";

/// The parts of an event subject, unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventSubject<'a> {
    pub app: Cow<'a, str>,
    pub category: Cow<'a, str>,
    pub event_type: Cow<'a, str>,
}

/// Appends the subject to `out`.
pub fn write_event_subject(out: &mut String, app: &str, category: &str, event_type: &str) {
    out.push_str(PREFIX);
    write_token(out, app);
    out.push('.');
    write_token(out, category);
    out.push('.');
    write_token(out, event_type);
}

/// `None` unless [`write_event_subject`] could have written it.
pub fn parse_event_subject(subject: &str) -> Option<EventSubject<'_>> {
    let mut tokens = subject.strip_prefix(PREFIX)?.split('.');
    let app = unescape_token(tokens.next()?)?;
    let category = unescape_token(tokens.next()?)?;
    let event_type = unescape_token(tokens.next()?)?;
    tokens.next().is_none().then_some(EventSubject { app, category, event_type })
}

/// The subject of refused input: `quarantine.{app}.{reason}`. An unknown app becomes the token `%`.
pub fn refused_subject(app: &str, reason: &str) -> String {
    format!("{REFUSED_PREFIX}{}.{reason}", escape_token(app))
}

/// The app and the reason in a subject that [`refused_subject`] wrote.
pub fn parse_refused_subject(subject: &str) -> Option<(Cow<'_, str>, &str)> {
    let (app, reason) = subject.strip_prefix(REFUSED_PREFIX)?.split_once('.')?;
    Some((unescape_token(app)?, reason))
}

/// Encodes text as one subject token: bytes other than ASCII letters, digits, `-` and `_` become `%XX`.
pub fn escape_token(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && text.bytes().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    write_token(&mut out, text);
    Cow::Owned(out)
}

/// `None` if [`escape_token`] never writes this token.
pub fn unescape_token(token: &str) -> Option<Cow<'_, str>> {
    match token {
        "" => return None,
        EMPTY => return Some(Cow::Borrowed("")),
        _ if token.bytes().all(is_plain) => return Some(Cow::Borrowed(token)),
        _ => {}
    }
    let mut out = Vec::with_capacity(token.len());
    let mut bytes = token.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let byte = hex(bytes.next()?)? << 4 | hex(bytes.next()?)?;
                // Each token has one spelling. Otherwise two subjects could name the same event type.
                if is_plain(byte) {
                    return None;
                }
                out.push(byte);
            }
            _ if is_plain(byte) => out.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn write_token(out: &mut String, text: &str) {
    if text.is_empty() {
        out.push_str(EMPTY);
    } else if text.bytes().all(is_plain) {
        out.push_str(text);
    } else {
        for byte in text.bytes() {
            if is_plain(byte) {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_readable() {
        let mut out = String::new();
        write_event_subject(&mut out, "shop", "commerce", "purchase_complete");
        assert_eq!(out, "events.shop.commerce.purchase_complete");
    }

    #[test]
    fn separators_and_wildcards_are_escaped() {
        let mut out = String::new();
        write_event_subject(&mut out, "com.shop", "custom", "a b*>é");
        assert_eq!(out, "events.com%2Eshop.custom.a%20b%2A%3E%C3%A9");
        let parts = parse_event_subject(&out).expect("parse");
        assert_eq!(parts.app, "com.shop");
        assert_eq!(parts.event_type, "a b*>é");
    }

    #[test]
    fn only_the_written_spelling_is_read() {
        for token in ["", "%2e", "%41", "%2", "%%", "a.b", "a b", "%FF", "é"] {
            assert_eq!(unescape_token(token), None, "{token}");
        }
        for subject in ["events.a.b", "events.a.b.c.d", "events.a..c", "anomalies.a.b.c"] {
            assert_eq!(parse_event_subject(subject), None, "{subject}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(app in any::<String>(), category in "[a-z]{1,8}", event_type in any::<String>()) {
            let mut out = String::new();
            write_event_subject(&mut out, &app, &category, &event_type);
            let parts = parse_event_subject(&out).expect("parse");
            prop_assert_eq!(parts.app.as_ref(), &app);
            prop_assert_eq!(parts.category.as_ref(), &category);
            prop_assert_eq!(parts.event_type.as_ref(), &event_type);
            let token = escape_token(&app);
            let back = unescape_token(&token);
            prop_assert_eq!(back.as_deref(), Some(app.as_str()));
        }

        #[test]
        fn unescaping_and_escaping_round_trips(token in "[a-zA-Z0-9%_.-]{0,12}") {
            if let Some(text) = unescape_token(&token) {
                let again = escape_token(&text);
                prop_assert_eq!(again.as_ref(), &token);
            }
        }
    }
}
