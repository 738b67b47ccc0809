//! JSON values of messages. Strings borrow from the body where possible, and objects are lists: a message is read once,
//! has few members, and is taken apart immediately.
//!
//! Invariant: member names of an object are unique; the last duplicate counts. Numbers are exact: an integer of more
//! than 64 bits fails to parse.

use std::borrow::Cow;
use std::iter::FilterMap;
use std::vec::IntoIter;

use serde::ser::{Serialize, Serializer};
use serde_json::Number;

use crate::event::codec::json_text::{JsonText, Malformed, Quoted, Token};

/// Nesting depth of objects and arrays.
const DEPTH_MAX: usize = 128;
/// Up to this many members, duplicates are found by comparison; beyond it, by sorting.
const COMPARED_MAX: usize = 16;
/// Initial capacity of an object.
const MEMBERS_EXPECTED: usize = 8;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Number(Number),
    String(Cow<'a, str>),
    Array(Vec<Self>),
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// Parses the whole text. `None` if it is not JSON or cannot be represented.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let mut json = JsonText::new(text);
        let mut value = Self::Null;
        read(&mut json, DEPTH_MAX, &mut value).ok()?;
        json.end().is_ok().then_some(value)
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_object(&self) -> Option<&Object<'a>> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The member of an object with that name.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }
}

/// Removing a member leaves an empty slot, so the others do not move.
#[derive(Clone, Debug, Default)]
pub(super) struct Object<'a>(Vec<Member<'a>>);

type Member<'a> = (Cow<'a, str>, Option<Value<'a>>);

impl<'a> Object<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Cow<'a, str>, &Value<'a>)> {
        self.0.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(own, _)| own == name)?.1.as_ref()
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Value<'a>> {
        self.place(name)?.as_mut()
    }

    /// Sets a member, or adds it. Returns the previous value.
    pub(super) fn insert(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) -> Option<Value<'a>> {
        let name = name.into();
        if let Some(place) = self.place(&name) {
            return place.replace(value);
        }
        self.0.push((name, Some(value)));
        None
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        self.place(name)?.take()
    }

    /// Removes a member if the predicate holds.
    pub(super) fn remove_if(&mut self, name: &str, is_it: impl FnOnce(&mut Value<'a>) -> bool) -> Option<Value<'a>> {
        self.place(name)?.take_if(is_it)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Value<'a>) -> bool) {
        self.0.retain(|(_, value)| value.as_ref().is_some_and(&keep));
    }

    /// The slot of a member that is or was present.
    fn place(&mut self, name: &str) -> Option<&mut Option<Value<'a>>> {
        self.0.iter_mut().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    fn of(mut members: Vec<Member<'a>>) -> Self {
        if members.len() > COMPARED_MAX {
            // The sort is stable, so the last of equal names comes first after reversing.
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            members.reverse();
            members.dedup_by(|(later, _), (kept, _)| later == kept);
            members.reverse();
        } else {
            let mut at = 0;
            while at < members.len() {
                if members[at + 1..].iter().any(|(later, _)| *later == members[at].0) {
                    members.remove(at);
                } else {
                    at += 1;
                }
            }
        }
        Self(members)
    }
}

impl PartialEq for Object<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = FilterMap<IntoIter<Member<'a>>, fn(Member<'a>) -> Option<Self::Item>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(is) => serializer.serialize_bool(*is),
            Self::Number(number) => number.serialize(serializer),
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(elements) => serializer.collect_seq(elements),
            Self::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// Reads the next value into `place`: returning it would move it at every level, which costs more than reading it.
/// `depth` is how many more levels it may nest.
fn read<'a>(json: &mut JsonText<'a>, depth: usize, place: &mut Value<'a>) -> Result<(), Unrepresentable> {
    match json.peek()? {
        Token::String => *place = Value::String(text(json.string()?)?),
        Token::Number => *place = Value::Number(number(json.number()?)?),
        Token::Object => {
            let depth = depth.checked_sub(1).ok_or(Unrepresentable)?;
            json.enter();
            let mut members: Vec<Member<'a>> = Vec::with_capacity(MEMBERS_EXPECTED);
            while let Some(name) = json.member(members.is_empty())? {
                members.push((text(name)?, Some(Value::Null)));
                if let Some((_, Some(place))) = members.last_mut() {
                    read(json, depth, place)?;
                }
            }
            *place = Value::Object(Object::of(members));
        }
        Token::Array => {
            let depth = depth.checked_sub(1).ok_or(Unrepresentable)?;
            json.enter();
            let mut elements = Vec::new();
            while json.element(elements.is_empty())? {
                elements.push(Value::Null);
                if let Some(place) = elements.last_mut() {
                    read(json, depth, place)?;
                }
            }
            *place = Value::Array(elements);
        }
        word => {
            json.word(word)?;
            if word != Token::Null {
                *place = Value::Bool(word == Token::True);
            }
        }
    }
    Ok(())
}

