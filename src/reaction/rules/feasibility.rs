//! Detects comparisons between a node of the view and a user-written value that can never hold.
//!
//! Invariant: a refused comparison holds for no valid event. A comparison that depends on the event is accepted.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::budget::Budget;
use super::node_types::{NodeTypes, describe};
use super::number::Numeric;
use super::pattern::Pattern;
use crate::base::nearest::suggestion;
use crate::event::describe::ViewType;
use crate::store::Operator;

/// Why no node of these types passes the operator with that value.
pub(in crate::reaction) fn impossible_comparison(
    types: &NodeTypes,
    operator: Operator,
    value: &Value,
) -> Option<String> {
    impossible(types, |node| impossible_comparison_at(node, operator, value))
}

/// Why no node of these types matches. `None` for a pattern stands for any pattern.
pub(super) fn impossible_match(types: &NodeTypes, pattern: Option<&Pattern>) -> Option<String> {
    impossible(types, |node| match node {
        ViewType::String => None,
        ViewType::Enum(names) => {
            let pattern = pattern?;
            let matches = |name: &&str| pattern.is_match(name, &mut Budget::full()).unwrap_or(true);
            (!names.iter().any(matches)).then(|| never(node, "none of them matches"))
        }
        other => Some(never(other, "only strings match a regular expression")),
    })
}

/// The first reason, when every type has one.
fn impossible(types: &NodeTypes, mut why: impl FnMut(ViewType) -> Option<String>) -> Option<String> {
    let mut first = None;
    for node in types.known()? {
        let reason = why(*node)?;
        first.get_or_insert(reason);
    }
    first
}

fn never(node: ViewType, why: &str) -> String {
    format!("can never hold: the path finds {}, and {why}", describe(node))
}

fn impossible_comparison_at(node: ViewType, operator: Operator, value: &Value) -> Option<String> {
    let is = |why: &str| Some(never(node, why));
    match operator {
        Operator::Eq | Operator::Ne => match (node, value) {
            (ViewType::Enum(names), Value::String(name)) if !names.contains(&name.as_str()) => {
                let near = suggestion(name, names.iter().copied());
                Some(format!("is none of the names that the path can find{near}"))
            }
            (ViewType::Enum(names), Value::Number(number)) if let Some(name) = named(names, number) => {
                Some(format!("is the number of `{name}`, which the path finds by its name"))
            }
            _ => unequal(node, value).and_then(|why| match operator {
                Operator::Ne => Some(format!("always differs: the path finds {}, and {why}", describe(node))),
                _ => is(why),
            }),
        },
        Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte => out_of_order(node, operator, value).and_then(is),
        Operator::Contains => match (node, value) {
            (ViewType::String, Value::String(_)) => None,
            (ViewType::Enum(names), Value::String(part)) => {
                if names.iter().any(|name| name.contains(part.as_str())) {
                    None
                } else {
                    is("none of them has this")
                }
            }
            (ViewType::String | ViewType::Enum(_), _) => is("this is no string"),
            (ViewType::List(element), value) => impossible_comparison_at(element.view_type(), Operator::Eq, value),
            _ => is("only strings and lists contain something"),
        },
        // Their values depend on the operator, not on the node.
        Operator::Regex | Operator::In | Operator::Exists | Operator::NotExists => None,
    }
}

