//! Repairs JSON that Rust's types cannot represent: half of a surrogate pair, an integer of more than 64 bits, a number
//! beyond the range of doubles, and nesting deeper than the parser allows.
//!
//! Used only for text that is JSON but failed to parse, so it costs other messages nothing.

use std::borrow::Cow;

use crate::event::codec::json_text::{JsonText, Malformed, Token};

/// Nesting depth of objects and arrays. The parser's limit is 128.
const DEPTH_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Repaired {
    pub(super) text: String,
    /// Some information is only in the original text.
    pub(super) lossy: bool,
}

/// Large numbers and values that nest too deep become strings; half of a surrogate pair becomes U+FFFD.
pub(super) fn repair(text: &str) -> Repaired {
    let mut repaired = Repaired { text: String::with_capacity(text.len() + 64), lossy: false };
    let (mut at, mut depth) = (0, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        let end = match byte {
            b'"' => at + string(&text[at..], &mut repaired),
            b'-' | b'0'..=b'9' => at + number(&text[at..], &mut repaired.text),
            b'{' | b'[' if depth == DEPTH_MAX => {
                let length = length_of(&text[at..]);
                // Writing to a string does not fail.
                repaired.text.push_str(&serde_json::to_string(&text[at..at + length]).unwrap_or_default());
                repaired.lossy = true;
                at + length
            }
            _ => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                repaired.text.push(char::from(*byte));
                at + 1
            }
        };
        at = end.max(at + 1);
    }
    repaired
}

/// Appends the string at the start of the text. Returns its length.
fn string(text: &str, repaired: &mut Repaired) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut copied) = (1, 0);
    loop {
        match bytes.get(at) {
            Some(b'\\') if bytes.get(at + 1) == Some(&b'u') => {
                let length = match (unit(bytes, at), unit(bytes, at + 6)) {
                    (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
                    (Some(0xd800..=0xdfff), _) => {
                        repaired.text.push_str(&text[copied..at]);
                        repaired.text.push_str("\\ufffd");
                        repaired.lossy = true;
                        copied = at + 6;
                        6
                    }
                    _ => 6,
                };
                at += length;
            }
            Some(b'\\') => at += 2,
            Some(b'"') | None => break,
            Some(_) => at += 1,
        }
    }
    let end = (at + 1).min(text.len());
    repaired.text.push_str(text.get(copied..end).unwrap_or_default());
    end
}

/// The code unit of a `\u` escape.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends the number at the start of the text. Returns its length.
fn number(text: &str, out: &mut String) -> usize {
    let is_part = |byte: &u8| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    let length = text.bytes().take_while(|byte| is_part(byte)).count();
    let number = &text[..length];
    let is_integer = number.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    let is_held = match is_integer {
        true => number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok(),
        false => number.parse::<f64>().is_ok_and(f64::is_finite),
    };
    if is_held {
        out.push_str(number);
    } else {
        out.extend(["\"", number, "\""]);
    }
    length
}

/// The length of the object or array at the start of the text.
fn length_of(text: &str) -> usize {
    let mut json = JsonText::new(text);
    match json.skip() {
        Ok(()) => json.position(),
        Err(_) => text.len(),
    }
}

/// The text of an object without the members of this name. Edits the text, so that the rest stays as it was written.
pub(super) fn without<'t>(text: &'t str, name: &str) -> Cow<'t, str> {
    match rest_of(text, name) {
        Ok(Some(rest)) => rest.into(),
        Ok(None) | Err(_) => text.into(),
    }
}

fn rest_of(text: &str, name: &str) -> Result<Option<String>, Malformed> {
    let mut json = JsonText::new(text);
    if json.peek()? != Token::Object {
        return Ok(None);
    }
    json.enter();
    let (mut rest, mut first, mut found) = (String::with_capacity(text.len()), true, false);
    rest.push('{');
    while let Some(key) = json.member(first)? {
        first = false;
        let value = json.value_text()?;
        if *key.plain() == *name.as_bytes() {
            found = true;
            continue;
        }
        if rest.len() > 1 {
            rest.push(',');
        }
        rest.extend(["\"", key.raw, "\":", value]);
    }
    rest.push('}');
    Ok(found.then_some(rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unrepresentable_values_are_repaired() {
        let deep = "[".repeat(DEPTH_MAX) + "[\"q\"]" + &"]".repeat(DEPTH_MAX);
        let deep_repaired = "[".repeat(DEPTH_MAX) + r#""[\"q\"]""# + &"]".repeat(DEPTH_MAX);
        for (text, repaired, lossy) in [
            (r#"{"a": "\ud83d", "b": "\ud83d\ude00\n"}"#, r#"{"a": "\ufffd", "b": "\ud83d\ude00\n"}"#, true),
            (r#"["\ude00é\ud83d\ud83d\ude00"]"#, r#"["\ufffdé\ufffd\ud83d\ude00"]"#, true),
            (r#"["\\ud83d", "\"1e400", {"\udead": 1}]"#, r#"["\\ud83d", "\"1e400", {"\ufffd": 1}]"#, true),
            ("[1e400,-1e400,1e300,1.5]", r#"["1e400","-1e400",1e300,1.5]"#, false),
            (
                "[18446744073709551615, 18446744073709551616, -9223372036854775809]",
                r#"[18446744073709551615, "18446744073709551616", "-9223372036854775809"]"#,
                false,
            ),
            (&deep, &deep_repaired, true),
        ] {
            let found = repair(text);
            assert_eq!((&*found.text, found.lossy), (repaired, lossy), "{text}");
            serde_json::from_str::<serde_json::Value>(&found.text).unwrap();
        }
    }

    #[test]
    fn a_member_is_removed_from_the_text() {
        for (text, rest) in [
            (r#"{"a": 1e400, "writeKey": "k", "b":"\ud83d"}"#, r#"{"a":1e400,"b":"\ud83d"}"#),
            (r#"{"write\u004bey": {"a": []}, "writeKey": 1}"#, "{}"),
            (r#"{"a": {"writeKey": 1}}"#, r#"{"a": {"writeKey": 1}}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(without(text, "writeKey"), rest, "{text}");
        }
    }

    proptest! {
        #[test]
        fn representable_values_are_unchanged(text in any::<String>(), number in any::<f64>(), integer in any::<i64>()) {
            let json = serde_json::json!({&text: [number, integer, {"a": text}], "b": [[], {}, null, true]}).to_string();
            let repaired = repair(&json);
            prop_assert_eq!((repaired.text, repaired.lossy), (json, false));
        }
    }
}
