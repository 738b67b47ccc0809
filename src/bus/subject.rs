//! Subjects and the filters over them: dot-separated tokens, `*` for one, a closing `>` for one or more.
//!
//! Invariant: a filter matches the same subjects on every engine. Knows nothing of what tokens mean.

use super::{BusError, BusErrorKind};

/// True for a subject that can be published to: tokens that are not empty, without blanks or wildcards.
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
pub(super) enum Filter {
    /// `>`
    All,
    /// `events.>`, kept as `events.`: a compare of a prefix.
    Prefix(Box<[u8]>),
    /// No wildcard: a compare.
    Exact(Box<[u8]>),
    /// Anything else, token by token.
    Tokens(Box<[Token]>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
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

    /// Whether a valid subject passes.
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
    fn malformed_filters_are_refused() {
        for filter in ["", ".", "a.", "a..b", ">.a", "a.b*", "a b", "a.>.b"] {
            assert_eq!(Filter::parse(filter).map_err(|e| e.kind), Err(BusErrorKind::Invalid), "{filter:?}");
        }
    }
}
