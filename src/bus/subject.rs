//! Subjects and subject filters: dot-separated tokens, `*` for one token, a closing `>` for one or more.
//!
//! Invariant: a filter matches the same subjects on every engine. Knows nothing of the meaning of tokens.

use super::error::{BusError, BusErrorKind};

/// Whether a subject can be published to: its tokens are not empty and contain no blanks or wildcards.
#[inline]
pub(super) fn is_valid(subject: &str) -> bool {
    let mut previous = b'.';
    for byte in subject.bytes() {
        if byte <= b' ' || byte == b'*' || byte == b'>' || byte == 0x7f || (byte == b'.' && previous == b'.') {
            return false;
        }
        previous = byte;
    }
    previous != b'.'
}

/// A compiled subject filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// `>`
    All,
    /// `events.>`, stored as `events.`: a prefix comparison.
    Prefix(Box<[u8]>),
    /// No wildcard: an equality comparison.
    Exact(Box<[u8]>),
    /// Anything else, compared token by token.
    Tokens(Box<[Token]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Literal(Box<[u8]>),
    One,
    Rest,
}

impl Filter {
    pub(super) fn parse(text: &str) -> Result<Self, BusError> {
        let invalid = || BusError::caused(BusErrorKind::Invalid, "parse subject filter", format!("{text:?}"));
        let count = text.split('.').count();
        let mut tokens = Vec::with_capacity(count);
        for (index, token) in text.split('.').enumerate() {
            tokens.push(match token {
                "*" => Token::One,
                ">" if index + 1 == count => Token::Rest,
                literal if is_valid(literal) => Token::Literal(literal.as_bytes().into()),
                _ => return Err(invalid()),
            });
        }
        let wildcards = tokens.iter().filter(|token| !matches!(token, Token::Literal(_))).count();
        Ok(match (wildcards, tokens.last()) {
            (0, _) => Self::Exact(text.as_bytes().into()),
            (1, Some(Token::Rest)) if count == 1 => Self::All,
            (1, Some(Token::Rest)) => Self::Prefix(text.as_bytes()[..text.len() - 1].into()),
            _ => Self::Tokens(tokens.into()),
        })
    }

    /// Whether the filter matches all subjects with this prefix; also `false` when that cannot be decided.
    pub(super) fn matches_all(&self, begin: &SubjectPrefix) -> bool {
        match self {
            Self::All => begin.len > 0,
            Self::Prefix(prefix) => begin.starts_with(prefix),
            Self::Exact(_) | Self::Tokens(_) => false,
        }
    }

    /// Whether a valid subject matches.
    #[inline]
    pub(super) fn matches(&self, subject: &[u8]) -> bool {
        match self {
            Self::All => true,
            Self::Prefix(prefix) => subject.starts_with(prefix),
            Self::Exact(exact) => subject == &**exact,
            Self::Tokens(tokens) => matches_tokens(tokens, subject),
        }
    }
}

/// The common prefix of some subjects, up to sixteen bytes. With it, most filters can decide for many messages in one
/// comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubjectPrefix {
    /// The first byte is the least significant.
    bytes: u128,
    len: usize,
}

impl SubjectPrefix {
    /// The prefix of an empty set of subjects.
    pub(super) const EMPTY: Self = Self { bytes: 0, len: usize::MAX };
    /// For subjects without a common prefix, or where the filter alone does not decide.
    pub(super) const UNKNOWN: Self = Self { bytes: 0, len: 0 };

    #[inline]
    pub(super) fn of(subject: &[u8]) -> Self {
        let bytes = match subject.first_chunk::<16>() {
            Some(first) => u128::from_le_bytes(*first),
            None => {
                let mut padded = [0; 16];
                padded[..subject.len()].copy_from_slice(subject);
                u128::from_le_bytes(padded)
            }
        };
        Self { bytes, len: subject.len().min(16) }
    }

    /// The common prefix of both.
    #[inline]
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::EMPTY, other) => other,
            (one, Self::EMPTY) => one,
            (one, other) => {
                let same = ((one.bytes ^ other.bytes).trailing_zeros() / 8) as usize;
                let len = same.min(one.len).min(other.len);
                let kept = if len == 16 { u128::MAX } else { (1 << (8 * len)) - 1 };
                Self { bytes: one.bytes & kept, len }
            }
        }
    }

    fn starts_with(&self, prefix: &[u8]) -> bool {
        prefix.len() <= self.len && self.bytes.to_le_bytes().starts_with(prefix)
    }
}

fn matches_tokens(tokens: &[Token], subject: &[u8]) -> bool {
    let mut rest = subject.split(|byte| *byte == b'.');
    for token in tokens {
        let matched = match (token, rest.next()) {
            (Token::Rest, next) => return next.is_some(),
            (Token::One, Some(_)) => true,
            (Token::Literal(literal), Some(next)) => next == &**literal,
            (_, None) => false,
        };
        if !matched {
            return false;
        }
    }
    rest.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_match_as_the_field_expects() {
        let cases = [
            ("events.>", "events.shop.user.login", true),
            ("events.>", "events", false),
            ("events.>", "eventsx.a", false),
            (">", "a", true),
            ("a.b", "a.b", true),
            ("a.b", "a.b.c", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*.b.*", "a.b.c", true),
            ("*.b.*", "a.c.b", false),
            ("*.b.>", "a.b.c.d", true),
            ("*.b.>", "a.b", false),
        ];
        for (filter, subject, expected) in cases {
            assert_eq!(Filter::parse(filter).unwrap().matches(subject.as_bytes()), expected, "{filter} {subject}");
        }
    }

    #[test]
    fn filters_decide_by_a_common_prefix() {
        let of = |subjects: &[&str]| {
            let each = subjects.iter().map(|subject| SubjectPrefix::of(subject.as_bytes()));
            each.fold(SubjectPrefix::EMPTY, SubjectPrefix::and)
        };
        for (filter, subjects, expected) in [
            ("events.>", &["events.shop.user.login", "events.shop.user.logout"][..], true),
            ("events.>", &["events.a", "events.b", "events.long-name-of-an-app.x"], true),
            ("events.>", &["events.a", "eventsx.a"], false),
            ("events.>", &["events.a", "event"], false),
            ("events.shop.user.>", &["events.shop.user.login"], false),
            ("events.shop.>", &["events.shop.user.login", "events.shop.cart.add"], true),
            (">", &["events.a", "events.b"], true),
            (">", &["events.a", "anomalies.b"], false),
            ("*.a", &["events.a"], false),
        ] {
            let filter = Filter::parse(filter).unwrap();
            assert_eq!(filter.matches_all(&of(subjects)), expected, "{filter:?} {subjects:?}");
            assert!(!filter.matches_all(&of(subjects).and(SubjectPrefix::UNKNOWN)), "{filter:?}");
        }
    }

    #[test]
    fn malformed_filters_are_refused() {
        for filter in ["", ".", "a.", "a..b", ">.a", "a.b*", "a b", "a.>.b"] {
            assert_eq!(Filter::parse(filter).map_err(|e| e.kind), Err(BusErrorKind::Invalid), "{filter:?}");
        }
    }
}
