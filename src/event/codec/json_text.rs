//! A JSON tokenizer that reads in place: strings, numbers, members, and skipping of values.
//!
//! Invariant: every token is checked when it is consumed, so a text that was read to its end is well-formed. Skipping
//! does not recurse, however deep the text nests. Does not know what a value is for.

use std::borrow::Cow;
use std::fmt;

use super::brackets::Brackets;
use super::unescaped::unescaped_len;
use crate::event::schema::limits::JSON_DEPTH_MAX;

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed {
    pub(crate) at: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "The body is not well-formed JSON at byte {}.", self.at)
    }
}

/// The text between the quotes of a string.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quoted<'a> {
    pub(crate) raw: &'a str,
    /// It has escapes. All of them have a valid form.
    pub(crate) escaped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    String,
    Number,
    Object,
    Array,
    True,
    False,
    Null,
}

pub(crate) struct JsonText<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
    too_deep: bool,
}

impl<'a> JsonText<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0, depth: 0, too_deep: false }
    }

    /// Skips a byte order mark at the start of the text.
    pub(crate) fn skip_mark(&mut self) {
        if self.text.starts_with(BYTE_ORDER_MARK) {
            self.at = BYTE_ORDER_MARK.len_utf8();
        }
    }

    /// The offset of the next byte.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The type of the next value, by its first byte.
    #[inline]
    pub(crate) fn peek(&mut self) -> Result<Token, Malformed> {
        Ok(match self.skip_space() {
            Some(b'"') => Token::String,
            Some(b'-' | b'0'..=b'9') => Token::Number,
            Some(b'{') => Token::Object,
            Some(b'[') => Token::Array,
            Some(b't') => Token::True,
            Some(b'f') => Token::False,
            Some(b'n') => Token::Null,
            _ => return Err(self.syntax()),
        })
    }

    /// Enters the object or array that [`Self::peek`] saw.
    pub(crate) fn enter(&mut self) {
        self.at += 1;
        self.depth += 1;
    }

    /// Consumes the key of the object's next member and its colon. `None` after the closing brace.
    #[inline(always)]
    pub(crate) fn member(&mut self, first: bool) -> Result<Option<Quoted<'a>>, Malformed> {
        // Fast path: no white space, and no escape in the key.
        let bytes = self.text.as_bytes();
        let quote = self.at + usize::from(!first);
        if (first || self.byte() == Some(b',')) && bytes.get(quote) == Some(&b'"') {
            let start = quote + 1;
            let end = start + unescaped_len(&bytes[start..]);
            if let Some([b'"', b':']) = bytes.get(end..end + 2) {
                self.at = end + 2;
                return Ok(Some(Quoted { raw: &self.text[start..end], escaped: false }));
            }
        }
        self.member_slow(first)
    }

    /// Consumes the key of the object's next member and its colon if they are these, without white space.
    #[inline(always)]
    pub(crate) fn expected_member(&mut self, first: bool, key: &str) -> bool {
        let from = self.at + usize::from(!first);
        let is_next = (first || self.byte() == Some(b','))
            && self.text.as_bytes().get(from..from + key.len()).is_some_and(|next| is_same(next, key.as_bytes()));
        if is_next {
            self.at = from + key.len();
        }
        is_next
    }

    #[inline(never)]
    fn member_slow(&mut self, first: bool) -> Result<Option<Quoted<'a>>, Malformed> {
        if !self.more(first, b'}')? {
            return Ok(None);
        }
        if self.skip_space() != Some(b'"') {
            return Err(self.syntax());
        }
        let key = self.string()?;
        if self.skip_space() != Some(b':') {
            return Err(self.syntax());
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// Whether the array has another element.
    pub(crate) fn element(&mut self, first: bool) -> Result<bool, Malformed> {
        self.more(first, b']')
    }

    #[inline]
    fn more(&mut self, first: bool, close: u8) -> Result<bool, Malformed> {
        match self.skip_space() {
            Some(byte) if byte == close => {
                self.at += 1;
                self.depth -= 1;
                Ok(false)
            }
            Some(b',') if !first => {
                self.at += 1;
                Ok(true)
            }
            Some(_) if first => Ok(true),
            _ => Err(self.syntax()),
        }
    }

    /// Consumes the string that [`Self::peek`] saw.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Quoted<'a>, Malformed> {
        let start = self.at + 1;
        let bytes = self.text.as_bytes();
        self.at = start + unescaped_len(&bytes[start..]);
        if bytes.get(self.at) != Some(&b'"') {
            return self.rest_of_string(start);
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Quoted { raw, escaped: false })
    }

    /// Continues at the first byte that is not plain text.
    #[cold]
    fn rest_of_string(&mut self, start: usize) -> Result<Quoted<'a>, Malformed> {
        loop {
            match self.byte() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                _ => return Err(self.syntax()),
            }
            self.at += unescaped_len(&self.text.as_bytes()[self.at..]);
        }
        let raw = &self.text[start..self.at];
        self.at += 1;
        Ok(Quoted { raw, escaped: true })
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        let rest = &self.text.as_bytes()[self.at + 1..];
        match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [b'u', digits @ ..] if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) => self.at += 6,
            _ => return Err(self.syntax()),
        }
        Ok(())
    }

    /// Consumes the number that [`Self::peek`] saw.
    pub(crate) fn number(&mut self) -> Result<&'a str, Malformed> {
        let start = self.at;
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1
        } else {
            self.digits()?
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.byte() {
            self.at += 1;
        }
        if self.at == start { Err(self.syntax()) } else { Ok(()) }
    }

    /// Consumes the `true`, `false` or `null` that [`Self::peek`] saw.
    pub(crate) fn word(&mut self, token: Token) -> Result<(), Malformed> {
        let word = match token {
            Token::True => "true",
            Token::False => "false",
            _ => "null",
        };
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            Ok(())
        } else {
            Err(self.syntax())
        }
    }

    /// Skips the next value, of any type and depth.
    pub(crate) fn skip(&mut self) -> Result<(), Malformed> {
        let mut open = Brackets::default();
        loop {
            let token = self.peek()?;
            let mut first = false;
            match token {
                Token::String => self.string().map(|_| ())?,
                Token::Number => self.number().map(|_| ())?,
                Token::Object | Token::Array => {
                    self.enter();
                    self.too_deep |= self.depth > JSON_DEPTH_MAX;
                    open.push(token == Token::Object);
                    first = true;
                }
                word => self.word(word)?,
            }
            // Move to the next value of the innermost open object or array.
            loop {
                let Some(object) = open.last() else { return Ok(()) };
                let more = if object { self.member(first)?.is_some() } else { self.element(first)? };
                if more {
                    break;
                }
                open.pop();
                first = false;
            }
        }
    }

    /// Skips the next value and returns its text.
    pub(crate) fn value_text(&mut self) -> Result<&'a str, Malformed> {
        self.skip_space();
        let start = self.at;
        self.skip()?;
        Ok(&self.text[start..self.at])
    }

    /// Whether a value skipped since the last call nested deeper than a body may.
    pub(crate) fn take_too_deep(&mut self) -> bool {
        std::mem::take(&mut self.too_deep)
    }

    /// Checks that only white space follows.
    pub(crate) fn end(&mut self) -> Result<(), Malformed> {
        if self.skip_space().is_none() { Ok(()) } else { Err(self.syntax()) }
    }

    #[inline]
    fn skip_space(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                byte => return byte,
            }
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn syntax(&self) -> Malformed {
        Malformed { at: self.at }
    }
}

