//! Selects, among rules with the same filters, those that can match an event.
//!
//! Each rule is filed under one of its conditions: under the values that pass it, if these can be looked up, else under
//! the condition itself, which is then evaluated once for all rules that begin with it.
//!
//! Invariant: a rule that is left out would neither match nor be a fault. A selected rule is evaluated in full, so the
//! result is that of evaluating every rule.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::budget::{Budget, Exhausted};
use super::condition::{CompiledCondition, Lookup, Scalar};
use super::number::{Exact, Numeric};
use super::path::member;
use super::rule::{Matcher, RuleFault};
use super::view::View;
use crate::event::ViewValue;
use crate::store::Operator;

/// A rule that takes this many steps is followed by a check for cancellation.
const COSTLY_STEPS: u32 = 10_000;

/// The positions of the rules and anomaly configs that can match, in order.
#[derive(Debug, Default)]
pub struct Candidates {
    pub rules: Vec<u32>,
    pub anomalies: Vec<u32>,
    /// The same rules, for each filter key.
    pub(super) selections: Vec<Arc<Selection>>,
}

/// The matching rules of one event, by position and in order, and the faults.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MatchResult {
    pub rules: Vec<u32>,
    pub faults: Vec<(u32, RuleFault)>,
}

/// Rules by their position.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    unconditional: Vec<u32>,
    /// By the names of a plain path.
    nodes: BTreeMap<Box<[Box<str>]>, NodeIndex>,
    /// By the first condition, as it is written.
    beginnings: HashMap<Box<str>, Vec<u32>>,
}

/// Rules by the values of one node that pass a condition of theirs.
#[derive(Clone, Debug, Default)]
struct NodeIndex {
    texts: HashMap<Box<str>, Vec<u32>>,
    numbers: BTreeMap<Exact, Vec<u32>>,
    bools: [Vec<u32>; 2],
    /// Lower bounds; true when the bound itself does not pass.
    above: BTreeMap<(Exact, bool), Vec<u32>>,
    /// Upper bounds; true when the bound itself passes.
    below: BTreeMap<(Exact, bool), Vec<u32>>,
}

impl Selection {
    pub(super) fn add(&mut self, position: u32, matcher: &Matcher) {
        // The conditions before the one that is looked up are skipped, so they must not be able to fault either.
        let lookups = matcher.conditions.iter().map_while(CompiledCondition::lookup);
        // Equality leaves fewer rules than a bound.
        match lookups.min_by_key(|(_, lookup)| matches!(lookup, Lookup::Ordered(..))) {
            Some((names, lookup)) => self.nodes.entry(names.into()).or_default().add(position, lookup),
            None if matcher.conditions.is_empty() => self.unconditional.push(position),
            None => self.beginnings.entry(matcher.begins.clone()).or_default().push(position),
        }
    }

    /// Appends the rules that can match. `first_holds` evaluates the first condition of a rule; `None` stops.
    fn select(
        &self,
        view: &View<'_>,
        selected: &mut Vec<u32>,
        first_holds: impl Fn(u32) -> Option<Result<bool, Exhausted>>,
    ) -> Option<()> {
        selected.extend(&self.unconditional);
        for (names, index) in &self.nodes {
            if let Some(node) = member(view.value(), names) {
                index.select(node, selected);
            }
        }
        for rules in self.beginnings.values() {
            // A fault is one of each rule.
            if rules.len() == 1 || first_holds(rules[0])? != Ok(false) {
                selected.extend(rules);
            }
        }
        Some(())
    }
}

impl NodeIndex {
    fn add(&mut self, position: u32, lookup: Lookup<'_>) {
        match lookup {
            Lookup::Among(values) => {
                for value in values {
                    let rules = match value {
                        Scalar::Text(text) => self.texts.entry(text.into()).or_default(),
                        Scalar::Number(number) => self.numbers.entry(Exact(number)).or_default(),
                        Scalar::Bool(value) => &mut self.bools[usize::from(value)],
                    };
                    rules.push(position);
                }
            }
            Lookup::Ordered(operator, bound) => {
                let (bounds, flag) = match operator {
                    Operator::Gt => (&mut self.above, true),
                    Operator::Gte => (&mut self.above, false),
                    Operator::Lt => (&mut self.below, false),
                    _ => (&mut self.below, true),
                };
                bounds.entry((Exact(bound), flag)).or_default().push(position);
            }
        }
    }

