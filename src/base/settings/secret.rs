//! Settings that are, or may contain, a secret.

use std::fmt;
use std::ops::Deref;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::redaction::redacted;
use super::value::Setting;

/// Declares a text that `Debug` shows redacted.
macro_rules! hidden {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name(pub String);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.show())
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl<T: Into<String>> From<T> for $name {
            fn from(text: T) -> Self {
                Self(text.into())
            }
        }
    };
}

/// Shorter tokens could be guessed.
const CHARS_MIN: usize = 32;
/// Longer tokens do not fit a header.
const CHARS_MAX: usize = 512;

hidden! {
    /// A token that clients send as `Authorization: Bearer`.
    Token
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
        bool::parse(text).map(Self)
    }

    fn show(&self) -> String {
        self.0.show()
    }
}

hidden! {
    /// A 32-byte key, which is never printed.
    SecretKey
}

impl Setting for SecretKey {
    const CONFIDENTIAL: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let base64 = || BASE64_STANDARD.decode(text).is_ok_and(|bytes| bytes.len() == 32);
        if hex || base64() {
            Ok(Self(text.to_owned()))
        } else {
            Err("32 bytes in base64 or hex, such as `openssl rand -base64 32` prints".into())
        }
    }

    fn show(&self) -> String {
        "***".into()
    }
}

hidden! {
    /// A secret text, which is never printed.
    Secret
}

impl Setting for Secret {
    const CONFIDENTIAL: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() { Err("some text".into()) } else { Ok(Self(text.to_owned())) }
    }

    fn show(&self) -> String {
        "***".into()
    }
}

hidden! {
    /// One or more URLs, separated by commas. Passwords are never printed.
    Url
}

impl Setting for Url {
    const CONFIDENTIAL: bool = true;

    fn parse(text: &str) -> Result<Self, String> {
        let whole =
            |url: &str| url.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        if text.split(',').map(str::trim).all(whole) {
            Ok(Self(text.trim().to_owned()))
        } else {
            Err("a URL such as scheme://host:port".into())
        }
    }

    /// `scheme://user:***@host?password=***`; a user without a password is a token, and secret.
    fn show(&self) -> String {
        self.0.split(',').map(|url| redacted(url.trim())).collect::<Vec<_>>().join(",")
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

    #[test]
    fn passwords_in_urls_are_not_shown() {
        for (url, shown) in [
            ("nats://h:4222", "nats://h:4222"),
            ("nats://u:p@h:4222, tls://token@i", "nats://u:***@h:4222,tls://***@i"),
            ("postgres://u:p%40@h/db?sslmode=require", "postgres://u:***@h/db?sslmode=require"),
            ("s3://bucket/a@b", "s3://bucket/a@b"),
            (
                "postgres://h/db?user=u&password=zzz&sslmode=require&SSLPassword=yyy",
                "postgres://h/db?user=u&password=***&sslmode=require&SSLPassword=***",
            ),
            ("postgres://u:zz/zz@h/db", "postgres://u:***@h/db"),
            ("postgres://u:zz?zz@h/db?password=zz&a=b", "postgres://u:***@h/db?password=***&a=b"),
            ("postgres://u:zz@zz#zz/@h/db", "postgres://u:***@h/db"),
            ("postgres://u:zz", "postgres://u:***"),
            ("postgres://u:zz%40h/db", "postgres://u:***"),
            ("nats://zz/zz@h:4222,nats://u:zz/@[::1]:4222", "nats://***@h:4222,nats://u:***@[::1]:4222"),
            ("nats://[::1]:4222", "nats://[::1]:4222"),
            ("nats://[::1]", "nats://[::1]"),
            ("http://u:zz/zz@h:9000/", "http://u:***@h:9000/"),
            ("s3://AKIA:zz/zz@bucket/p", "s3://AKIA:***@bucket/p"),
            ("s3://AKIA:zz", "s3://AKIA:***"),
            ("abfss://zz@a.dfs.core.windows.net/p@q", "abfss://***@a.dfs.core.windows.net/p@q"),
            ("file:///srv/a@b", "file:///srv/a@b"),
            ("postgres://u:p@h/db?pass%77ord=zzz", "postgres://u:***@h/db?pass%77ord=***"),
            (
                "az://c/p?sv=1&sig=zzz, s3://b?session_token=yyy&secret=x",
                "az://c/p?sv=1&sig=***,s3://b?session_token=***&secret=***",
            ),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!((parsed.show(), format!("{parsed:?}")), (shown.to_owned(), shown.to_owned()));
        }
        for invalid in ["", "h:4222", "nats://", "://h", "nats://a,b"] {
            assert!(Url::parse(invalid).is_err(), "{invalid:?}");
        }
    }

    #[test]
    fn keys_are_validated() {
        assert!(SecretKey::parse(&"0f".repeat(32)).is_ok());
        assert!(SecretKey::parse("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").is_ok());
        assert!(SecretKey::parse("hunter2").is_err());
    }
}
