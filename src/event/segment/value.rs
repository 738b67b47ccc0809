//! Converts JSON values to `properties` and to typed fields.
//!
//! Invariant: a value leaves the properties only if the typed field represents all of it.

use serde_json::Number;

use super::json::{Object, Value};
use crate::event::codec::decimal::EXACT_ABOVE;
use crate::event::codec::struct_writer::StructWriter;
use crate::event::schema::limits::TEXT_BYTES_MAX;
use crate::event::schema::pattern::{Pattern, has_control};

/// Takes the first of these members that is text, or a number as text.
pub(super) fn text(object: &mut Object<'_>, names: &[&str]) -> String {
    match names.iter().find_map(|name| object.remove_if(name, |value| is_text(Some(value)))) {
        Some(Value::String(text)) => text.into_owned(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

/// Whether a value is non-empty text, or a number.
pub(super) fn is_text(value: Option<&Value<'_>>) -> bool {
    match value {
        Some(Value::String(text)) => !text.is_empty(),
        Some(Value::Number(_)) => true,
        _ => false,
    }
}

/// Takes a valid currency code. An invalid one stays.
pub(super) fn currency(object: &mut Object<'_>) -> String {
    const NAME: &str = "currency";
    let is_code =
        object.get(NAME).and_then(Value::as_str).is_some_and(|code| Pattern::Currency.allows(code.as_bytes()));
    if is_code { text(object, &[NAME]) } else { String::new() }
}

/// Takes the first of these members that is an integer from 0 to `max`.
pub(super) fn whole(object: &mut Object<'_>, names: &[&str], max: i64) -> Option<i64> {
    let read = |value: &Value<'_>| match value {
        Value::Number(number) => number.as_i64(),
        // Only if it formats to the same text.
        Value::String(text) => text.parse().ok().filter(|number: &i64| number.to_string() == **text),
        _ => None,
    };
    names.iter().find_map(|name| {
        let number = object.get(name).and_then(read).filter(|number| (0..=max).contains(number))?;
        object.remove(name);
        Some(number)
    })
}

pub(super) fn count(object: &mut Object<'_>, names: &[&str]) -> i32 {
    whole(object, names, i32::MAX.into()).and_then(|count| i32::try_from(count).ok()).unwrap_or_default()
}

/// An amount of money in hundredths of its unit. It stays in the properties unless it is a whole number of hundredths.
pub(super) fn cents(object: &mut Object<'_>, names: &[&str]) -> i64 {
    let read = |value: &Value<'_>| match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let exact = 2f64.powi(53);
    for name in names {
        let Some(amount) = object.get(name).and_then(read) else { continue };
        let (cents, rounded) = (amount * 100.0, (amount * 100.0).round());
        if !(0.0..=exact).contains(&rounded) {
            continue;
        }
        if (cents - rounded).abs() < 1e-6 * rounded.max(1.0) {
            object.remove(name);
        }
        return rounded as i64;
    }
    0
}

/// Encodes the members of an object as those of `properties`. `None` if they exceed a limit: every rule of
/// `validate::Properties` is enforced here.
pub(super) fn properties(
    object: &Object<'_>,
    values_max: usize,
    depth_max: usize,
    key_bytes_max: usize,
) -> Option<Vec<u8>> {
    let mut members = Vec::with_capacity(MEMBERS_BYTES);
    let mut limits = Limits { values: values_max, key_bytes_max };
    limits.object(object, depth_max, &mut StructWriter::new(&mut members))?;
    Some(members)
}

/// Initial capacity, enough for most messages.
const MEMBERS_BYTES: usize = 512;

struct Limits {
    values: usize,
    key_bytes_max: usize,
}

impl Limits {
    fn object(&mut self, object: &Object<'_>, depth: usize, writer: &mut StructWriter<'_>) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        for (key, value) in object.iter() {
            if key.len() > self.key_bytes_max || has_control(key.as_bytes()) {
                return None;
            }
            let member = writer.begin_member(key);
            self.value(value, depth, writer)?;
            writer.end_member(member);
        }
        Some(())
    }

    fn value(&mut self, value: &Value<'_>, depth: usize, writer: &mut StructWriter<'_>) -> Option<()> {
        self.values = self.values.checked_sub(1)?;
        match value {
            Value::Null => writer.null(),
            Value::Bool(is) => writer.bool(*is),
            Value::Number(number) => put_number(number, writer)?,
            Value::String(text) if text.len() > TEXT_BYTES_MAX => return None,
            Value::String(text) => writer.text(text),
            Value::Array(elements) => {
                let depth = depth.checked_sub(1)?;
                let list = writer.begin_list();
                for element in elements {
                    let open = writer.begin_element();
                    self.value(element, depth, writer)?;
                    writer.end(open);
                }
                writer.end(list);
            }
            Value::Object(object) => {
                let open = writer.begin_object();
                self.object(object, depth, writer)?;
                writer.end(open);
            }
        }
        Some(())
    }
}

/// An integer that a double cannot represent becomes text, as in the other protocols.
fn put_number(number: &Number, writer: &mut StructWriter<'_>) -> Option<()> {
    let integer = number.as_i64().map(i64::unsigned_abs).or_else(|| number.as_u64());
    match integer {
        Some(EXACT_ABOVE..) => writer.text(&number.to_string()),
        _ => writer.number(number.as_f64()?),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use pbjson_types::Struct;
    use prost::Message as _;
    use serde_json::json;

    use super::super::json::object;
    use super::*;
    use crate::event::codec::struct_writer::put_payload;
    use crate::event::codec::wire::Reader;
    use crate::event::intake::field_error::{Errors, Path};
    use crate::event::intake::validate::{Unchecked, check_message};
    use crate::event::proto::CustomEvent;
    use crate::event::proto::event_envelope::Payload;
    use crate::event::schema::tables::Kind;
    use crate::event::{KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};

    #[test]
    fn money_is_read_in_hundredths_and_kept_if_inexact() {
        for (amount, expected, left) in [
            (json!(19.99), 1_999, 0),
            (json!("19.99"), 1_999, 0),
            (json!(0.1), 10, 0),
            (json!(1_000_000.07), 100_000_007, 0),
            (json!(25), 2_500, 0),
            (json!(19.999), 2_000, 1),
            (json!(-5), 0, 1),
            (json!("free"), 0, 1),
            (json!(1e15), 0, 1),
            (json!(null), 0, 1),
        ] {
            let text = json!({"price": amount}).to_string();
            let mut of = object(&text);
            assert_eq!((cents(&mut of, &["price"]), of.iter().count()), (expected, left), "{amount}");
        }
        let mut of = object(r#"{"total": "n/a", "revenue": 5.5}"#);
        assert_eq!(cents(&mut of, &["total", "revenue"]), 550);
        assert_eq!(of, object(r#"{"total": "n/a"}"#));
    }

    #[test]
    fn numbers_and_texts_are_taken_where_they_fit() {
        let mut of = object(r#"{"a": 7, "b": "7", "c": 7.5, "d": -1, "e": 3000000000, "f": [1], "g": true}"#);
        assert_eq!((count(&mut of, &["a"]), count(&mut of, &["b"])), (7, 7));
        for name in [&["c"] as &[&str], &["d"], &["e"], &["f"], &["g"]] {
            assert_eq!(count(&mut of, name), 0);
        }
        assert_eq!((text(&mut of, &["x", "c"]), text(&mut of, &["f"])), ("7.5".to_owned(), String::new()));
        assert_eq!(of.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["d", "e", "f", "g"]);
    }

    #[test]
    fn invalid_values_stay_in_the_properties() {
        for value in [r#""USD ""#, r#""EURO""#, r#""€""#, r#""US Dollar""#, "840", r#""""#, "null", r#"["USD"]"#] {
            let text = format!(r#"{{"currency": {value}}}"#);
            let mut of = object(&text);
            assert_eq!((currency(&mut of), of), (String::new(), object(&text)));
        }
        let mut of = object(r#"{"currency": "usd", "a": "007", "b": "+7", "c": "", "d": "d"}"#);
        assert_eq!((currency(&mut of), text(&mut of, &["c", "d"])), ("usd".to_owned(), "d".to_owned()));
        assert_eq!((count(&mut of, &["a"]), count(&mut of, &["b"])), (0, 0));
        assert_eq!(of, object(r#"{"a": "007", "b": "+7", "c": ""}"#));
    }

    #[test]
    fn integers_are_exact() {
        let of = r#"{"a": 9007199254740992, "b": 9007199254740993, "c": -9007199254740993, "d": 18446744073709551615}"#;
        let whole = Struct::decode(&*properties(&object(of), 9, 9, 8).unwrap_or_default()).unwrap();
        let expected = json!({"a": 9007199254740992.0, "b": "9007199254740993", "c": "-9007199254740993",
            "d": "18446744073709551615"});
        assert_eq!(serde_json::to_value(&whole).unwrap(), expected);
    }

    #[test]
    fn properties_keep_to_the_limits() {
        let of = |text: &str, values, depth| properties(&object(text), values, depth, 8);
        let nested = r#"{"a": [1, {"b": null}], "c": "x"}"#;
        let whole = Struct::decode(&*of(nested, 5, 3).unwrap()).unwrap();
        assert_eq!(serde_json::to_value(&whole).unwrap(), json!({"a": [1.0, {"b": null}], "c": "x"}));
        assert!(of(nested, 4, 3).is_none() && of(nested, 5, 2).is_none());
        assert!(of(r#"{"123456789": 1}"#, 5, 3).is_none() && of(r#"{"a\n": 1}"#, 5, 3).is_none());
    }

    #[test]
    fn encoded_properties_need_no_second_check() {
        let written = |of: &Object<'_>| properties(of, PROPERTIES_VALUES_MAX, PROPERTIES_DEPTH_MAX, KEY_BYTES_MAX);
        let of = |members: Vec<(String, Value<'static>)>| {
            let mut object = Object::default();
            members.into_iter().for_each(|(name, value)| _ = object.insert(name, value));
            object
        };
        let text = |length: usize| Value::String("x".repeat(length).into());
        let deep = |levels: usize| (0..levels).fold(Value::Null, |inner, _| Value::Array(vec![inner]));
        let many = |count: usize| of((0..count).map(|n| (n.to_string(), Value::Null)).collect());
        for (allowed, refused) in [
            (
                of(vec![("k".repeat(KEY_BYTES_MAX), Value::Null)]),
                of(vec![("k".repeat(KEY_BYTES_MAX + 1), Value::Null)]),
            ),
            (of(vec![("a".into(), text(TEXT_BYTES_MAX))]), of(vec![("a".into(), text(TEXT_BYTES_MAX + 1))])),
            (
                of(vec![("a".into(), deep(PROPERTIES_DEPTH_MAX - 1))]),
                of(vec![("a".into(), deep(PROPERTIES_DEPTH_MAX))]),
            ),
            (many(PROPERTIES_VALUES_MAX), many(PROPERTIES_VALUES_MAX + 1)),
        ] {
            let members = written(&allowed).expect("it is allowed");
            let payload = Payload::CustomEvent(CustomEvent { event_name: "e".into(), ..CustomEvent::default() });
            let mut event = Vec::new();
            put_payload(&mut event, &payload, &members);
            let (_, body) = Reader::new(&event).next().unwrap().unwrap();
            let mut errors = Errors::default();
            let message = Kind::of(&payload).message;
            check_message(message, body.bytes().unwrap(), Unchecked::All, &Path::Root, &mut errors);
            assert!(errors.is_empty());
            assert!(written(&refused).is_none());
        }
    }
}
