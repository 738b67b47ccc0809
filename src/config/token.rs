//! Access tokens, which are never printed.

use std::fmt;

use super::value::{Flag, Setting};

/// Shorter tokens could be guessed.
const CHARS_MIN: usize = 32;
/// Longer tokens do not fit a header.
const CHARS_MAX: usize = 512;

/// A token that clients send as `Authorization: Bearer`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Setting for Token {
    const CONFIDENTIAL: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let is_sendable = text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_sendable && (CHARS_MIN..=CHARS_MAX).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{CHARS_MIN} to {CHARS_MAX} letters, digits and signs without blanks, such as `openssl rand -hex 32` prints"
            ))
        }
    }

    fn show(&self) -> String {
        "***".into()
    }
}

/// Whether `secrets_key` replaces another key. Users may enter that key here by mistake, so errors do not repeat the
/// value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReplaced(pub bool);

impl Setting for KeyReplaced {
    const CONFIDENTIAL: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        Flag::parse(text).map(|flag| Self(flag.0))
    }

    fn show(&self) -> String {
        Flag(self.0).show()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_long_and_fits_a_header() {
        assert_eq!(Token::parse(&format!(" {}\n", "a1".repeat(16))).unwrap().0, "a1".repeat(16));
        for invalid in ["", "short", &"a".repeat(31), &"a".repeat(513), &"a b".repeat(16), &"ä".repeat(32)] {
            assert!(Token::parse(invalid).unwrap_err().contains("32 to 512"), "{invalid}");
        }
    }
}
