//! The string patterns of the `buf.validate` options, each implemented as a function that is faster than a regular
//! expression.
//!
//! Invariant: each function accepts exactly what its regular expression matches. A test compares the two.

/// A pattern that a field can have. `build.rs` maps each regular expression to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Empty, or an app id.
    AppId,
    NoControl,
    /// Empty, or an ISO 4217 currency code.
    Currency,
}

impl Pattern {
    /// Whether UTF-8 text matches the pattern.
    #[inline]
    pub(crate) fn allows(self, text: &[u8]) -> bool {
        match self {
            Self::AppId => text.is_empty() || is_name(text),
            Self::NoControl => !has_control(text),
            Self::Currency => text.is_empty() || text.len() == 3 && text.iter().all(u8::is_ascii_alphabetic),
        }
    }

    /// The error detail for text that does not match.
    pub(crate) fn detail(self) -> &'static str {
        match self {
            Self::AppId => "must be 1 to 128 ASCII letters, digits, '.', '_' or '-', the first a letter or digit",
            Self::NoControl => "must not have control characters",
            Self::Currency => "must be empty or three ASCII letters",
        }
    }
}

/// ASCII letters, digits, `.`, `_` and `-`, the first a letter or digit.
pub(crate) fn is_name(text: &[u8]) -> bool {
    text.first().is_some_and(u8::is_ascii_alphanumeric)
        && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether UTF-8 text has characters of the Unicode category Cc.
pub(crate) fn has_control(text: &[u8]) -> bool {
    /// First byte of U+0080 to U+00BF. Those up to U+009F are control characters.
    const LATIN_1: u8 = 0xC2;
    // The compiler vectorizes this pass. The second, exact pass is rarely needed.
    let suspicious = |byte: &u8| byte.is_ascii_control() || *byte == LATIN_1;
    text.iter().fold(false, |found, byte| found | suspicious(byte))
        && (text.iter().any(u8::is_ascii_control) || text.windows(2).any(|pair| pair[0] == LATIN_1 && pair[1] <= 0x9F))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    proptest! {
        #[test]
        fn patterns_match_what_their_regular_expressions_match(
            text in prop_oneof![any::<String>(), "[A-Za-z]{0,4}", "[ -~]{0,6}", "[a\u{7f}-\u{a1}]{0,3}", "[A-Z0-9._-]{0,5}\n?"],
        ) {
            for pattern in [Pattern::AppId, Pattern::NoControl, Pattern::Currency] {
                let expression = Regex::new(pattern.regex()).unwrap();
                prop_assert_eq!(pattern.allows(text.as_bytes()), expression.is_match(&text), "{:?} of {:?}", pattern, text);
            }
        }
    }
}
