//! One condition of a rule: a path, an operator and a value.
//!
//! A path may find several nodes. A condition holds when **any** of them passes, except for `ne` and `not_exists`,
//! which negate `eq` and `exists`.
//!
//! | operator | value | holds when |
//! |---|---|---|
//! | `eq` | any but null | a node equals it: same type, numbers by their value (`1` equals `1.0`), lists and objects member by member |
//! | `ne` | any but null | the path finds something, and no node equals the value; another type is different |
//! | `gt` `gte` `lt` `lte` | number or string | a node of the same type compares so: numbers by their value, strings by their bytes |
//! | `contains` | any but null | a string node has the string value in it, or a list node has an element equal to the value |
//! | `regex` | a pattern | a string node has a match of the pattern anywhere; anchor it with `^` and `$` |
//! | `in` | a list | a node equals one of the elements |
//! | `exists` | none | the path finds something, even null |
//! | `not_exists` | none | the path finds nothing |
//!
//! A node whose type the operator does not apply to never passes. A compiled condition never fails.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::HashSet;

use serde_json::Value;

use super::budget::{Budget, Exhausted};
use super::feasibility::{impossible_comparison, impossible_match};
use super::filters::EventKinds;
use super::number::{Numeric, equal};
use super::path::Path;
use super::pattern::Pattern;
use crate::event::{FieldError, ViewValue};
use crate::store::{Condition, Operator};

/// Elements of the list of an `in` condition.
const CHOICES_MAX: usize = 1_000;

/// A compiled condition.
#[derive(Debug)]
pub(super) struct CompiledCondition {
    path: Path,
    test: Predicate,
}

