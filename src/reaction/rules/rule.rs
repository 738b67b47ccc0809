//! Rules: validated when they are written, compiled when they are loaded.
//!
//! Invariant: a rule that passes [`check_rule`] compiles and names only what an event can have. A compiled rule
//! evaluates every event within a budget; a failure is a fault of that rule and of no other.

use super::actions::check_actions;
use super::budget::{Budget, Exhausted};
use super::condition::CompiledCondition;
use super::expression::{Expression, ExpressionFault};
use super::filters::{EventKinds, check_filters};
use super::pattern::COMPILED_BYTES_MAX;
use super::view::View;
use crate::event::FieldError;
use crate::reaction::name::check_name;
use crate::store::NewRule;

/// Conditions of one rule.
const CONDITIONS_MAX: usize = 64;
/// A compiled rule, matched against events that pass its filters.
#[derive(Debug)]
pub struct Matcher {
    pub(super) conditions: Vec<CompiledCondition>,
    /// The first condition as it is written: rules that begin alike share its evaluation.
    pub(super) begins: Box<str>,
    expression: Option<Expression>,
}

/// Why a rule could not be evaluated on an event. It counts as no match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleFault {
    /// It exceeded the budget of one rule on one event.
    Budget,
    /// The expression cannot be evaluated over the event. Names the failing part, never a value of the event.
    Failed(String),
}

impl RuleFault {
    /// One clause for the author of the rule.
    pub fn describe(&self) -> &str {
        match self {
            Self::Budget => "costs more than one rule may on one event",
            Self::Failed(what) => what,
        }
    }
}

impl From<Exhausted> for RuleFault {
    fn from(_: Exhausted) -> Self {
        Self::Budget
    }
}

impl From<ExpressionFault> for RuleFault {
    fn from(fault: ExpressionFault) -> Self {
        match fault {
            ExpressionFault::Budget => Self::Budget,
            ExpressionFault::Failed(what) => Self::Failed(what.into_owned()),
        }
    }
}

impl Matcher {
    /// Compiles the conditions and the expression. A rule that an earlier version accepted still compiles even if
    /// [`check_rule`] would refuse it now.
    pub fn compile(rule: &NewRule) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut conditions = Vec::with_capacity(rule.conditions.len().min(CONDITIONS_MAX));
        if rule.conditions.len() > CONDITIONS_MAX {
            errors.push(FieldError::new("/conditions", format!("must have at most {CONDITIONS_MAX} elements")));
        }
        for (index, document) in rule.conditions.iter().take(CONDITIONS_MAX).enumerate() {
            match CompiledCondition::compile(document) {
                Ok(compiled) => conditions.push(compiled),
                Err(found) => errors.extend(found.into_iter().map(|e| e.under(&format!("/conditions/{index}")))),
            }
        }
        if conditions.iter().map(CompiledCondition::pattern_bytes).sum::<usize>() > COMPILED_BYTES_MAX {
            let detail = format!("have patterns that compile to more than {COMPILED_BYTES_MAX} bytes together");
            errors.push(FieldError::new("/conditions", detail));
        }
        let begins = rule.conditions.first().and_then(|document| serde_json::to_string(document).ok());
        let begins = begins.unwrap_or_default().into();
        let mut expression = None;
        // Web forms send an empty expression for none.
        if let Some(source) = rule.expression.as_deref().filter(|source| !source.trim().is_empty()) {
            match Expression::compile(source, kinds(rule)) {
                Ok(compiled) => expression = Some(compiled),
                Err(detail) => errors.push(FieldError::new("/expression", detail)),
            }
        }
        if errors.is_empty() { Ok(Self { conditions, begins, expression }) } else { Err(errors) }
    }

    /// Reports the parts that compile but can never hold.
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

    /// Whether all conditions and the expression hold.
    pub fn matches(&self, view: &View<'_>) -> Result<bool, RuleFault> {
        self.matches_within(view, &mut Budget::full())
    }

    pub(in crate::reaction) fn matches_within(&self, view: &View<'_>, budget: &mut Budget) -> Result<bool, RuleFault> {
        if self.conditions.is_empty() && self.expression.is_none() {
            return Ok(true);
        }
        let value = view.value();
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

fn kinds(rule: &NewRule) -> EventKinds<'_> {
    EventKinds::of(&rule.event_category, &rule.event_type)
}

/// Validates a rule. Returns every error; empty when the rule can be stored. The store looks up the webhooks.
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
    use serde_json::{Value, json};

    use super::*;

    fn rule(document: Value) -> NewRule {
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn all_errors_are_reported_together() {
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
        assert_eq!(matcher.matches(&view(99)), Ok(false));
        assert_eq!(matcher.matches(&view(100)), Ok(true));
        assert_eq!(matcher.matches(&view(200)), Ok(false));
    }

    #[test]
    fn an_empty_rule_matches_everything() {
        let matcher = Matcher::compile(&rule(json!({"name": "all", "expression": "  "}))).unwrap();
        assert_eq!(matcher.matches(&View::from(json!({}))), Ok(true));
    }
}
