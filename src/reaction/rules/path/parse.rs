//! Parses JSONPath text into segments by the grammar of RFC 9535, in one pass from left to right.
//!
//! Invariant: parsing takes time in proportion to the text, recursion is bounded by [`NESTING_MAX`], and every
//! accepted path is well-typed (section 2.4.3).

use serde_json::{Number, Value};

use super::query::{Comparable, Comparison, Logical, PatternOf, Query, Segment, Selector};
use crate::event::ViewValue;
use crate::reaction::rules::pattern::Pattern;

/// Nesting depth of filters, parentheses and functions.
pub(super) const NESTING_MAX: usize = 16;
/// The largest index: 2^53 - 1, the limit of I-JSON.
const INDEX_MAX: i64 = 9_007_199_254_740_991;

type Parsed<T> = Result<T, SyntaxError>;

/// A syntax error and its byte offset.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) at: usize,
    pub(super) what: String,
}

/// Parses a whole path.
pub(super) fn parse(source: &str) -> Parsed<Box<[Segment]>> {
    let mut reader = Reader { source, at: 0, depth: 0 };
    if !reader.take("$") {
        return reader.wrong("must begin with `$`");
    }
    let segments = reader.segments()?;
    if reader.at < source.len() {
        return reader.wrong("expected `.`, `[` or the end");
    }
    Ok(segments)
}

struct Reader<'s> {
    source: &'s str,
    at: usize,
    depth: usize,
}

/// An operand of a comparison, or a test by itself.
enum Term {
    Comparable(Comparable),
    Query(Query),
    Logical(Logical),
}