/// Why no node of this type equals the value.
fn unequal(node: ViewType, value: &Value) -> Option<&'static str> {
    let equal = |node: ViewType, value: &Value| unequal(node, value).is_none();
    match (node, value) {
        (ViewType::String, Value::String(_))
        | (ViewType::Bool, Value::Bool(_))
        | (ViewType::Double, Value::Number(_))
        | (ViewType::Struct, Value::Object(_)) => None,
        (ViewType::Enum(names), Value::String(name)) => {
            (!names.contains(&name.as_str())).then_some("this is none of them")
        }
        // A number without a name appears in the view as itself.
        (ViewType::Enum(names), Value::Number(number)) => match named(names, number) {
            Some(_) => Some("this is the number of one of them"),
            None => no_integer(number, i64::from(i32::MIN), i64::from(i32::MAX)),
        },
        (ViewType::Int { min, max }, Value::Number(number)) => no_integer(number, min, max),
        (ViewType::List(element), Value::Array(values)) => {
            (!values.iter().all(|value| equal(element.view_type(), value))).then_some("none has such an element")
        }
        (ViewType::Map(element), Value::Object(members)) => {
            (!members.values().all(|value| equal(element.view_type(), value))).then_some("none has such a value")
        }
        (ViewType::Event | ViewType::Message(_), Value::Object(members)) => {
            let known = |(name, value): (&String, &Value)| node.field(name).is_some_and(|field| equal(field, value));
            // Only messages can be missing.
            let missing = |name: &&str| {
                let optional = matches!(node.field(name), Some(ViewType::Message(_) | ViewType::Struct));
                !optional && !members.contains_key(*name)
            };
            let complete = !node.fields().iter().any(missing);
            (!complete || !members.iter().all(known)).then_some("none has these members and no others")
        }
        _ => Some("this is of another type"),
    }
}

/// The enum name that the view has instead of this number.
fn named(names: &[&'static str], number: &Number) -> Option<&'static str> {
    let is = |index: &usize| Numeric::Uint(*index as u64).equals(Numeric::of(number));
    (0..names.len()).find(is).map(|index| names[index])
}

/// Why no integer from `min` to `max` equals the number.
fn no_integer(number: &Number, min: i64, max: i64) -> Option<&'static str> {
    let number = Numeric::of(number);
    if matches!(number, Numeric::Double(double) if double.fract() != 0.0) {
        return Some("this has a fraction");
    }
    let within = Numeric::Int(min).compare(number).is_some_and(Ordering::is_le)
        && Numeric::Int(max).compare(number).is_some_and(Ordering::is_ge);
    (!within).then_some(if min == i64::MIN { "this is beyond its 64 bits" } else { BEYOND })
}

/// For 32-bit integers and lengths.
const BEYOND: &str = "this is beyond what it holds";

fn out_of_order(node: ViewType, operator: Operator, value: &Value) -> Option<&'static str> {
    match (node, value) {
        (ViewType::Double, Value::Number(_)) => None,
        (ViewType::Int { min, max }, Value::Number(number)) => no_order(operator, number, min, max),
        (ViewType::Enum(_), Value::Number(number)) => {
            no_order(operator, number, i64::from(i32::MIN), i64::from(i32::MAX))
        }
        (ViewType::Enum(names), Value::String(text)) => {
            let holds = |name: &&str| passes(operator, (*name).cmp(text.as_str()));
            (!names.iter().any(holds)).then_some("none of them does")
        }
        (ViewType::String, Value::String(text)) => {
            (operator == Operator::Lt && text.is_empty()).then_some("none comes before the empty one")
        }
        (ViewType::Int { .. } | ViewType::Double | ViewType::String, _) => Some("this is of another type"),
        _ => Some("only numbers and strings have an order"),
    }
}

/// Why no integer from `min` to `max` lies on that side of the number.
fn no_order(operator: Operator, number: &Number, min: i64, max: i64) -> Option<&'static str> {
    let above = matches!(operator, Operator::Gt | Operator::Gte);
    let extreme = Numeric::Int(if above { max } else { min });
    let holds = extreme.compare(Numeric::of(number)).is_some_and(|order| passes(operator, order));
    (!holds).then_some(if above { "none is so large" } else { "none is so small" })
}

fn passes(operator: Operator, order: Ordering) -> bool {
    match operator {
        Operator::Gt => order.is_gt(),
        Operator::Gte => order.is_ge(),
        Operator::Lt => order.is_lt(),
        _ => order.is_le(),
    }
}
