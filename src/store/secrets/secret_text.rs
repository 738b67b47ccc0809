//! Whether a text looks like a key or a token, when no name says so.
//!
//! Invariant: when in doubt, it does. Masking a word costs its reader little; showing a key costs its owner the key.

use percent_encoding::percent_decode_str;

/// Parts of a name whose value is secret.
const SECRET_WORDS: [&str; 11] =
    ["auth", "bearer", "cookie", "cred", "key", "pass", "secret", "session", "signature", "token", "pwd"];
/// The same, but only as a whole word: `design` has nothing to do with `sig`.
const SECRET_WHOLE_WORDS: [&str; 8] = ["csrf", "hmac", "jwt", "otp", "pat", "pin", "sig", "xsrf"];
/// A word of letters and digits with at least this length counts as secret anywhere.
const WORD_CHARS_MIN: usize = 20;
/// The same for a part without `-`, `_` and the like.
const MIXED_PART_CHARS_MIN: usize = 16;
/// No ordinary word has more letters in one case.
const ORDINARY_CHARS_MAX: usize = 23;
/// No ordinary word has more consonants in a row.
const CONSONANTS_MAX: usize = 4;
/// Capitals in a row within an ordinary word: `OAuthCallbackURL`.
const CAPITALS_MAX: usize = 5;

/// Whether a value with this name is secret.
pub(in crate::store) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| SECRET_WHOLE_WORDS.contains(&word))
}

/// Whether any word of the text could be a key, a token or a UUID. Percent-encoding is decoded.
pub(in crate::store) fn looks_secret(text: &str) -> bool {
    // A non-ASCII character is a separator, however it is encoded.
    let text = percent_decode_str(text).decode_utf8_lossy();
    text.split(|c: char| !(c.is_ascii_alphanumeric() || is_joint(c))).any(word_looks_secret)
}

/// Characters that join the parts of one word, of UUIDs and URL-safe base64 too.
fn is_joint(c: char) -> bool {
    matches!(c, '-' | '_' | '.' | '~' | '+')
}

fn word_looks_secret(word: &str) -> bool {
    let long = word.len() >= WORD_CHARS_MIN;
    let mut parts = word.split(is_joint);
    (long && is_mixed(word))
        || parts.any(|part| {
            (part.len() >= MIXED_PART_CHARS_MIN && is_mixed(part))
                || (part.len() >= WORD_CHARS_MIN && !is_ordinary(part))
                || (long && part.len() >= 8 && has_both_cases(part) && !is_ordinary(part))
        })
}

/// Has both letters and digits.
fn is_mixed(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_digit()) && text.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn has_both_cases(text: &str) -> bool {
    text.bytes().any(|byte| byte.is_ascii_lowercase()) && text.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// `notification`, `NOTIFICATION`, `customerNotificationsCreated`: letters as natural languages combine them. Hardly
/// any random mixed-case letters have this shape.
fn is_ordinary(part: &str) -> bool {
    if !has_both_cases(part) {
        return is_pronounceable(part);
    }
    let bytes = part.as_bytes();
    let mut start = 0;
    while start < bytes.len() {
        let capitals = bytes[start..].iter().take_while(|byte| byte.is_ascii_uppercase()).count();
        let small = bytes[start + capitals..].iter().take_while(|byte| byte.is_ascii_lowercase()).count();
        let end = start + capitals + small;
        let acronym = small == 0 && end == bytes.len() && capitals >= 2;
        let hump = small >= 2 && is_pronounceable(&part[start..end]);
        if capitals > CAPITALS_MAX || !(acronym || hump) {
            return false;
        }
        start = end;
    }
    true
}

fn is_pronounceable(letters: &str) -> bool {
    let is_vowel = |byte: u8| b"aeiouy".contains(&byte.to_ascii_lowercase());
    let consonants = letters.as_bytes().split(|byte| is_vowel(*byte)).map(<[u8]>::len);
    let vowels = letters.bytes().filter(|byte| is_vowel(*byte)).count();
    letters.len() <= ORDINARY_CHARS_MAX
        && letters.bytes().all(|byte| byte.is_ascii_alphabetic())
        && vowels > 0
        && (letters.len() < WORD_CHARS_MIN || vowels * 10 >= letters.len() * 3)
        && consonants.max().unwrap_or(0) <= CONSONANTS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinguished_from_words() {
        for secret in [
            "bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
            "bot110201543%3AAAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
            "hook;AAHdqTcvCH1vGWJxfSeof",
            "0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f@0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f",
            "a,k3yk3yk3yk3yk3yk3yk3y!",
            "(k3yk3yk3yk3yk3yk3yk3y)",
            "id:abcdefghijklmnopqrstuvwxyz",
            "aBcDeFgHiJkLmNoPqRsTuVwX",
            "qWmZrTpLkjHgfDsaXcvBnMqw",
            "XXXXXXXXXXXXXXXXXXXXXXXX",
            "xkqjwhtzbvnpsrdlgmfc",
            "AbCdEfGh-iJkLmNoPqR_sTuVwX",
            "wtrAbC12345678901",
            "98765432109876543210",
            "Y2lzY29zcGFyazovL3VzL1dFQkhPT0sv==",
            "%6b%33%79%6b%33%79%6b%33%79%6b%33%79%6b%33%79%6b%33%79",
        ] {
            assert!(looks_secret(secret), "{secret}");
        }
        for word in [
            "",
            "v1",
            "v1beta1",
            "api",
            "customer-notifications",
            "customer_notifications_created",
            "customer%20notifications%20created",
            "customer:notifications,created;updated@example.com",
            "customerNotificationsCreated",
            "CustomerNotificationsCreated",
            "CUSTOMER_NOTIFICATIONS_CREATED",
            "internationalization",
            "customernotifications",
            "IncomingWebhook",
            "genericWebhookReceiver",
            "OAuthCallbackURLHandler",
            "application.json",
            "messages:batchUpdate",
            "1234567890123456789",
            "2024-01-31",
            "kundenbenachrichtigung",
        ] {
            assert!(!looks_secret(word), "{word}");
        }
    }

    #[test]
    fn names_of_credentials_are_recognized() {
        for name in
            ["Authorization", "X-Token", "Cookie", "api-key", "apikey", "X-Jwt", "x_sig", "access_token", "Bearer"]
        {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["X-Env", "Accept", "design", "pinned", "path", "id"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