impl<'s> Reader<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = self.rest().starts_with(text);
        self.at += if found { text.len() } else { 0 };
        found
    }

    fn expect(&mut self, text: &str) -> Parsed<()> {
        if self.take(text) { Ok(()) } else { self.wrong(format!("expected `{text}`")) }
    }

    fn blank(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Parsed<T> {
        Err(SyntaxError { at: self.at, what: what.into() })
    }

    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == NESTING_MAX {
            return self.wrong(format!("filters, parentheses and functions must not nest deeper than {NESTING_MAX}"));
        }
        self.depth += 1;
        let done = read(self);
        self.depth -= 1;
        done
    }

    fn segments(&mut self) -> Parsed<Box<[Segment]>> {
        let mut segments = Vec::new();
        loop {
            let before = self.at;
            self.blank();
            if self.take("..") {
                let selectors = match self.peek() {
                    Some('[') => self.bracketed()?,
                    _ => self.shorthand()?,
                };
                segments.push(Segment::Descendants(selectors));
            } else if self.take(".") {
                segments.push(Segment::Children(self.shorthand()?));
            } else if self.peek() == Some('[') {
                segments.push(Segment::Children(self.bracketed()?));
            } else {
                // Blank space is part of a path only between two segments.
                self.at = before;
                return Ok(segments.into());
            }
        }
    }

    fn shorthand(&mut self) -> Parsed<Box<[Selector]>> {
        if self.take("*") {
            return Ok([Selector::Wildcard].into());
        }
        let is_first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
        let rest = self.rest();
        if !rest.starts_with(is_first) {
            return self.wrong("expected a name or `*`");
        }
        let length = rest.find(|c: char| !is_first(c) && !c.is_ascii_digit()).unwrap_or(rest.len());
        self.at += length;
        Ok([Selector::Name(rest[..length].into())].into())
    }

    fn bracketed(&mut self) -> Parsed<Box<[Selector]>> {
        self.expect("[")?;
        let mut selectors = Vec::new();
        loop {
            self.blank();
            selectors.push(self.selector()?);
            self.blank();
            if self.take("]") {
                return Ok(selectors.into());
            }
            if !self.take(",") {
                return self.wrong("expected `,` or `]`");
            }
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(Selector::Wildcard)
            }
            Some('?') => {
                self.at += 1;
                self.blank();
                let filter = self.nested(Self::logical)?;
                Ok(Selector::Filter(Box::new(filter)))
            }
            Some('\'' | '"') => Ok(Selector::Name(self.text()?.into())),
            Some('-' | ':' | '0'..='9') => self.index_or_slice(),
            _ => self.wrong("expected a name in quotes, an index, a slice, `*` or `?`"),
        }
    }

    fn index_or_slice(&mut self) -> Parsed<Selector> {
        let start = self.index()?;
        let after = self.at;
        self.blank();
        if !self.take(":") {
            self.at = after;
            return match start {
                Some(index) => Ok(Selector::Index(index)),
                None => self.wrong("expected an index"),
            };
        }
        self.blank();
        let end = self.index()?;
        let after = self.at;
        self.blank();
        let mut step = None;
        if self.take(":") {
            let after = self.at;
            self.blank();
            step = self.index()?;
            if step.is_none() {
                self.at = after;
            }
        } else {
            self.at = after;
        }
        Ok(Selector::Slice { start, end, step: step.unwrap_or(1) })
    }

    /// Parses an integer without leading zeros, if there is one.
    fn index(&mut self) -> Parsed<Option<i64>> {
        let start = self.at;
        let rest = self.rest();
        let negative = rest.starts_with('-');
        let digits = &rest[usize::from(negative)..];
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if length == 0 {
            return if negative { self.wrong("expected digits after `-`") } else { Ok(None) };
        }
        if digits.starts_with('0') && (length > 1 || negative) {
            return self.wrong("a number must not begin with `0`, nor be `-0`");
        }
        let text = &rest[..length + usize::from(negative)];
        match text.parse::<i64>() {
            Ok(index) if index.abs() <= INDEX_MAX => {
                self.at = start + text.len();
                Ok(Some(index))
            }
            _ => self.wrong(format!("must be from -{INDEX_MAX} to {INDEX_MAX}")),
        }
    }

    /// Parses a quoted string.
    fn text(&mut self) -> Parsed<String> {
        let Some(quote) = self.peek().filter(|c| matches!(c, '\'' | '"')) else {
            return self.wrong("expected a string in quotes");
        };
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.peek() else { return self.wrong("the string does not end") };
            if c < ' ' {
                return self.wrong("a string must not have control characters: escape them");
            }
            self.at += c.len_utf8();
            match c {
                c if c == quote => return Ok(text),
                '\\' => text.push(self.escaped(quote)?),
                c => text.push(c),
            }
        }
    }

    fn escaped(&mut self, quote: char) -> Parsed<char> {
        let Some(c) = self.peek() else { return self.wrong("the string does not end") };
        let plain = match c {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            '/' | '\\' => c,
            c if c == quote => c,
            'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.wrong("is not an escape of a string"),
        };
        self.at += c.len_utf8();
        Ok(plain)
    }

    /// Parses the rest of `\u`: four hexadecimal digits, or two escapes for a surrogate pair.
    fn unicode(&mut self) -> Parsed<char> {
        let first = self.hex()?;
        let code = match first {
            0xD800..=0xDBFF => {
                self.expect("\\u")?;
                match self.hex()? {
                    second @ 0xDC00..=0xDFFF => 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                    _ => return self.wrong("is not the second half of a surrogate pair"),
                }
            }
            _ => first,
        };
        match char::from_u32(code) {
            Some(c) => Ok(c),
            None => self.wrong("is half of a surrogate pair"),
        }
    }

    fn hex(&mut self) -> Parsed<u32> {
        let digits = self.rest().get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        self.at += if code.is_some() { 4 } else { 0 };
        code.map_or_else(|| self.wrong("expected four hexadecimal digits"), Ok)
    }

    fn logical(&mut self) -> Parsed<Logical> {
        let mut any = vec![self.conjunction()?];
        while self.operator("||") {
            any.push(self.conjunction()?);
        }
        Ok(if any.len() == 1 { any.swap_remove(0) } else { Logical::Any(any.into()) })
    }

    fn conjunction(&mut self) -> Parsed<Logical> {
        let mut all = vec![self.basic()?];
        while self.operator("&&") {
            all.push(self.basic()?);
        }
        Ok(if all.len() == 1 { all.swap_remove(0) } else { Logical::All(all.into()) })
    }

    /// Consumes the operator and the blank space around it, or nothing.
    fn operator(&mut self, text: &str) -> bool {
        let before = self.at;
        self.blank();
        let found = self.take(text);
        if found {
            self.blank();
        } else {
            self.at = before;
        }
        found
    }

    fn basic(&mut self) -> Parsed<Logical> {
        if self.take("!") {
            self.blank();
            let inner = if self.peek() == Some('(') {
                self.parenthesized()?
            } else {
                let at = self.at;
                let term = self.term()?;
                self.test(term, at)?
            };
            return Ok(Logical::Not(Box::new(inner)));
        }
        if self.peek() == Some('(') {
            return self.parenthesized();
        }
        let start = self.at;
        let left = self.term()?;
        let before = self.at;
        self.blank();
        let Some(comparison) = self.comparison() else {
            self.at = before;
            return self.test(left, start);
        };
        let left = self.comparable(left, start)?;
        self.blank();
        let at = self.at;
        let right = self.term()?;
        let right = self.comparable(right, at)?;
        Ok(Logical::Compare(left, comparison, right))
    }

    fn parenthesized(&mut self) -> Parsed<Logical> {
        self.expect("(")?;
        self.blank();
        let inner = self.nested(Self::logical)?;
        self.blank();
        self.expect(")")?;
        Ok(inner)
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let known = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::AtMost),
            (">=", Comparison::AtLeast),
            ("<", Comparison::Below),
            (">", Comparison::Above),
        ];
        known.into_iter().find(|(text, _)| self.take(text)).map(|(_, comparison)| comparison)
    }

    fn test(&self, term: Term, at: usize) -> Parsed<Logical> {
        match term {
            Term::Query(query) => Ok(Logical::Exists(query)),
            Term::Logical(logical) => Ok(logical),
            Term::Comparable(_) => Err(SyntaxError { at, what: "must be compared with something".to_owned() }),
        }
    }

    fn comparable(&self, term: Term, at: usize) -> Parsed<Comparable> {
        match term {
            Term::Comparable(comparable) => Ok(comparable),
            Term::Query(query) if query.is_singular() => Ok(Comparable::Singular(query)),
            Term::Query(_) => Err(SyntaxError { at, what: "can find several nodes and cannot be compared".to_owned() }),
            Term::Logical(_) => {
                Err(SyntaxError { at, what: "is true or false by itself and cannot be compared".to_owned() })
            }
        }
    }

    fn term(&mut self) -> Parsed<Term> {
        let literal = |value: Value| Ok(Term::Comparable(Comparable::Literal(value.into())));
        match self.peek() {
            Some('@' | '$') => {
                let from_root = self.peek() == Some('$');
                self.at += 1;
                Ok(Term::Query(Query { from_root, segments: self.segments()? }))
            }
            Some('\'' | '"') => literal(Value::String(self.text()?)),
            Some('-' | '0'..='9') => literal(Value::Number(self.number()?)),
            Some('a'..='z') => {
                let rest = self.rest();
                let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
                if rest[name.len()..].starts_with('(') {
                    return self.nested(|reader| reader.function(name));
                }
                let value = match name {
                    "true" => Value::Bool(true),
                    "false" => Value::Bool(false),
                    "null" => Value::Null,
                    _ => return self.wrong("expected `@`, `$`, a literal or a function"),
                };
                self.at += name.len();
                literal(value)
            }
            _ => self.wrong("expected `@`, `$`, a literal or a function"),
        }
    }

    fn number(&mut self) -> Parsed<Number> {
        let bytes = self.rest().as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let mut end = usize::from(bytes[0] == b'-');
        let whole = digits(end);
        if whole == 0 || (whole > 1 && bytes[end] == b'0') {
            return self.wrong("is not a number");
        }
        end += whole;
        if bytes.get(end) == Some(&b'.') {
            let fraction = digits(end + 1);
            if fraction == 0 {
                return self.wrong("expected digits after the point of a number");
            }
            end += 1 + fraction;
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            if exponent == 0 {
                return self.wrong("expected digits after the exponent of a number");
            }
            end += 1 + sign + exponent;
        }
        // Exact where possible; a number beyond the range of a double is refused.
        match self.rest()[..end].parse::<Number>() {
            Ok(number) => {
                self.at += end;
                Ok(number)
            }
            Err(_) => self.wrong("is a number beyond what a double holds"),
        }
    }

    fn function(&mut self, name: &str) -> Parsed<Term> {
        let start = self.at;
        if !matches!(name, "length" | "count" | "value" | "match" | "search") {
            return self.wrong("is not a function: there is `length`, `count`, `value`, `match` and `search`");
        }
        self.at += name.len() + 1;
        let mut arguments = Vec::new();
        self.blank();
        if !self.take(")") {
            loop {
                self.blank();
                let at = self.at;
                arguments.push((self.term()?, at));
                self.blank();
                if self.take(")") {
                    break;
                }
                if !self.take(",") {
                    return self.wrong("expected `,` or `)`");
                }
            }
        }
        let wanted = if matches!(name, "match" | "search") { 2 } else { 1 };
        if arguments.len() != wanted {
            return Err(SyntaxError { at: start, what: format!("`{name}` takes {wanted} arguments") });
        }
        let (first, at) = arguments.remove(0);
        match name {
            "length" => Ok(Term::Comparable(Comparable::Length(Box::new(self.comparable(first, at)?)))),
            "count" | "value" => match first {
                Term::Query(query) if name == "count" => Ok(Term::Comparable(Comparable::Count(query))),
                Term::Query(query) => Ok(Term::Comparable(Comparable::ValueOf(query))),
                _ => Err(SyntaxError { at, what: format!("`{name}` takes a query") }),
            },
            _ => {
                let subject = self.comparable(first, at)?;
                let (second, at) = arguments.remove(0);
                let whole = name == "match";
                let pattern = pattern(self.comparable(second, at)?, whole).map_err(|what| SyntaxError { at, what })?;
                Ok(Term::Logical(Logical::Matches { subject, pattern, whole }))
            }
        }
    }
}

/// A literal pattern is compiled immediately.
fn pattern(pattern: Comparable, whole: bool) -> Result<PatternOf, String> {
    match pattern {
        Comparable::Literal(ViewValue::Text(source)) => {
            Pattern::compile_i_regexp(&source, whole).map(PatternOf::Constant)
        }
        Comparable::Literal(_) => Err("must be a string that holds a regular expression".to_owned()),
        other => Ok(PatternOf::Found(other)),
    }
}
