//! Rules: checked when they are written, compiled when they are loaded.
//!
//! Invariant: a rule that [`check_rule`] lets through compiles, and names nothing that no event has. Compiled it
//! judges every event within a budget; what it cannot judge is a fault of that rule and of no other.

use serde_json::Value;

use super::actions::check_actions;
use super::budget::{Budget, Exhausted};
use super::condition;
use super::expression::{self, Expression};
use super::filters::{Kinds, check_filters};
use super::pattern::COMPILED_BYTES_MAX;
use super::view::View;
use crate::event::FieldError;
use crate::reaction::name::check_name;
use crate::store::NewRule;

/// Conditions of one rule.
const CONDITIONS_MAX: usize = 64;
/// A compiled rule: what it asks of an event that its filters let through.
#[derive(Debug)]
pub struct Matcher {
    conditions: Vec<condition::Compiled>,
    expression: Option<Expression>,
}

/// Why a rule gave no verdict on an event; that counts as no match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It would have cost more than one rule may on one event.
    Budget,
    /// The expression cannot be evaluated over the event. Says what of it, without a value of the event.
    Failed(String),
}

impl Fault {
    /// One clause, for the person who wrote the rule.
    pub fn describe(&self) -> &str {
        match self {
            Self::Budget => "costs more than one rule may on one event",
            Self::Failed(what) => what,
        }
    }
}

impl From<Exhausted> for Fault {
    fn from(_: Exhausted) -> Self {
        Self::Budget
    }
}

impl From<expression::Fault> for Fault {
    fn from(fault: expression::Fault) -> Self {
        match fault {
            expression::Fault::Budget => Self::Budget,
            expression::Fault::Failed(what) => Self::Failed(what.into_owned()),
        }
    }
}

impl Matcher {
    /// Compiles the conditions and the expression. A rule that an earlier version took compiles although
    /// [`check_rule`] would refuse it now.
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
        if conditions.iter().map(condition::Compiled::pattern_bytes).sum::<usize>() > COMPILED_BYTES_MAX {
            let detail = format!("have patterns that compile to more than {COMPILED_BYTES_MAX} bytes together");
            errors.push(FieldError::new("/conditions", detail));
        }
        let mut expression = None;
        // An empty expression is how a form says that there is none.
        if let Some(source) = rule.expression.as_deref().filter(|source| !source.trim().is_empty()) {
            match Expression::compile(source, kinds(rule)) {
                Ok(compiled) => expression = Some(compiled),
                Err(detail) => errors.push(FieldError::new("/expression", detail)),
            }
        }
        if errors.is_empty() { Ok(Self { conditions, expression }) } else { Err(errors) }
    }

    /// What compiles and yet can never hold.
    pub(in crate::reaction) fn check(&self, rule: &NewRule) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, (compiled, document)) in self.conditions.iter().zip(&rule.conditions).enumerate() {
            let found = compiled.check(document, kinds(rule));
            errors.extend(found.into_iter().map(|error| error.under(&format!("/conditions/{index}"))));
        }
        let problems = self.expression.iter().flat_map(|expression| &expression.problems);
        errors.extend(problems.map(|problem| FieldError::new("/expression", problem.as_str())));
        errors
    }

    /// All conditions and the expression hold.
    pub fn judge(&self, view: &View<'_>) -> Result<bool, Fault> {
        self.judge_within(view, &mut Budget::full())
    }

    pub(in crate::reaction) fn judge_within(&self, view: &View<'_>, budget: &mut Budget) -> Result<bool, Fault> {
        if self.conditions.is_empty() && self.expression.is_none() {
            return Ok(true);
        }
        let value: &Value = view.value();
        for condition in &self.conditions {
            if !condition.holds(value, budget)? {
                return Ok(false);
            }
        }
        match &self.expression {
            Some(expression) => Ok(expression.evaluate(value, budget)?),
            None => Ok(true),
        }
    }
}

fn kinds(rule: &NewRule) -> Kinds<'_> {
    Kinds::of(&rule.event_category, &rule.event_type)
}

/// Everything that is wrong with a rule; empty when it can be stored. Webhooks are looked up
/// by the store.
pub fn check_rule(rule: &NewRule) -> Vec<FieldError> {
    let mut errors = Vec::from_iter(check_name(&rule.name));
    errors.extend(check_filters(&rule.app_id, &rule.event_category, &rule.event_type));
    match Matcher::compile(rule) {
        Ok(matcher) => errors.extend(matcher.check(rule)),
        Err(found) => errors.extend(found),
    }
    errors.extend(check_actions(&rule.actions));
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
            "name": " x", "app_id": "", "event_type": "t".repeat(300),
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
        let large = vec![json!({"path": "$.app_id", "operator": "regex", "value": r"\w{20}"}); 9];
        let error = check_rule(&rule(json!({"name": "x", "conditions": large}))).remove(0);
        assert!(error.pointer == "/conditions" && error.detail.contains("compile to more than"), "{error}");
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
        assert_eq!(matcher.judge(&view(99)), Ok(false));
        assert_eq!(matcher.judge(&view(100)), Ok(true));
        assert_eq!(matcher.judge(&view(200)), Ok(false));
    }

    #[test]
    fn nothing_asked_is_everything_matched() {
        let matcher = Matcher::compile(&rule(json!({"name": "all", "expression": "  "}))).unwrap();
        assert_eq!(matcher.judge(&View::from(json!({}))), Ok(true));
    }
}