#[derive(Debug)]
enum Predicate {
    Equal(ViewValue<'static>),
    NotEqual(ViewValue<'static>),
    Ordered(Operator, Bound),
    Contains(ViewValue<'static>),
    Matches(Pattern),
    /// Strings are kept apart, since long lists are lists of strings.
    In(HashSet<Box<str>>, Vec<ViewValue<'static>>),
    Exists,
    NotExists,
}

#[derive(Debug)]
enum Bound {
    Number(Numeric),
    Text(Box<str>),
}

/// The values that pass a condition.
pub(super) enum Lookup<'c> {
    Among(Vec<Scalar<'c>>),
    /// Numbers that compare so with the bound.
    Ordered(Operator, Numeric),
}

pub(super) enum Scalar<'c> {
    Text(&'c str),
    Number(Numeric),
    Bool(bool),
}

impl<'c> Scalar<'c> {
    fn of(value: &'c ViewValue<'_>) -> Option<Self> {
        match value {
            ViewValue::Text(text) => Some(Self::Text(text)),
            ViewValue::Bool(value) => Some(Self::Bool(*value)),
            number => Numeric::of_value(number).map(Self::Number),
        }
    }
}

impl CompiledCondition {
    /// Compiles a condition. The errors' pointers are relative to it.
    pub(super) fn compile(condition: &Condition) -> Result<Self, Vec<FieldError>> {
        let path = Path::compile(&condition.path).map_err(|detail| FieldError::new("/path", detail));
        let test = compile_predicate(condition.operator, condition.value.as_ref())
            .map_err(|detail| FieldError::new("/value", detail));
        match (path, test) {
            (Ok(path), Ok(test)) => Ok(Self { path, test }),
            (path, test) => Err([path.err(), test.err()].into_iter().flatten().collect()),
        }
    }

    pub(super) fn holds(&self, view: &ViewValue<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
        match &self.test {
            Predicate::Equal(value) => self.any(view, budget, |node, budget| equal(node, value, budget)),
            Predicate::NotEqual(value) => {
                let mut found = false;
                let same = self.any(view, budget, |node, budget| {
                    found = true;
                    equal(node, value, budget)
                })?;
                Ok(found && !same)
            }
            Predicate::Ordered(operator, bound) => {
                let passes = match operator {
                    Operator::Gt => Ordering::is_gt,
                    Operator::Gte => Ordering::is_ge,
                    Operator::Lt => Ordering::is_lt,
                    _ => Ordering::is_le,
                };
                self.any(view, budget, |node, budget| Ok(order(node, bound, budget)?.is_some_and(passes)))
            }
            Predicate::Contains(value) => self.any(view, budget, |node, budget| contains(node, value, budget)),
            Predicate::Matches(pattern) => self.any(view, budget, |node, budget| {
                node.as_str().map_or(Ok(false), |text| pattern.is_match(text, budget))
            }),
            Predicate::In(texts, others) => self.any(view, budget, |node, budget| match node {
                ViewValue::Text(text) => {
                    budget.bytes(text.len())?;
                    Ok(texts.contains(&**text))
                }
                _ => any_equal(others, node, budget),
            }),
            Predicate::Exists => self.any(view, budget, |_, _| Ok(true)),
            Predicate::NotExists => self.any(view, budget, |_, _| Ok(true)).map(|found| !found),
        }
    }

    /// What an index can look up: the names of a plain path, and the values of the node there that pass. `None` when
    /// the condition has to be evaluated.
    pub(super) fn lookup(&self) -> Option<(&[Box<str>], Lookup<'_>)> {
        let lookup = match &self.test {
            Predicate::Equal(value) => Lookup::Among(vec![Scalar::of(value)?]),
            Predicate::In(texts, others) => {
                let texts = texts.iter().map(|text| Some(Scalar::Text(text)));
                Lookup::Among(texts.chain(others.iter().map(Scalar::of)).collect::<Option<_>>()?)
            }
            Predicate::Ordered(operator, Bound::Number(bound)) => Lookup::Ordered(*operator, *bound),
            _ => return None,
        };
        Some((self.path.field_names()?, lookup))
    }

    /// The upper bound of its compiled pattern's size.
    pub(super) fn pattern_bytes(&self) -> usize {
        if let Predicate::Matches(pattern) = &self.test { pattern.bytes_max() } else { 0 }
    }

    fn any<'v>(
        &self,
        view: &'v ViewValue<'v>,
        budget: &mut Budget,
        test: impl FnMut(&'v ViewValue<'v>, &mut Budget) -> Result<bool, Exhausted>,
    ) -> Result<bool, Exhausted> {
        Ok(self.path.find(view, budget, test)?.is_some())
    }

    /// Reports why the condition can never hold for events of these kinds. The errors' pointers are relative to the
    /// condition.
    pub(super) fn check(&self, condition: &Condition, kinds: EventKinds<'_>) -> Vec<FieldError> {
        let types = match self.path.check(kinds) {
            Ok(types) => types,
            Err(detail) => return vec![FieldError::new("/path", detail)],
        };
        let of_value = |detail: String| FieldError::new("/value", detail);
        let wrong = match (&self.test, &condition.value) {
            (Predicate::In(..), Some(Value::Array(choices))) if choices.is_empty() => {
                Some(of_value("can never hold: the list has no element".to_owned()))
            }
            (Predicate::In(..), Some(Value::Array(choices))) => {
                let wrong = |(index, choice): (usize, &Value)| {
                    let detail = impossible_comparison(&types, Operator::Eq, choice)?;
                    Some(FieldError::new(format!("/value/{index}"), detail))
                };
                return choices.iter().enumerate().filter_map(wrong).take(WRONG_CHOICES_MAX).collect();
            }
            (Predicate::Matches(pattern), _) => impossible_match(&types, Some(pattern)).map(of_value),
            (_, Some(value)) => impossible_comparison(&types, condition.operator, value).map(of_value),
            (_, None) => None,
        };
        wrong.into_iter().collect()
    }
}

/// Invalid list elements that are reported.
const WRONG_CHOICES_MAX: usize = 8;

fn compile_predicate(operator: Operator, value: Option<&Value>) -> Result<Predicate, String> {
    let given = || value.ok_or_else(|| "is needed by this operator and must not be null".to_owned());
    let bound = || match given()? {
        Value::Number(number) => Ok(Bound::Number(Numeric::of(number))),
        Value::String(text) => Ok(Bound::Text(text.as_str().into())),
        _ => Err("must be a number or a string for this operator".to_owned()),
    };
    let none = |test| if value.is_none() { Ok(test) } else { Err("must be left out for this operator".to_owned()) };
    Ok(match operator {
        Operator::Eq => Predicate::Equal(given()?.clone().into()),
        Operator::Ne => Predicate::NotEqual(given()?.clone().into()),
        Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte => Predicate::Ordered(operator, bound()?),
        Operator::Contains => Predicate::Contains(given()?.clone().into()),
        Operator::Regex => Predicate::Matches(compile_pattern(given()?)?),
        Operator::In => compile_choices(given()?)?,
        Operator::Exists => none(Predicate::Exists)?,
        Operator::NotExists => none(Predicate::NotExists)?,
    })
}

fn compile_pattern(value: &Value) -> Result<Pattern, String> {
    let Value::String(pattern) = value else { return Err("must be a string that holds a regular expression".into()) };
    Pattern::compile(pattern)
}

fn compile_choices(value: &Value) -> Result<Predicate, String> {
    let Value::Array(choices) = value else { return Err("must be a list for this operator".to_owned()) };
    if choices.len() > CHOICES_MAX {
        return Err(format!("must have at most {CHOICES_MAX} elements"));
    }
    let (mut texts, mut others) = (HashSet::new(), Vec::new());
    for choice in choices {
        match choice {
            Value::String(text) => {
                texts.insert(text.as_str().into());
            }
            other => others.push(other.clone().into()),
        }
    }
    Ok(Predicate::In(texts, others))
}

fn order(node: &ViewValue<'_>, bound: &Bound, budget: &mut Budget) -> Result<Option<Ordering>, Exhausted> {
    Ok(match (node, bound) {
        (node, Bound::Number(bound)) => Numeric::of_value(node).and_then(|number| number.compare(*bound)),
        (ViewValue::Text(text), Bound::Text(bound)) => {
            budget.bytes(text.len().min(bound.len()))?;
            Some((**text).cmp(bound))
        }
        _ => None,
    })
}

fn contains(node: &ViewValue<'_>, value: &ViewValue<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
    match (node, value) {
        (ViewValue::Text(text), ViewValue::Text(part)) => {
            budget.bytes(text.len() + part.len())?;
            Ok(text.contains(&**part))
        }
        (ViewValue::List(elements), _) => any_equal(elements, value, budget),
        _ => Ok(false),
    }
}

fn any_equal(values: &[ViewValue<'_>], value: &ViewValue<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
    for other in values {
        if equal(other, value, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}