/// Whether two texts of one length are the same. Compares the usual lengths of keys without a call.
#[inline(always)]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    match one.len() {
        8..=16 => one.first_chunk::<8>() == other.first_chunk() && one.last_chunk::<8>() == other.last_chunk(),
        17..=32 => one.first_chunk::<16>() == other.first_chunk() && one.last_chunk::<16>() == other.last_chunk(),
        _ => one == other,
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

impl<'a> Quoted<'a> {
    /// The unescaped string. Half of a surrogate pair becomes U+FFFD.
    pub(crate) fn plain(&self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.raw.as_bytes());
        }
        let mut out = Vec::with_capacity(self.raw.len());
        self.unescape(&mut out);
        Cow::Owned(out)
    }

    /// Appends the unescaped string. Returns `false` if it has half of a surrogate pair, which UTF-8 cannot represent;
    /// U+FFFD replaces it.
    pub(crate) fn unescape(&self, out: &mut Vec<u8>) -> bool {
        let mut whole = true;
        let mut rest = self.raw;
        while let Some(position) = rest.find('\\') {
            out.extend_from_slice(&rest.as_bytes()[..position]);
            let escape = rest.as_bytes().get(position + 1).copied().unwrap_or(b'\\');
            rest = rest.get(position + 2..).unwrap_or_default();
            let plain = match escape {
                b'u' => {
                    let letter = unescape_unicode(&mut rest);
                    whole &= letter.is_some();
                    let letter = letter.unwrap_or(char::REPLACEMENT_CHARACTER);
                    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
                b'b' => 8,
                b'f' => 12,
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                plain => plain,
            };
            out.push(plain);
        }
        out.extend_from_slice(rest.as_bytes());
        whole
    }
}