    fn select(&self, node: &ViewValue<'_>, selected: &mut Vec<u32>) {
        match node {
            ViewValue::Text(text) => selected.extend(self.texts.get(&**text).into_iter().flatten()),
            ViewValue::Bool(value) => selected.extend(&self.bools[usize::from(*value)]),
            _ => {
                let Some(number) = Numeric::of_value(node).map(Exact) else { return };
                selected.extend(self.numbers.get(&number).into_iter().flatten());
                selected.extend(self.above.range(..=(number, false)).flat_map(|(_, rules)| rules));
                selected.extend(self.below.range((number, true)..).flat_map(|(_, rules)| rules));
            }
        }
    }
}

impl Candidates {
    /// Evaluates the rules; `None` when stopped. `matcher` returns the rule at a position.
    pub fn matches<'m>(
        &self,
        view: &View<'_>,
        matcher: impl Fn(u32) -> &'m Matcher,
        stopped: impl Fn() -> bool,
    ) -> Option<MatchResult> {
        let unless_stopped = |budget: &Budget| (budget.used() < COSTLY_STEPS || !stopped()).then_some(());
        let first_holds = |position| {
            let mut budget = Budget::full();
            let holds =
                matcher(position).conditions.first().map_or(Ok(true), |first| first.holds(view.value(), &mut budget));
            unless_stopped(&budget).map(|()| holds)
        };
        let mut selected = Vec::new();
        if self.rules.len() == 1 || view.is_large() {
            selected.extend(&self.rules);
        } else {
            for selection in &self.selections {
                selection.select(view, &mut selected, first_holds)?;
            }
            selected.sort_unstable();
            // `in` may name a value twice, as `1` and `1.0`.
            selected.dedup();
        }
        let mut result = MatchResult::default();
        for position in selected {
            let mut budget = Budget::full();
            match matcher(position).matches_within(view, &mut budget) {
                Ok(true) => result.rules.push(position),
                Ok(false) => {}
                Err(fault) => result.faults.push((position, fault)),
            }
            unless_stopped(&budget)?;
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::event::FieldError;

    /// Candidates of two filter keys.
    fn candidates(matchers: &[Matcher]) -> Candidates {
        let mut selections = [Selection::default(), Selection::default()];
        for (position, matcher) in matchers.iter().enumerate() {
            selections[usize::from(position % 3 == 0)].add(position as u32, matcher);
        }
        let rules = (0..matchers.len() as u32).collect();
        Candidates { rules, anomalies: Vec::new(), selections: selections.map(Arc::new).into() }
    }

    fn compile(document: Value) -> Result<Matcher, Vec<FieldError>> {
        Matcher::compile(&serde_json::from_value(document).unwrap())
    }

    /// What the rules give when each is evaluated by itself.
    fn one_by_one(matchers: &[Matcher], view: &View<'_>) -> MatchResult {
        let mut result = MatchResult::default();
        for (position, matcher) in matchers.iter().enumerate() {
            match matcher.matches(view) {
                Ok(true) => result.rules.push(position as u32),
                Ok(false) => {}
                Err(fault) => result.faults.push((position as u32, fault)),
            }
        }
        result
    }

    fn together(matchers: &[Matcher], view: &View<'_>) -> MatchResult {
        candidates(matchers).matches(view, |position| &matchers[position as usize], || false).unwrap()
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let values = vec![
            json!(0),
            json!(-0.0),
            json!(1),
            json!(1.0),
            json!(2.5),
            json!(-3),
            json!(9_007_199_254_740_992i64),
            json!(9_007_199_254_740_993i64),
            json!(9_007_199_254_740_992.0),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
            json!("a"),
            json!("b"),
            json!("1"),
            json!(""),
            json!(true),
            json!(false),
            json!([1, "a"]),
            json!({"c": 1}),
        ];
        prop::sample::select(values)
    }

    fn any_condition() -> impl Strategy<Value = Value> {
        let paths = ["$.a", "$.b", "$['a']", "$.o.c", "$.o", "$.list[*]", "$.list[?@ > 1]", "$..c", "$", "$.none"];
        let operators = ["eq", "eq", "ne", "gt", "gte", "lt", "lte", "contains", "in", "exists", "not_exists", "regex"];
        let condition = (
            prop::sample::select(paths.to_vec()),
            prop::sample::select(operators.to_vec()),
            any_value(),
            prop::collection::vec(prop_oneof![9 => any_value(), 1 => Just(Value::Null)], 0..4),
        );
        condition.prop_map(|(path, operator, value, values)| match operator {
            "exists" | "not_exists" => json!({"path": path, "operator": operator}),
            "in" => json!({"path": path, "operator": operator, "value": values}),
            "regex" => json!({"path": path, "operator": operator, "value": "^(a|1)$"}),
            _ => json!({"path": path, "operator": operator, "value": value}),
        })
    }

    fn any_rule() -> impl Strategy<Value = Option<Matcher>> {
        let expressions = ["", "", "event.app_id == 'a'", "event.custom_event.properties.x > 1"];
        let parts = (prop::collection::vec(any_condition(), 0..4), prop::sample::select(expressions.to_vec()));
        parts.prop_map(|(conditions, expression)| {
            let document = json!({"name": "r", "conditions": conditions, "expression": expression});
            // A bound that is neither a number nor a string is refused.
            compile(document).ok()
        })
    }

    fn any_view() -> impl Strategy<Value = Value> {
        let member = || prop::option::of(prop_oneof![9 => any_value(), 1 => Just(Value::Null)]);
        let list = prop::collection::vec(any_value(), 0..3);
        (member(), member(), member(), list).prop_map(|(a, b, c, list)| {
            let mut view = json!({"app_id": "a", "custom_event": {"properties": {}}, "o": {}, "list": list});
            for (place, name, value) in [("", "a", a), ("", "b", b), ("/o", "c", c)] {
                if let (Some(value), Some(Value::Object(members))) = (value, view.pointer_mut(place)) {
                    members.insert(name.to_owned(), value);
                }
            }
            view
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn selected_rules_give_what_all_rules_give(
            rules in prop::collection::vec(any_rule(), 0..40),
            views in prop::collection::vec(any_view(), 1..6),
        ) {
            let matchers: Vec<Matcher> = rules.into_iter().flatten().collect();
            for view in views {
                let view = View::from(view);
                prop_assert_eq!(together(&matchers, &view), one_by_one(&matchers, &view));
            }
        }
    }

    #[test]
    fn rules_that_share_a_condition_beyond_their_budget_are_faults_each() {
        let rule = |conditions: Value| compile(json!({"name": "r", "conditions": conditions})).unwrap();
        let costly = json!({"path": "$..*..*..*", "operator": "eq", "value": "none"});
        let never = json!({"path": "$.a", "operator": "eq", "value": "none"});
        let matchers = [
            rule(json!([costly])),
            rule(json!([costly])),
            rule(json!([costly, never])),
            rule(json!([never, costly])),
            rule(json!([{"path": "$.a", "operator": "exists"}, costly])),
        ];
        let wide = vec![json!([[1, 2, 3], [4, 5, 6], [[7], [8], [9]]]); 4_000];
        let view = View::from(json!({"a": 1, "wide": wide}));
        let found = together(&matchers, &view);
        assert_eq!(found, one_by_one(&matchers, &view));
        let faults: Vec<u32> = found.faults.iter().map(|(position, _)| *position).collect();
        assert_eq!((found.rules, faults), (vec![], vec![0, 1, 2, 4]));
    }

    #[test]
    fn a_stop_ends_the_evaluation_after_a_costly_condition() {
        let costly = json!({"path": "$..*..*", "operator": "eq", "value": "none"});
        let rule = || compile(json!({"name": "r", "conditions": [costly]})).unwrap();
        let matchers = [rule(), rule(), rule(), rule()];
        let view = View::from(json!({"wide": vec![json!([[1, 2, 3], [4, 5, 6]]); 1_000]}));
        assert_eq!(candidates(&matchers).matches(&view, |position| &matchers[position as usize], || true), None);
    }
}
