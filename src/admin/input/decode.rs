//! Decodes a document so that all its mistakes are found together.
//!
//! serde stops at the first mistake. So each mistake is recorded and replaced in the document by a value that fits,
//! until the rest has been decoded too.
//!
//! Invariant: a document with a mistake is never stored, and a replacement value is never checked.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use crate::base::json_pointer::escaped;
use crate::base::nearest::nearest;
use crate::event::FieldError;

/// Repairs of one document; one with more mistakes reports the first ones.
const REPAIRS_MAX: usize = 64;
/// Repairs of one place: an absent member becomes null, null becomes a string, a string becomes one of a few words.
const REPAIRS_PER_PLACE_MAX: usize = 4;
/// Members, and the sibling members that cannot be checked without them.
const DEPENDENTS: [(&str, &[&str]); 4] = [
    ("operator", &["value"]),
    ("path", &["operator", "value"]),
    ("detection_type", &["config"]),
    ("auth_type", &["auth_config"]),
];

/// The part of a document that could be decoded, and its errors.
pub(in crate::admin) struct Decoded<T> {
    document: Option<T>,
    errors: Vec<FieldError>,
    /// Pointers to values that are not what the author meant.
    unknown: Vec<String>,
}

impl<T> Decoded<T> {
    /// The document if it has no errors.
    pub(in crate::admin) fn into_result(self) -> Result<T, Vec<FieldError>> {
        match self.document {
            Some(document) if self.errors.is_empty() => Ok(document),
            _ => Err(self.errors),
        }
    }

    /// The document with all its errors; it may contain replacement values.
    pub(in crate::admin) fn into_parts(self) -> (Option<T>, Vec<FieldError>) {
        (self.document, self.errors)
    }

    /// Converts the document and adds the errors of the conversion.
    pub(in crate::admin) fn map<U>(mut self, make: impl FnOnce(T) -> (U, Vec<FieldError>)) -> Decoded<U> {
        let document = self.document.take().map(|document| {
            let (made, found) = make(document);
            self.record(found);
            made
        });
        Decoded { document, errors: self.errors, unknown: self.unknown }
    }

    /// Adds the errors of a check of the part that could be decoded.
    pub(in crate::admin) fn check(mut self, check: impl FnOnce(&T) -> Vec<FieldError>) -> Self {
        let found = self.document.as_ref().map(check).unwrap_or_default();
        self.record(found);
        self
    }

    fn record(&mut self, found: Vec<FieldError>) {
        let follows = |error: &FieldError| self.unknown.iter().any(|unknown| is_at_or_under(&error.pointer, unknown));
        let found: Vec<_> = found.into_iter().filter(|error| !follows(error)).collect();
        // Later checks must not report the same places again.
        self.unknown.extend(found.iter().map(|error| error.pointer.clone()).filter(|pointer| !pointer.is_empty()));
        self.errors.extend(found);
    }
}

/// Decodes a document, repairing mistakes to find them all.
pub(in crate::admin) fn decode<T: DeserializeOwned>(mut document: Value) -> Decoded<T> {
    let mut repairs = Repairs::default();
    repairs.repair_lists(&mut document);
    for _ in 0..REPAIRS_MAX {
        let error = match serde_path_to_error::deserialize(&document) {
            Ok(read) => return repairs.decoded(Some(read)),
            Err(error) => error,
        };
        if !repairs.repair(&mut document, pointer(error.path()), &error.inner().to_string()) {
            break;
        }
    }
    repairs.decoded(None)
}

#[derive(Default)]
struct Repairs {
    errors: Vec<FieldError>,
    /// Pointers to replacement values.
    repaired: Vec<String>,
    /// Pointers to values that fit but may not be what the author meant.
    doubtful: Vec<String>,
    /// Repairs per place.
    times: HashMap<String, usize>,
}

