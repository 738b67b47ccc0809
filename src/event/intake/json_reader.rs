//! Converts proto3 JSON to protobuf bytes directly, by the field tables and in one pass.
//!
//! Invariant: without errors, the output is one valid message. With errors, the text is still read to its end, to tell
//! malformed JSON from invalid values. Values beyond a limit are skipped, not written. Knows what proto3 JSON allows;
//! of the rules of fields it knows whether one is broken, not which.

use std::ops::Range;

use super::binary::MORE_THAN_ONE_PAYLOAD;
use super::field_error::{Errors, Path};
use super::validate::{PROPERTIES_TOO_DEEP, PROPERTY, TOO_MANY_VALUES, too_many};
use crate::event::codec::decimal;
use crate::event::codec::json_text::{JsonText, Malformed, Quoted, Token};
use crate::event::codec::wire::{begin, end, put_bytes, put_double, put_float, put_number};
use crate::event::schema::limits::{PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};
use crate::event::schema::tables::{Field, Message, PLACES, Rules, Shape};

pub(crate) const UNKNOWN: &str = "unknown field";
pub(crate) const DUPLICATE: &str = "must not come twice";
pub(crate) const HALF_A_PAIR: &str = "must not have half of a surrogate pair";
const TOO_DEEP: &str = "must not nest deeper than the 64 levels of a body";

/// Fields named in the error about an unknown one.
const FIELDS_NAMED_MAX: usize = 5;

/// Reads the values of one body. Reuses its buffers from event to event.
pub(crate) struct JsonReader<'a> {
    pub(crate) json: JsonText<'a>,
    pub(crate) out: Vec<u8>,
    pub(crate) errors: Errors,
    /// Buffer for an unescaped string.
    text: Vec<u8>,
    /// Ranges in `out` of the keys of the maps being read.
    keys: Vec<Range<usize>>,
    /// Number of values and open levels of the `properties` being read.
    values: usize,
    levels: usize,
    /// By how many fields the next member was ahead of the field order when the message's last such member was read:
    /// senders write their fields in the same order each time.
    leaps: [u8; PLACES],
    /// A value breaks a rule of its field. Which one, [`admit`](super::admit::admit) tells.
    pub(crate) breaks_rules: bool,
    /// Write numbers in `properties` that a double cannot represent as text.
    pub(crate) exact: bool,
}

