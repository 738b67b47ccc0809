//! Rules: checked when they are written, compiled when they are loaded.
//!
//! Invariant: a rule that [`check_rule`] lets through compiles, and compiled it answers every
//! event without an error.

use serde_json::Value;

use super::condition;
use super::expression::{Expression, Fault};
use super::subjects::Template;
use super::view::View;
use crate::event::FieldError;
use crate::metrics;
use crate::store::{Actions, NewRule};

/// Characters of a name.
pub(super) const NAME_CHARS_MAX: usize = 128;
/// Bytes of an `app_id`, `event_category` or `event_type` filter.
const FILTER_BYTES_MAX: usize = 256;
/// Conditions of one rule.
const CONDITIONS_MAX: usize = 64;
/// Webhooks of one rule or anomaly config.
const WEBHOOKS_MAX: usize = 32;
/// Subjects of one rule or anomaly config.
const SUBJECTS_MAX: usize = 16;

/// A compiled rule: what it asks of an event that its filters let through.
#[derive(Debug)]
pub struct Matcher {
    conditions: Vec<condition::Compiled>,
    expression: Option<Expression>,
}

impl Matcher {
    /// Compiles the conditions and the expression.
    pub fn compile(rule: &NewRule) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut conditions = Vec::with_capacity(rule.conditions.len().min(CONDITIONS_MAX));
        if rule.conditions.len() > CONDITIONS_MAX {
            errors.push(FieldError::new("/conditions", format!("must have at most {CONDITIONS_MAX} elements")));
        }
        for (index, document) in rule.conditions.iter().take(CONDITIONS_MAX).enumerate() {
            match condition::Compiled::compile(document) {
                Ok(compiled) => conditions.push(compiled),
                Err(found) => errors.extend(found.into_iter().map(|e| e.under(&format!("/conditions/{index}")))),
            }
        }
        let mut expression = None;
        // An empty expression is how a form says that there is none.
        if let Some(source) = rule.expression.as_deref().filter(|source| !source.trim().is_empty()) {
            match Expression::compile(source) {
                Ok(compiled) => expression = Some(compiled),
                Err(detail) => errors.push(FieldError::new("/expression", detail)),
            }
        }
        if errors.is_empty() { Ok(Self { conditions, expression }) } else { Err(errors) }
    }

    /// All conditions and the expression hold.
    pub fn matches(&self, view: &View<'_>) -> bool {
        if self.conditions.is_empty() && self.expression.is_none() {
            return true;
        }
        let value: &Value = view.value();
        if !self.conditions.iter().all(|condition| condition.holds(value)) {
            return false;
        }
        let Some(expression) = &self.expression else { return true };
        match expression.evaluate(view.scope()) {
            Ok(verdict) => verdict,
            Err(fault) => {
                metrics::reaction_expression_faults(match fault {
                    Fault::Failed => "failed",
                    Fault::NotBool => "not_bool",
                });
                false
            }
        }
    }
}

/// Everything that is wrong with a rule; empty when it can be stored. Webhooks are looked up
/// by the store.
pub fn check_rule(rule: &NewRule) -> Vec<FieldError> {
    let mut errors = check_names(&rule.name, &rule.app_id, &rule.event_category, &rule.event_type);
    errors.extend(Matcher::compile(rule).err().unwrap_or_default());
    errors.extend(check_actions(&rule.actions));
    errors
}

pub(super) fn check_names(
    name: &str,
    app_id: &Option<String>,
    category: &Option<String>,
    event_type: &Option<String>,
) -> Vec<FieldError> {
    let mut errors = Vec::from_iter(check_name(name));
    for (pointer, filter) in [("/app_id", app_id), ("/event_category", category), ("/event_type", event_type)] {
        if filter.as_ref().is_some_and(|text| text.is_empty() || text.len() > FILTER_BYTES_MAX) {
            errors.push(FieldError::new(pointer, format!("must be null or from 1 to {FILTER_BYTES_MAX} bytes long")));
        }
    }
    errors
}

pub(super) fn check_name(name: &str) -> Option<FieldError> {
    let fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    let clean = name.trim() == name && !name.chars().any(char::is_control);
    let detail = format!("must be from 1 to {NAME_CHARS_MAX} characters, without control characters or outer spaces");
    (!fits || !clean).then(|| FieldError::new("/name", detail))
}

pub(super) fn check_actions(actions: &Actions) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (pointer, length, max) in [
        ("/actions/webhooks", actions.webhooks.len(), WEBHOOKS_MAX),
        ("/actions/publish_subjects", actions.publish_subjects.len(), SUBJECTS_MAX),
    ] {
        if length > max {
            errors.push(FieldError::new(pointer, format!("must have at most {max} elements")));
        }
    }
    for (index, source) in actions.publish_subjects.iter().take(SUBJECTS_MAX).enumerate() {
        if let Err(detail) = Template::compile(source) {
            errors.push(FieldError::new(format!("/actions/publish_subjects/{index}"), detail));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(document: Value) -> NewRule {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn names_everything_that_is_wrong_at_once() {
        let errors = check_rule(&rule(json!({
            "name": " x", "app_id": "", "event_type": "t".repeat(FILTER_BYTES_MAX + 1),
            "conditions": [
                {"path": "$.a", "operator": "exists"},
                {"path": "a", "operator": "eq", "value": 1},
                {"path": "$.a", "operator": "regex", "value": "("},
            ],
            "expression": "event.",
            "actions": {"webhooks": vec!["w"; 33], "publish_subjects": ["ok.{type}", "events.x"]},
        })));
        let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(
            pointers,
            [
                "/name",
                "/app_id",
                "/event_type",
                "/conditions/1/path",
                "/conditions/2/value",
                "/expression",
                "/actions/webhooks",
                "/actions/publish_subjects/1"
            ]
        );
        let many = vec![json!({"path": "$.a", "operator": "exists"}); CONDITIONS_MAX + 1];
        assert_eq!(check_rule(&rule(json!({"name": "x", "conditions": many})))[0].pointer, "/conditions");
    }

    #[test]
    fn conditions_and_expression_must_all_hold() {
        let view = |cents: i64| View::from(json!({"app_id": "a", "purchase_complete": {"total_cents": cents}}));
        let both = rule(json!({
            "name": "both",
            "conditions": [{"path": "$.purchase_complete.total_cents", "operator": "gte", "value": 100},
                           {"path": "$.app_id", "operator": "eq", "value": "a"}],
            "expression": "event.purchase_complete.total_cents < 200",
        }));
        assert_eq!(check_rule(&both), []);
        let matcher = Matcher::compile(&both).unwrap();
        assert!(!matcher.matches(&view(99)));
        assert!(matcher.matches(&view(100)));
        assert!(!matcher.matches(&view(200)));
    }

    #[test]
    fn nothing_asked_is_everything_matched() {
        let matcher = Matcher::compile(&rule(json!({"name": "all", "expression": "  "}))).unwrap();
        assert!(matcher.matches(&View::from(json!({}))));
    }
}