impl Repairs {
    fn decoded<T>(self, document: Option<T>) -> Decoded<T> {
        let unknown = self.repaired.into_iter().chain(self.doubtful).collect();
        Decoded { document, errors: self.errors, unknown }
    }

    /// Records a mistake, unless it follows from another one.
    fn record(&mut self, pointer: &str, detail: impl Into<String>) {
        if self.repaired.iter().any(|repaired| is_at_or_under(pointer, repaired)) {
            return;
        }
        self.errors.push(FieldError::new(pointer, detail));
        self.repaired.push(pointer.to_owned());
        let Some((parent, name)) = pointer.rsplit_once('/') else { return };
        let dependents = DEPENDENTS.iter().find(|(member, _)| *member == name).map_or(&[][..], |(_, all)| all);
        self.doubtful.extend(dependents.iter().map(|dependent| format!("{parent}/{dependent}")));
    }

    /// serde accepts an array for the fields of a struct in order, which no author means.
    fn repair_lists(&mut self, document: &mut Value) {
        let conditions = document.get("conditions").and_then(Value::as_array).map_or(0, Vec::len);
        let conditions = (0..conditions).map(|index| format!("/conditions/{index}"));
        let places = [String::new(), "/actions".to_owned(), "/auth_config".to_owned()].into_iter().chain(conditions);
        for place in places.collect::<Vec<_>>() {
            if let Some(value) = document.pointer_mut(&place).filter(|value| value.is_array()) {
                *value = Value::Object(Map::new());
                self.record(&place, "must be an object");
            }
        }
    }

    /// Whether decoding again may get further.
    fn repair(&mut self, document: &mut Value, pointer: String, message: &str) -> bool {
        let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
        if message.starts_with("unknown field") {
            return self.remove_unknown(document, &pointer, expected.unwrap_or_default());
        }
        let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        let (pointer, replacement) = match missing {
            Some(field) => (format!("{pointer}/{}", escaped(field)), Some(Value::Null)),
            None => (pointer, expected.and_then(replacement)),
        };
        match missing {
            Some(_) => self.record(&pointer, "is required"),
            None => self.record(&pointer, reworded(message, expected)),
        }
        let times = self.times.entry(pointer.clone()).or_default();
        *times += 1;
        // Nothing can be said about a document that is not an object.
        !pointer.is_empty()
            && *times <= REPAIRS_PER_PLACE_MAX
            && replacement.is_some_and(|replacement| put(document, &pointer, replacement))
    }

    /// Removes every member that the object cannot have.
    fn remove_unknown(&mut self, document: &mut Value, pointer: &str, expected: &str) -> bool {
        let known: Vec<&str> = quoted(expected).collect();
        let Some((parent, _)) = pointer.rsplit_once('/') else { return false };
        let Some(Value::Object(members)) = document.pointer_mut(parent) else { return false };
        let unknown: Vec<String> = members.keys().filter(|name| !known.contains(&name.as_str())).cloned().collect();
        for name in &unknown {
            members.remove(name);
            let meant = nearest(name, &known);
            let near = meant.map_or_else(String::new, |meant| format!(" (did you mean `{meant}`?)"));
            let fields =
                if known.is_empty() { String::new() } else { format!("; the fields here are {}", listed(expected)) };
            self.record(&format!("{parent}/{}", escaped(name)), format!("is not a known field{near}{fields}"));
            if let Some(meant) = meant {
                self.doubtful.push(format!("{parent}/{meant}"));
            }
        }
        !unknown.is_empty()
    }
}

/// Replaces a value, or adds it as a member.
fn put(document: &mut Value, pointer: &str, value: Value) -> bool {
    if let Some(place) = document.pointer_mut(pointer) {
        *place = value;
        return true;
    }
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let Some(Value::Object(members)) = document.pointer_mut(parent) else { return false };
    members.insert(name.replace("~1", "/").replace("~0", "~"), value);
    true
}