/// The character of the four hex digits at the start of `rest`, combined with a low surrogate if they are a high one.
fn unescape_unicode(rest: &mut &str) -> Option<char> {
    let unit = take_unit(rest)?;
    if !(0xd800..0xdc00).contains(&unit) {
        return char::from_u32(unit);
    }
    let mut after = rest.strip_prefix("\\u")?;
    let low = take_unit(&mut after).filter(|low| (0xdc00..0xe000).contains(low))?;
    *rest = after;
    char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))
}

fn take_unit(rest: &mut &str) -> Option<u32> {
    let (digits, after) = rest.split_at_checked(4)?;
    *rest = after;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn skip_all(text: &str) -> Result<(), Malformed> {
        let mut json = JsonText::new(text);
        json.skip()?;
        json.end()
    }

    fn is_json(text: &str) -> bool {
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
    }

    #[test]
    fn accepts_what_the_grammar_accepts() {
        for text in [
            "null",
            " true ",
            "0",
            "-0",
            "1.5e+3",
            "\"\"",
            "[]",
            "{}",
            "[1,[2],{\"a\":\"\\u00e9\\n\"}]",
            "",
            "01",
            "1.",
            ".5",
            "+1",
            "1e",
            "-",
            "[1,]",
            "[,1]",
            "{,}",
            "{\"a\"}",
            "{\"a\":1,}",
            "{a:1}",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "\"",
            "\"\\",
            "tru",
            "nul",
            "[1 2]",
            "[1]]",
            "{\"a\":1}}",
            "\"abcdefgh\\u0041ijklmnop\"",
            "1 2",
        ] {
            assert_eq!(skip_all(text).is_ok(), is_json(text), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_skipped_and_reported() {
        for levels in [1, JSON_DEPTH_MAX, JSON_DEPTH_MAX + 1, 1_000_000] {
            let mut nested = "[{\"a\":".repeat(levels / 2) + &"[".repeat(levels % 2);
            let end = "]".repeat(levels % 2) + &"}]".repeat(levels / 2);
            if levels % 2 == 0 {
                nested.push('1');
            }
            let text = nested.clone() + &end;
            let mut json = JsonText::new(&text);
            assert_eq!(json.skip().and_then(|()| json.end()), Ok(()), "{levels}");
            assert_eq!(json.take_too_deep(), levels > JSON_DEPTH_MAX, "{levels}");
            assert!(!json.take_too_deep());
            assert!(skip_all(&nested).is_err(), "{levels}");
            assert!(skip_all(&(nested + &end.replace('}', "]"))).is_err() || levels == 1);
        }
    }

    #[test]
    fn half_a_surrogate_pair_is_reported() {
        for (raw, whole, text) in [
            (r"\ud83e\udd80", true, "🦀"),
            (r"a\ud83e", false, "a\u{fffd}"),
            (r"\ud83e\u0041", false, "\u{fffd}A"),
            (r"\udd80b", false, "\u{fffd}b"),
            (r"\ud83e\ud83e\udd80", false, "\u{fffd}🦀"),
            (r"\u0000\/\\", true, "\0/\\"),
        ] {
            let mut out = Vec::new();
            assert_eq!(Quoted { raw, escaped: true }.unescape(&mut out), whole, "{raw}");
            assert_eq!(out, text.as_bytes(), "{raw}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json(text in r#"[\[\]{}:,"\\ntrue0-9.eE+ a-f-]{0,24}"#) {
            prop_assert_eq!(skip_all(&text).is_ok(), is_json(&text));
        }

        #[test]
        fn strings_read_back(text in any::<String>()) {
            let quoted = serde_json::to_string(&text).expect("write string");
            let mut json = JsonText::new(&quoted);
            prop_assert_eq!(json.peek(), Ok(Token::String));
            let string = json.string().expect("read string");
            let mut out = Vec::new();
            prop_assert!(string.unescape(&mut out));
            prop_assert_eq!(out, text.into_bytes());
        }
    }
}
