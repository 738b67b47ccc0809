//! JSON and YAML documents with unique keys.
//!
//! The usual readers silently keep the last of two equal keys, which is rarely what the author meant.

use std::cell::Cell;
use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Characters of a key that an error quotes.
const KEY_CHARS_MAX: usize = 128;

/// Any value. Reading it fails at the second of two equal keys, and the error names the key.
#[derive(Clone, Debug, PartialEq)]
pub struct UniqueKeys(pub Value);

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        UniqueKeysSeed::with_values_max(usize::MAX).deserialize(deserializer).map(Self)
    }
}

/// Like [`UniqueKeys`], but fails once the document has too many values: two bytes of text can take a hundred times as
/// much memory. Objects, lists and everything in them count.
#[derive(Debug)]
pub struct UniqueKeysSeed {
    values_max: usize,
    read: Cell<usize>,
}

impl UniqueKeysSeed {
    pub fn with_values_max(values_max: usize) -> Self {
        Self { values_max, read: Cell::new(0) }
    }
}

impl<'de> DeserializeSeed<'de> for &UniqueKeysSeed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        if self.read.get() == self.values_max {
            return Err(D::Error::custom(format!("the document must have at most {} values", self.values_max)));
        }
        self.read.set(self.read.get() + 1);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &UniqueKeysSeed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, on: bool) -> Result<Value, E> {
        Ok(on.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Number::from_f64(number).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(element) = elements.next_element_seed(self)? {
            out.push(element);
        }
        Ok(out.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            match out.entry(key) {
                Entry::Occupied(first) => {
                    let shown: String = first.key().chars().take(KEY_CHARS_MAX).collect();
                    return Err(A::Error::custom(format!("the key {shown:?} comes twice")));
                }
                Entry::Vacant(place) => {
                    place.insert(members.next_value_seed(self)?);
                }
            }
        }
        Ok(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_same_as_a_value() {
        let text = r#"{"a": [1, -2, 3.5, "x", true, null, {"b": {}}], "c": 18446744073709551615}"#;
        assert_eq!(serde_json::from_str::<UniqueKeys>(text).unwrap().0, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn reading_stops_at_the_bound() {
        let within = |values_max: usize, text: &str| {
            let mut reader = serde_json::Deserializer::from_str(text);
            UniqueKeysSeed::with_values_max(values_max).deserialize(&mut reader).map_err(|error| error.to_string())
        };
        let text = r#"{"a": [1, {"b": null}], "c": "x"}"#;
        assert_eq!(within(6, text), Ok(serde_json::from_str(text).unwrap()));
        let error = within(5, text).unwrap_err();
        assert!(error.starts_with("the document must have at most 5 values at line 1 column "), "{error}");
        // Nothing after it is read either.
        assert_eq!(within(5, r#"[0,0,0,0,0, no JSON"#).unwrap_err().split(" at ").next(), error.split(" at ").next());
    }

    #[test]
    fn a_duplicate_key_is_named() {
        for text in [r#"{"a": {"name": 1, "name": 1}}"#, r#"[{"name": 1, "b": 2, "n\u0061me": null}]"#] {
            let error = serde_json::from_str::<UniqueKeys>(text).unwrap_err();
            assert!(error.is_data() && error.to_string().starts_with("the key \"name\" comes twice"), "{error}");
        }
    }
}