impl<'a> JsonReader<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self::onto(Vec::with_capacity(text.len()), text)
    }

    /// Appends to `out`.
    pub(crate) fn onto(out: Vec<u8>, text: &'a str) -> Self {
        Self {
            json: JsonText::new(text),
            out,
            errors: Errors::default(),
            text: Vec::new(),
            keys: Vec::new(),
            values: 0,
            levels: 0,
            leaps: [0; PLACES],
            breaks_rules: false,
            exact: false,
        }
    }

    /// Appends the fields of the message that is the next value.
    pub(crate) fn message(&mut self, message: &'static Message, at: &Path<'_>) -> Result<(), Malformed> {
        if !self.expect(Token::Object, "must be an object", at)? {
            return Ok(());
        }
        self.json.enter();
        let (mut seen, mut filled) = (0_u64, 0_u64);
        let mut payload = false;
        let (mut next, mut first) = (0, true);
        loop {
            let follows = message.place + next;
            let likely = next.wrapping_add(usize::from(self.leaps[follows])) & 0xff;
            let position = match message.fields.get(likely) {
                Some(field) if self.json.expected_member(first, field.json_key) => likely,
                _ => {
                    let Some(key) = self.json.member(first)? else { break };
                    first = false;
                    let Some(position) = message.position(&key.plain()) else {
                        self.unknown(message, key, at);
                        self.skip(&Path::Field(at, key.raw))?;
                        continue;
                    };
                    self.leaps[follows] = position.wrapping_sub(next) as u8;
                    position
                }
            };
            first = false;
            let field = &message.fields[position];
            let here = Path::Field(at, field.json_name);
            next = position + 1;
            if seen & (1 << position) != 0 {
                self.errors.add(here, DUPLICATE);
                self.skip(&here)?;
                continue;
            }
            seen |= 1 << position;
            match self.json.peek()? {
                // Null means an unset field.
                Token::Null => self.json.word(Token::Null)?,
                _ if payload && matches!(field.shape, Shape::Payload(_)) => {
                    self.errors.add(here, MORE_THAN_ONE_PAYLOAD);
                    self.skip(&here)?;
                }
                _ => {
                    payload |= matches!(field.shape, Shape::Payload(_));
                    let before = self.out.len();
                    self.value(field, false, &here)?;
                    // An empty message or string is not enough. That zero also ends other values does no harm.
                    filled |= u64::from(self.out[before..].last().is_some_and(|byte| *byte != 0)) << position;
                }
            }
        }
        self.breaks_rules |= message.required & !filled != 0;
        Ok(())
    }

    /// If the next value is an object, appends the members of its `google.protobuf.Struct`; otherwise appends the
    /// content of its `google.protobuf.Value`. Returns whether it is an object.
    pub(crate) fn free_value(&mut self, at: &Path<'_>) -> Result<bool, Malformed> {
        (self.values, self.levels) = (0, 0);
        let is_object = self.json.peek()? == Token::Object;
        if is_object {
            self.object(at)?
        } else {
            self.any(at)?
        }
        if self.values > PROPERTIES_VALUES_MAX {
            self.errors.add(*at, TOO_MANY_VALUES);
        }
        Ok(is_object)
    }

    fn unknown(&mut self, message: &Message, key: Quoted<'_>, at: &Path<'_>) {
        let mut detail = UNKNOWN.to_owned();
        if message.fields.len() <= FIELDS_NAMED_MAX {
            let names: Vec<_> = message.fields.iter().map(|field| field.json_name).collect();
            detail = format!("{UNKNOWN}: expected {}", names.join(", "));
        }
        self.errors.add(Path::Field(at, key.raw), detail);
    }

    /// Appends the field with the next value. A `member` of a list or map is not null, and is written even if it has
    /// the default value.
    fn value(&mut self, field: &Field, member: bool, at: &Path<'_>) -> Result<(), Malformed> {
        match &field.shape {
            Shape::String => self.string(field.number, field.rules, member, at),
            Shape::Bool => match self.json.peek()? {
                token @ (Token::True | Token::False) => {
                    self.json.word(token)?;
                    self.put_number(field.number, u64::from(token == Token::True), member);
                    Ok(())
                }
                _ => self.wrong("must be true or false", at),
            },
            Shape::Int32 => match self.integer(at)? {
                Some(number) if i32::try_from(number).is_ok() => {
                    self.breaks_rules |= !field.rules.allow_integer(number);
                    self.put_number(field.number, number.cast_unsigned(), member);
                    Ok(())
                }
                _ => self.refuse("must be a 32-bit integer", at),
            },
            Shape::Int64 => match self.integer(at)? {
                Some(number) => {
                    self.breaks_rules |= !field.rules.allow_integer(number);
                    self.put_number(field.number, number.cast_unsigned(), member);
                    Ok(())
                }
                None => self.refuse("must be a 64-bit integer", at),
            },
            Shape::Float => match self.float::<f32>(at)? {
                Some(number) => {
                    self.breaks_rules |= !field.rules.allow_float(number.into());
                    if member || number != 0.0 {
                        put_float(&mut self.out, field.number, number);
                    }
                    Ok(())
                }
                None => self.refuse("must be a number", at),
            },
            Shape::Double => match self.float::<f64>(at)? {
                Some(number) => {
                    self.breaks_rules |= !field.rules.allow_float(number);
                    if member || number != 0.0 {
                        put_double(&mut self.out, field.number, number);
                    }
                    Ok(())
                }
                None => self.refuse("must be a number", at),
            },
            Shape::Enum(names) => {
                let number = match self.json.peek()? {
                    Token::String => {
                        let name = self.json.string()?.plain();
                        let position = names.names.iter().position(|known| known.as_bytes() == &*name);
                        position.map(|position| position as i64)
                    }
                    _ => {
                        let number = self.integer(at)?;
                        number.filter(|number| usize::try_from(*number).is_ok_and(|n| n < names.names.len()))
                    }
                };
                match number {
                    Some(number) => {
                        self.put_number(field.number, number.cast_unsigned(), member);
                        Ok(())
                    }
                    None => self.refuse(format!("must be one of {}", names.names.join(", ")), at),
                }
            }
            Shape::Message(message) | Shape::Payload(message) => {
                let start = begin(&mut self.out, field.number);
                self.message(message, at)?;
                end(&mut self.out, start);
                Ok(())
            }
            Shape::Struct => {
                if self.expect(Token::Object, "must be an object", at)? {
                    let start = begin(&mut self.out, field.number);
                    (self.values, self.levels) = (0, 0);
                    self.object(at)?;
                    end(&mut self.out, start);
                    if self.values > PROPERTIES_VALUES_MAX {
                        self.errors.add(*at, TOO_MANY_VALUES);
                    }
                }
                Ok(())
            }
            Shape::List(element) => self.list(element, elements_max(field), at),
            Shape::Map(entry) => {
                if self.expect(Token::Object, "must be an object", at)? {
                    let max = elements_max(field);
                    let count =
                        self.members(field.number, field.rules, max, at, |reader, at| reader.value(entry, true, at))?;
                    if count > max {
                        self.errors.add(*at, too_many(max));
                    }
                }
                Ok(())
            }
        }
    }

    fn list(&mut self, element: &Field, elements_max: usize, at: &Path<'_>) -> Result<(), Malformed> {
        if !self.expect(Token::Array, "must be an array", at)? {
            return Ok(());
        }
        self.json.enter();
        let mut index = 0;
        while self.json.element(index == 0)? {
            let here = Path::Index(at, index);
            if index < elements_max {
                self.value(element, true, &here)?;
            } else {
                self.skip(&here)?;
            }
            index += 1;
        }
        if index > elements_max {
            self.errors.add(*at, too_many(elements_max));
        }
        Ok(())
    }

    /// Appends an entry with field number `number` for each member of the object, up to `count_max`. Its key has these
    /// rules, and `value` appends its value. Returns the number of members.
    fn members(
        &mut self,
        number: u32,
        rules: &Rules,
        count_max: usize,
        at: &Path<'_>,
        value: impl Fn(&mut Self, &Path<'_>) -> Result<(), Malformed>,
    ) -> Result<usize, Malformed> {
        self.json.enter();
        let keys_before = self.keys.len();
        let mut count = 0;
        while let Some(key) = self.json.member(count == 0)? {
            count += 1;
            let here = Path::Field(at, key.raw);
            if count > count_max {
                self.skip(&here)?;
                continue;
            }
            let entry = begin(&mut self.out, number);
            let key_length = self.put_text(1, key, &here).len();
            self.breaks_rules |= !rules.allow_key(key_length);
            let key_end = self.out.len();
            let key_start = key_end - key_length;
            value(self, &here)?;
            let shift = end(&mut self.out, entry);
            self.keys.push(key_start + shift..key_end + shift);
        }
        let (keys, out) = (&mut self.keys[keys_before..], &self.out);
        keys.sort_unstable_by_key(|range| &out[range.clone()]);
        if keys.windows(2).any(|pair| out[pair[0].clone()] == out[pair[1].clone()]) {
            self.errors.add(*at, "keys must not come twice");
        }
        self.keys.truncate(keys_before);
        Ok(count)
    }

    /// Appends the members of an object in `properties`, or of `properties` itself.
    fn object(&mut self, at: &Path<'_>) -> Result<(), Malformed> {
        self.levels += 1;
        let count = self.members(1, &PROPERTY, PROPERTIES_VALUES_MAX, at, |reader, at| reader.member_of_struct(at))?;
        self.levels -= 1;
        // Skipped members count too.
        self.values += count.saturating_sub(PROPERTIES_VALUES_MAX);
        Ok(())
    }

    fn member_of_struct(&mut self, at: &Path<'_>) -> Result<(), Malformed> {
        let start = begin(&mut self.out, 2);
        self.any(at)?;
        end(&mut self.out, start);
        Ok(())
    }

    /// Appends the content of a `google.protobuf.Value`.
    fn any(&mut self, at: &Path<'_>) -> Result<(), Malformed> {
        self.values += 1;
        if self.values > PROPERTIES_VALUES_MAX {
            return self.skip(at);
        }
        match self.json.peek()? {
            Token::Object | Token::Array if self.levels == PROPERTIES_DEPTH_MAX => {
                return self.wrong(PROPERTIES_TOO_DEEP, at);
            }
            Token::Null => {
                self.json.word(Token::Null)?;
                self.put_number(1, 0, true);
            }
            Token::Number => {
                let number = self.json.number()?;
                if self.exact && decimal::needs_text(number) {
                    put_bytes(&mut self.out, 3, number.as_bytes());
                } else {
                    let number = number.parse().unwrap_or(f64::NAN);
                    self.breaks_rules |= !PROPERTY.allow_float(number);
                    put_double(&mut self.out, 2, number);
                }
            }
            Token::String => self.string(3, &PROPERTY, true, at)?,
            token @ (Token::True | Token::False) => {
                self.json.word(token)?;
                self.put_number(4, u64::from(token == Token::True), true);
            }
            Token::Object => {
                let start = begin(&mut self.out, 5);
                self.object(at)?;
                end(&mut self.out, start);
            }
            Token::Array => {
                let start = begin(&mut self.out, 6);
                self.levels += 1;
                self.json.enter();
                let mut index = 0;
                while self.json.element(index == 0)? {
                    let element = begin(&mut self.out, 1);
                    self.any(&Path::Index(at, index))?;
                    end(&mut self.out, element);
                    index += 1;
                }
                self.levels -= 1;
                end(&mut self.out, start);
            }
        }
        Ok(())
    }

    fn string(&mut self, number: u32, rules: &Rules, member: bool, at: &Path<'_>) -> Result<(), Malformed> {
        if self.expect(Token::String, "must be a string", at)? {
            let string = self.json.string()?;
            if member || !string.raw.is_empty() {
                let allowed = rules.allow_text(self.put_text(number, string, at));
                self.breaks_rules |= !allowed;
            }
        }
        Ok(())
    }

    /// Reads the next value as an integer, written as a number or a string. Consumes the value in any case.
    fn integer(&mut self, at: &Path<'_>) -> Result<Option<i64>, Malformed> {
        Ok(self.digits(at)?.and_then(decimal::integer))
    }

    fn float<F: std::str::FromStr>(&mut self, at: &Path<'_>) -> Result<Option<F>, Malformed> {
        Ok(self.digits(at)?.and_then(|digits| digits.parse().ok()))
    }

    /// Reads the text of a number, with or without quotes.
    fn digits(&mut self, at: &Path<'_>) -> Result<Option<&'a str>, Malformed> {
        match self.json.peek()? {
            Token::Number => self.json.number().map(Some),
            Token::String => {
                let raw = self.json.string()?.raw;
                // proto3 JSON counts these three as numbers. Whether they are allowed is decided elsewhere.
                let is_word = matches!(raw, "NaN" | "Infinity" | "-Infinity");
                let mut number = JsonText::new(raw);
                let is_number = !raw.starts_with([' ', '\t', '\n', '\r'])
                    && number.peek() == Ok(Token::Number)
                    && number.number().is_ok_and(|digits| digits.len() == raw.len());
                Ok((is_word || is_number).then_some(raw))
            }
            _ => self.skip(at).map(|()| None),
        }
    }

    /// Whether the next value has the expected type. Otherwise skips it and reports the error.
    fn expect(&mut self, token: Token, detail: &str, at: &Path<'_>) -> Result<bool, Malformed> {
        if self.json.peek()? == token {
            return Ok(true);
        }
        self.wrong(detail, at).map(|()| false)
    }

    pub(crate) fn wrong(&mut self, detail: &str, at: &Path<'_>) -> Result<(), Malformed> {
        self.skip(at)?;
        self.refuse(detail, at)
    }

    /// Skips the next value.
    fn skip(&mut self, at: &Path<'_>) -> Result<(), Malformed> {
        self.json.skip()?;
        if self.json.take_too_deep() {
            self.errors.add(*at, TOO_DEEP);
        }
        Ok(())
    }

    fn refuse(&mut self, detail: impl Into<String>, at: &Path<'_>) -> Result<(), Malformed> {
        self.errors.add(*at, detail);
        Ok(())
    }

    /// Appends the unescaped string and returns it.
    fn put_text<'s>(&'s mut self, number: u32, string: Quoted<'s>, at: &Path<'_>) -> &'s [u8] {
        let text = if string.escaped {
            self.text.clear();
            if !string.unescape(&mut self.text) {
                self.errors.add(*at, HALF_A_PAIR);
            }
            &self.text
        } else {
            string.raw.as_bytes()
        };
        put_bytes(&mut self.out, number, text);
        text
    }

    #[inline]
    fn put_number(&mut self, number: u32, value: u64, member: bool) {
        if member || value != 0 {
            put_number(&mut self.out, number, value);
        }
    }
}

fn elements_max(field: &Field) -> usize {
    field.rules.elements_max.unwrap_or(usize::MAX)
}