/// The text is not JSON, or a [`Value`] cannot represent it.
#[derive(Debug)]
struct Unrepresentable;

impl From<Malformed> for Unrepresentable {
    fn from(_: Malformed) -> Self {
        Self
    }
}

#[inline(always)]
fn text(quoted: Quoted<'_>) -> Result<Cow<'_, str>, Unrepresentable> {
    if quoted.escaped { unescaped(quoted) } else { Ok(Cow::Borrowed(quoted.raw)) }
}

#[cold]
fn unescaped(quoted: Quoted<'_>) -> Result<Cow<'_, str>, Unrepresentable> {
    let mut plain = Vec::with_capacity(quoted.raw.len());
    if !quoted.unescape(&mut plain) {
        return Err(Unrepresentable);
    }
    String::from_utf8(plain).map(Cow::Owned).map_err(|_| Unrepresentable)
}

fn number(text: &str) -> Result<Number, Unrepresentable> {
    let is_integer = text.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit());
    // An integer has no negative zero.
    if is_integer && text != "-0" {
        let negative = text.parse::<i64>().map(Number::from);
        return negative.or_else(|_| text.parse::<u64>().map(Number::from)).map_err(|_| Unrepresentable);
    }
    text.parse().ok().and_then(Number::from_f64).ok_or(Unrepresentable)
}

#[cfg(test)]
pub(super) fn object(text: &str) -> Object<'_> {
    match Value::read(text) {
        Some(Value::Object(object)) => object,
        other => panic!("{other:?} of {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_duplicate_counts() {
        let few = object(r#"{"a": 1, "b": 2, "a": 3, "c": {"d": null, "d": [true, "\u00e9"]}}"#);
        assert_eq!(few, object(r#"{"b": 2, "a": 3, "c": {"d": [true, "é"]}}"#));
        let names = |count: usize| (0..count).map(|n| format!(r#""n{n}": {n}, "#)).collect::<String>();
        let text = format!(r#"{{"n7": "first", {}"n3": "last"}}"#, names(40));
        let many = object(&text);
        assert_eq!(many.iter().count(), 40);
        assert_eq!(
            (many.get("n7"), many.get("n3").and_then(Value::as_str)),
            (Some(&Value::Number(7.into())), Some("last"))
        );
    }

    #[test]
    fn members_are_removed_and_inserted() {
        let mut of = object(r#"{"a": 1, "b": -2.5, "c": 18446744073709551615}"#);
        assert_eq!(of.insert("a", Value::Bool(true)), Some(Value::Number(1.into())));
        assert_eq!(of.insert("d".to_owned(), Value::Null), None);
        assert_eq!((of.remove("b"), of.remove("b")), (Number::from_f64(-2.5).map(Value::Number), None));
        of.retain(|value| *value != Value::Null);
        assert_eq!(of, object(r#"{"a": true, "c": 18446744073709551615}"#));
        assert!(of.contains("c") && !of.contains("d") && !of.is_empty());
    }

    #[test]
    fn invalid_or_unrepresentable_text_fails() {
        let deep = |levels| format!("{{\"a\": {}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(Value::read(&deep(DEPTH_MAX - 1)).is_some() && Value::read(&deep(DEPTH_MAX)).is_none());
        assert!(Value::read(&deep(1_000_000)).is_none());
        for text in [
            "",
            "{",
            "{\"a\" 1}",
            "{\"a\": 1,}",
            "[1 2]",
            "{} {}",
            "[1e999]",
            "[-1e999]",
            "[\"\\ud800\"]",
            "{\"\\udc00\": 1}",
            "[18446744073709551616]",
            "[-9223372036854775809]",
            "[01]",
            "[tru]",
        ] {
            assert!(Value::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn values_equal_those_of_serde_json() {
        let text =
            r#" {"a": [true, false, null, -0, 1e300, 12.5, 18446744073709551615, -7], "é\n": "\u00e9\ud83d\ude00/"} "#;
        let read = serde_json::to_value(Value::read(text).unwrap()).unwrap();
        assert_eq!(read, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }
}
