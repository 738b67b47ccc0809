//! JSON that Rust's types do not hold as JSON that they do: half of a surrogate pair, an integer of more than 64 bits, a
//! number that is no double, and what is nested deeper than the parser goes.
//!
//! Only for text that was found to be JSON, and that could not be read: nothing of this costs other messages anything.

use std::borrow::Cow;

use crate::event::codec::json_text::{JsonText, Malformed, Token};

/// Objects and arrays within each other; the parser's limit is 128.
const DEPTH_MAX: usize = 100;

#[derive(Debug, Default)]
pub(super) struct Mended {
    pub(super) text: String,
    /// Something of it is said by the text alone that was sent.
    pub(super) lossy: bool,
}

/// Large numbers and what is too deep become texts, and half of a surrogate pair becomes U+FFFD.
pub(super) fn mend(text: &str) -> Mended {
    let mut mended = Mended { text: String::with_capacity(text.len() + 64), lossy: false };
    let (mut at, mut depth) = (0, 0);
    while let Some(byte) = text.as_bytes().get(at) {
        let end = match byte {
            b'"' => at + string(&text[at..], &mut mended),
            b'-' | b'0'..=b'9' => at + number(&text[at..], &mut mended.text),
            b'{' | b'[' if depth == DEPTH_MAX => {
                let length = length_of(&text[at..]);
                // Writing to a string does not fail.
                mended.text.push_str(&serde_json::to_string(&text[at..at + length]).unwrap_or_default());
                mended.lossy = true;
                at + length
            }
            _ => {
                match byte {
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                mended.text.push(char::from(*byte));
                at + 1
            }
        };
        at = end.max(at + 1);
    }
    mended
}

/// Appends the string that begins the text; answers its length.
fn string(text: &str, mended: &mut Mended) -> usize {
    let bytes = text.as_bytes();
    let (mut at, mut copied) = (1, 0);
    loop {
        match bytes.get(at) {
            Some(b'\\') if bytes.get(at + 1) == Some(&b'u') => {
                let length = match (unit(bytes, at), unit(bytes, at + 6)) {
                    (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
                    (Some(0xd800..=0xdfff), _) => {
                        mended.text.push_str(&text[copied..at]);
                        mended.text.push_str("\\ufffd");
                        mended.lossy = true;
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
    mended.text.push_str(text.get(copied..end).unwrap_or_default());
    end
}

/// The number that an escape of four hex digits stands for.
fn unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Appends the number that begins the text; answers its length.
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

/// Of the object or array that begins the text.
fn length_of(text: &str) -> usize {
    let mut json = JsonText::new(text);
    match json.skip() {
        Ok(()) => json.position(),
        Err(_) => text.len(),
    }
}

/// The text of an object without the members of this name. Works on the text, so that what it says otherwise stays as it
/// was written.
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
    fn what_types_do_not_hold_becomes_what_they_do() {
        let deep = "[".repeat(DEPTH_MAX) + "[\"q\"]" + &"]".repeat(DEPTH_MAX);
        let deep_mended = "[".repeat(DEPTH_MAX) + r#""[\"q\"]""# + &"]".repeat(DEPTH_MAX);
        for (text, mended, lossy) in [
            (r#"{"a": "\ud83d", "b": "\ud83d\ude00\n"}"#, r#"{"a": "\ufffd", "b": "\ud83d\ude00\n"}"#, true),
            (r#"["\ude00é\ud83d\ud83d\ude00"]"#, r#"["\ufffdé\ufffd\ud83d\ude00"]"#, true),
            (r#"["\\ud83d", "\"1e400", {"\udead": 1}]"#, r#"["\\ud83d", "\"1e400", {"\ufffd": 1}]"#, true),
            ("[1e400,-1e400,1e300,1.5]", r#"["1e400","-1e400",1e300,1.5]"#, false),
            (
                "[18446744073709551615, 18446744073709551616, -9223372036854775809]",
                r#"[18446744073709551615, "18446744073709551616", "-9223372036854775809"]"#,
                false,
            ),
            (&deep, &deep_mended, true),
        ] {
            let found = mend(text);
            assert_eq!((&*found.text, found.lossy), (mended, lossy), "{text}");
            serde_json::from_str::<serde_json::Value>(&found.text).unwrap();
        }
    }

    #[test]
    fn a_member_is_left_out_of_the_text() {
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
        fn what_can_be_read_is_left_as_it_is(text in any::<String>(), number in any::<f64>(), integer in any::<i64>()) {
            let json = serde_json::json!({&text: [number, integer, {"a": text}], "b": [[], {}, null, true]}).to_string();
            let mended = mend(&json);
            prop_assert_eq!((mended.text, mended.lossy), (json, false));
        }
    }
}