/// A value of the kind that serde expects, by its message.
fn replacement(expected: &str) -> Option<Value> {
    Some(match expected {
        "a string" | "string or map" => Value::from(""),
        "a map" => Value::Object(Map::new()),
        "a sequence" => Value::Array(Vec::new()),
        "a boolean" => Value::Bool(false),
        "i64" | "u64" | "u32" => Value::from(0),
        _ if expected.starts_with("struct ") => Value::Object(Map::new()),
        // The first of a few words.
        _ => Value::from(quoted(expected).next()?),
    })
}

/// The words between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

fn is_at_or_under(pointer: &str, place: &str) -> bool {
    pointer.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// RFC 6901.
pub(in crate::admin) fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", escaped(key))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// The parser's message without the quoted value.
fn reworded(message: &str, expected: Option<&str>) -> String {
    let Some(expected) = expected else { return "is not valid here".to_owned() };
    let wanted = match expected {
        "a map" => "an object",
        "a sequence" => "an array",
        // How serde describes one of a few words.
        "string or map" => "a string",
        "i64" | "u64" | "u32" => "an integer",
        _ if expected.starts_with("struct ") => "an object",
        _ => listed(expected),
    };
    if message.starts_with("unknown variant") {
        format!("must be one of {wanted}")
    } else {
        format!("must be {wanted}")
    }
}

fn listed(expected: &str) -> &str {
    expected.strip_prefix("one of ").unwrap_or(expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{NewAnomalyConfig, NewApiKey, NewRule, WebhookDocument};

    #[test]
    fn errors_have_a_pointer_and_do_not_repeat_the_value() {
        let rule = |document: Value| decode::<NewRule>(document).into_result().unwrap_err().remove(0);
        let cases = [
            (json!({}), "/name", "is required"),
            (json!(["n"]), "", "must be an object"),
            (json!({"name": "n", "actions": [["ops"]]}), "/actions", "must be an object"),
            (
                json!({"name": "n", "conditions": [{"path": "$", "operator": "eq"}, ["$", "eq"]]}),
                "/conditions/1",
                "must be an object",
            ),
            (json!("hunter2, expected hunter2"), "", "must be an object"),
            (json!({"name": 5}), "/name", "must be a string"),
            (
                json!({"name": "n", "prioritty": "hunter2"}),
                "/prioritty",
                "is not a known field (did you mean `priority`?); the fields here are `name`,",
            ),
            (json!({"name": "n", "priority": "hunter2"}), "/priority", "must be an integer"),
            (json!({"name": "n", "actions": {"a/b~c": 1}}), "/actions/a~1b~0c", "is not a known field"),
            (json!({"name": "n", "actions": {"webhooks": ["a", 2]}}), "/actions/webhooks/1", "must be a string"),
            (json!({"name": "n", "conditions": {}}), "/conditions", "must be an array"),
            (
                json!({"name": "n", "conditions": [{"path": "$", "operator": "hunter2"}]}),
                "/conditions/0/operator",
                "must be one of `eq`, `ne`, `gt`",
            ),
            (json!({"name": "n", "conditions": [{"path": "$"}]}), "/conditions/0/operator", "is required"),
        ];
        for (document, pointer, detail) in cases {
            let error = rule(document.clone());
            assert_eq!(error.pointer, pointer, "{document} {error}");
            assert!(error.detail.starts_with(detail), "{document} {error}");
            assert!(!error.detail.contains("hunter2"), "{error}");
        }
        let auth = json!({"name": "n", "url": "u", "auth_config": {"secret": ["hunter2"]}});
        let error = decode::<WebhookDocument>(auth).into_result().err().unwrap().remove(0);
        assert_eq!(error, FieldError::new("/auth_config/secret", "must be a string"));
        let error = decode::<NewApiKey>(json!({"name": "n", "app_id": null})).into_result().unwrap_err().remove(0);
        assert_eq!(error, FieldError::new("/app_id", "must be a string"));
    }

    fn pointers<T: DeserializeOwned>(document: Value) -> Vec<String> {
        let Err(errors) = decode::<T>(document).into_result() else { return Vec::new() };
        assert!(errors.iter().all(|error| !error.detail.contains("hunter2")), "{errors:?}");
        let mut pointers: Vec<_> = errors.into_iter().map(|error| error.pointer).collect();
        pointers.sort_unstable();
        pointers
    }

    #[test]
    fn all_decoding_errors_are_reported_at_every_level() {
        let rule = json!({
            "name": 5, "prioritty": "hunter2", "expresion": "true", "priority": "hunter2", "enabled": "yes", "app_id": [],
            "conditions": [
                {"path": "$.a", "operater": "eq", "valeu": 1},
                {"path": 7, "operator": "hunter2"},
                "hunter2",
                ["$.a", "eq"],
                {"path": "$.a", "operator": 4},
            ],
            "actions": {"webhooks": ["a", 2, 3], "webhoks": [], "publish_subjects": "a"},
        });
        assert_eq!(
            pointers::<NewRule>(rule),
            [
                "/actions/publish_subjects",
                "/actions/webhoks",
                "/actions/webhooks/1",
                "/actions/webhooks/2",
                "/app_id",
                "/conditions/0/operater",
                "/conditions/0/operator",
                "/conditions/0/valeu",
                "/conditions/1/operator",
                "/conditions/1/path",
                "/conditions/2",
                "/conditions/3",
                "/conditions/4/operator",
                "/enabled",
                "/expresion",
                "/name",
                "/prioritty",
                "/priority",
            ]
        );
        let webhook = json!({"urll": "hunter2", "timeout_ms": -1, "headers": {"X-A": 1, "X-B": 2}, "auth_type": "basc",
            "auth_config": {"usrname": "hunter2", "password": 1}});
        assert_eq!(
            pointers::<WebhookDocument>(webhook),
            [
                "/auth_config/password",
                "/auth_config/usrname",
                "/auth_type",
                "/headers/X-A",
                "/headers/X-B",
                "/name",
                "/timeout_ms",
                "/url",
                "/urll"
            ]
        );
        let anomaly = json!({"name": "n", "detection_type": "hunter2", "cooldown_seconds": 1.5, "colour": 1});
        assert_eq!(
            pointers::<NewAnomalyConfig>(anomaly),
            ["/colour", "/config", "/cooldown_seconds", "/detection_type"]
        );
        assert_eq!(pointers::<NewRule>(json!({"name": "n"})), [""; 0]);
        assert_eq!(pointers::<NewRule>(json!(7)), [""]);
    }

    #[test]
    fn a_document_full_of_mistakes_is_answered() {
        let conditions: Vec<Value> = (0..10_000).map(|n| json!({"path": n, "operator": n})).collect();
        let errors = decode::<NewRule>(json!({"name": "n", "conditions": conditions})).into_result().unwrap_err();
        assert!((REPAIRS_MAX / 2..=REPAIRS_MAX).contains(&errors.len()), "{}", errors.len());
    }

    #[test]
    fn replacement_values_are_not_checked() {
        let document =
            json!({"name": "n", "conditions": [{"path": "$", "operator": "eqq", "value": 1}], "expresion": "x"});
        let decoded = decode::<NewRule>(document).check(|rule| {
            assert_eq!((rule.conditions.len(), rule.expression.as_deref()), (1, None));
            let found = ["/conditions/0/operator", "/conditions/0/value", "/expression", "/conditions/0/path", "/name"];
            found.map(|pointer| FieldError::new(pointer, "is wrong")).to_vec()
        });
        let said: Vec<_> = decoded.into_result().unwrap_err().into_iter().map(|error| error.pointer).collect();
        assert_eq!(said, ["/conditions/0/operator", "/expresion", "/conditions/0/path", "/name"]);
    }
}
