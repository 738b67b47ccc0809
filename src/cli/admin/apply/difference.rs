//! The differences between two versions of a document, member by member.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::base::json_pointer::escaped;
use crate::store::OWN_MEMBERS;

/// One member that differs. A side without the member is `None`.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Change {
    pub(super) pointer: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) after: Option<Value>,
}

/// The innermost members that differ, with their pointers.
pub(super) fn changes(before: &Value, after: &Value) -> Vec<Change> {
    let mut changes = Vec::new();
    compare(String::new(), Some(&without_own(before)), Some(&without_own(after)), &mut changes);
    changes
}

fn without_own(document: &Value) -> Value {
    let members = document.as_object().into_iter().flatten();
    let members = members.filter(|(name, _)| !OWN_MEMBERS.contains(&name.as_str()));
    members.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
}

fn compare(pointer: String, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    match (before, after) {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
            for name in names {
                let pointer = format!("{pointer}/{}", escaped(name));
                compare(pointer, before.get(name), after.get(name), changes);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() == after.len() => {
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                compare(format!("{pointer}/{index}"), Some(before), Some(after), changes);
            }
        }
        (before, after) if before == after => {}
        (before, after) => changes.push(Change { pointer, before: before.cloned(), after: after.cloned() }),
    }
}

/// One line per side, as in a diff.
pub(super) fn render(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        for (sign, value) in [('-', &change.before), ('+', &change.after)] {
            if let Some(value) = value {
                out.push_str(&format!("  {sign} {}: {value}\n", change.pointer));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_innermost_differences_are_shown() {
        let before = json!({"id": "1", "updated_at": "a", "deliveries_given_up": 0, "priority": 0, "gone": 1, "same": {"a": [1]},
            "conditions": [{"path": "$.a", "value": 1}, {"path": "$.b"}], "actions": {"webhooks": ["x"]}});
        let after = json!({"id": "1", "updated_at": "b", "deliveries_given_up": 2, "priority": 3, "new/er": null, "same": {"a": [1]},
            "conditions": [{"path": "$.a", "value": 2}, {"path": "$.b"}], "actions": {"webhooks": ["x", "y"]}});
        assert_eq!(
            render(&changes(&before, &after)),
            "  - /actions/webhooks: [\"x\"]\n  + /actions/webhooks: [\"x\",\"y\"]\n  - /conditions/0/value: 1\n  \
             + /conditions/0/value: 2\n  - /gone: 1\n  + /new~1er: null\n  - /priority: 0\n  + /priority: 3\n"
        );
        assert_eq!(changes(&before, &before), []);
    }
}
