//! JSON values of messages. Texts are borrowed from the body where they can be, and objects are lists: a message is read
//! once, has few members, and is taken apart right away.
//!
//! Invariant: an object has a name once. Of those that were sent under one name it has the last. Numbers are those that
//! were sent: an integer that a 64-bit one cannot hold is not read unless it is asked for.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::Number;

/// Up to so many members are compared with each other; more of them are sorted.
const COMPARED_MAX: usize = 16;

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

    /// The member of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        self.as_object()?.get(name)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Cow<'a, str>, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.position(name).is_some()
    }

    pub(super) fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.position(name).map(|position| &self.0[position].1)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Value<'a>> {
        self.position(name).map(|position| &mut self.0[position].1)
    }

    /// Gives a member another value, or adds it; the value that it had.
    pub(super) fn insert(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) -> Option<Value<'a>> {
        let name = name.into();
        if let Some(old) = self.get_mut(&name) {
            return Some(std::mem::replace(old, value));
        }
        self.0.push((name, value));
        None
    }

    pub(super) fn remove(&mut self, name: &str) -> Option<Value<'a>> {
        self.position(name).map(|position| self.0.remove(position).1)
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Value<'a>) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|(own, _)| own == name)
    }

    fn of(mut members: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        if members.len() > COMPARED_MAX {
            // Stable: of equal names the last stays last, and first once all is turned round.
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

impl<'a> IntoIterator for Object<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
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

impl<'de> Deserialize<'de> for Value<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Read { rounded: false })
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(Read { rounded: false }))
    }
}

/// From here on a double may stand for an integer that was written out and that it does not hold.
const LARGE: f64 = (1u64 << 63) as f64;

/// How values are read.
#[derive(Clone, Copy)]
pub(super) struct Read {
    /// Numbers of 64 bits and more are taken as what a double makes of them.
    pub(super) rounded: bool,
}

impl<'de> DeserializeSeed<'de> for Read {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Read {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, is: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(is))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Value<'de>, E> {
        Ok(Value::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Value<'de>, E> {
        if number.abs() >= LARGE && !self.rounded {
            return Err(E::custom("the number may be an integer that is too large"));
        }
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::String(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value<'de>, A::Error> {
        let mut array = Vec::new();
        while let Some(element) = elements.next_element_seed(self)? {
            array.push(element);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Value<'de>, A::Error> {
        ObjectVisitor(self).visit_map(members).map(Value::Object)
    }
}

struct ObjectVisitor(Read);

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Object<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(Name(name)) = members.next_key()? {
            list.push((name, members.next_value_seed(self.0)?));
        }
        Ok(Object::of(list))
    }
}

/// The name of a member.
pub(super) struct Name<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl<'de> Visitor<'de> for NameVisitor {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(text.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(text: &str) -> Object<'_> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_last_of_a_name_counts() {
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
    fn members_are_taken_and_put() {
        let mut of = object(r#"{"a": 1, "b": -2.5, "c": 18446744073709551615}"#);
        assert_eq!(of.insert("a", Value::Bool(true)), Some(Value::Number(1.into())));
        assert_eq!(of.insert("d".to_owned(), Value::Null), None);
        assert_eq!((of.remove("b"), of.remove("b")), (Number::from_f64(-2.5).map(Value::Number), None));
        of.retain(|value| *value != Value::Null);
        assert_eq!(of, object(r#"{"a": true, "c": 18446744073709551615}"#));
        assert!(of.contains("c") && !of.contains("d") && !of.is_empty());
    }

    #[test]
    fn what_is_no_json_or_too_deep_is_refused() {
        for text in
            ["", "{", "[1]", "{\"a\": 1e999}", "{\"a\": \"\\ud800\"}", "{\"a\" 1}", "{\"a\": -18446744073709551615}"]
        {
            assert!(serde_json::from_str::<Object<'_>>(text).is_err(), "{text}");
        }
        let deep = format!("{{\"a\": {}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(serde_json::from_str::<Object<'_>>(&deep).is_err());
    }
}
