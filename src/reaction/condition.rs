//! One condition of a rule: a path, an operator and a value.
//!
//! What the operators mean. A path may find several nodes; a condition holds when **any** of
//! them passes, except for `ne` and `not_exists`, which are the negations of `eq` and
//! `exists`.
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
//! A node of a type that the operator does not speak of never passes; nothing is an error
//! once the condition is compiled.

use std::cmp::Ordering;
use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use serde_json::{Number, Value};

use super::path::Path;
use crate::event::FieldError;
use crate::store::{Condition, Operator};

/// Bytes of a regular expression's text.
const PATTERN_BYTES_MAX: usize = 1_024;
/// Bytes that a compiled regular expression may take.
const PATTERN_COMPILED_BYTES_MAX: usize = 1 << 20;
/// Elements of the list of `in`.
const CHOICES_MAX: usize = 1_000;

/// A compiled condition.
#[derive(Debug)]
pub(super) struct Compiled {
    path: Path,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equal(Value),
    NotEqual(Value),
    Ordered(fn(Ordering) -> bool, Bound),
    Contains(Value),
    Matches(Regex),
    /// Strings apart, since long lists are lists of strings.
    In(HashSet<Box<str>>, Vec<Value>),
    Exists,
    NotExists,
}

#[derive(Debug)]
enum Bound {
    Number(Number),
    Text(Box<str>),
}

impl Compiled {
    /// Compiles a condition; pointers are relative to it.
    pub(super) fn compile(condition: &Condition) -> Result<Self, Vec<FieldError>> {
        let path = Path::compile(&condition.path).map_err(|detail| FieldError::new("/path", detail));
        let test = compile_test(condition.operator, condition.value.as_ref())
            .map_err(|detail| FieldError::new("/value", detail));
        match (path, test) {
            (Ok(path), Ok(test)) => Ok(Self { path, test }),
            (path, test) => Err([path.err(), test.err()].into_iter().flatten().collect()),
        }
    }

    pub(super) fn holds(&self, view: &Value) -> bool {
        match &self.test {
            Test::Equal(value) => self.any(view, |node| equal(node, value)),
            Test::NotEqual(value) => {
                let mut found = false;
                let same = self.any(view, |node| {
                    found = true;
                    equal(node, value)
                });
                found && !same
            }
            Test::Ordered(passes, bound) => self.any(view, |node| order(node, bound).is_some_and(passes)),
            Test::Contains(value) => self.any(view, |node| contains(node, value)),
            Test::Matches(pattern) => self.any(view, |node| node.as_str().is_some_and(|text| pattern.is_match(text))),
            Test::In(texts, others) => self.any(view, |node| match node {
                Value::String(text) => texts.contains(text.as_str()),
                _ => others.iter().any(|value| equal(node, value)),
            }),
            Test::Exists => self.any(view, |_| true),
            Test::NotExists => !self.any(view, |_| true),
        }
    }

    fn any(&self, view: &Value, test: impl FnMut(&Value) -> bool) -> bool {
        self.path.find(view, test).is_some()
    }
}

fn compile_test(operator: Operator, value: Option<&Value>) -> Result<Test, String> {
    let given = || value.ok_or_else(|| "is needed by this operator and must not be null".to_owned());
    let bound = || match given()? {
        Value::Number(number) => Ok(Bound::Number(number.clone())),
        Value::String(text) => Ok(Bound::Text(text.as_str().into())),
        _ => Err("must be a number or a string for this operator".to_owned()),
    };
    let none = |test| if value.is_none() { Ok(test) } else { Err("must be left out for this operator".to_owned()) };
    Ok(match operator {
        Operator::Eq => Test::Equal(given()?.clone()),
        Operator::Ne => Test::NotEqual(given()?.clone()),
        Operator::Gt => Test::Ordered(Ordering::is_gt, bound()?),
        Operator::Gte => Test::Ordered(Ordering::is_ge, bound()?),
        Operator::Lt => Test::Ordered(Ordering::is_lt, bound()?),
        Operator::Lte => Test::Ordered(Ordering::is_le, bound()?),
        Operator::Contains => Test::Contains(given()?.clone()),
        Operator::Regex => Test::Matches(compile_pattern(given()?)?),
        Operator::In => compile_choices(given()?)?,
        Operator::Exists => none(Test::Exists)?,
        Operator::NotExists => none(Test::NotExists)?,
    })
}

fn compile_pattern(value: &Value) -> Result<Regex, String> {
    let Value::String(pattern) = value else { return Err("must be a string that holds a regular expression".into()) };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("must be at most {PATTERN_BYTES_MAX} bytes long"));
    }
    RegexBuilder::new(pattern).size_limit(PATTERN_COMPILED_BYTES_MAX).build().map_err(|error| match error {
        regex::Error::CompiledTooBig(bytes) => format!("compiles to more than {bytes} bytes"),
        // The message repeats the pattern and ends in a line that names the mistake.
        other => {
            let message = other.to_string();
            let reason = message.lines().last().unwrap_or_default();
            format!("is not a regular expression: {}", reason.strip_prefix("error: ").unwrap_or(reason))
        }
    })
}

fn compile_choices(value: &Value) -> Result<Test, String> {
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
            other => others.push(other.clone()),
        }
    }
    Ok(Test::In(texts, others))
}

/// Equality as JSON means it: numbers by their value, everything else by type and content.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b) == Some(Ordering::Equal),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| equal(a, b)))
        }
        _ => a == b,
    }
}

fn order(node: &Value, bound: &Bound) -> Option<Ordering> {
    match (node, bound) {
        (Value::Number(number), Bound::Number(bound)) => compare_numbers(number, bound),
        (Value::String(text), Bound::Text(bound)) => Some(text.as_str().cmp(bound)),
        _ => None,
    }
}

fn contains(node: &Value, value: &Value) -> bool {
    match (node, value) {
        (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
        (Value::Array(elements), _) => elements.iter().any(|element| equal(element, value)),
        _ => false,
    }
}

/// Compares exactly, also where a double cannot hold the integer beside it.
fn compare_numbers(a: &Number, b: &Number) -> Option<Ordering> {
    let integer = |n: &Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        (Some(a), None) => compare_with_double(a, b.as_f64()?),
        (None, Some(b)) => compare_with_double(b, a.as_f64()?).map(Ordering::reverse),
        (None, None) => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

fn compare_with_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates far outside of what a 64-bit integer reaches, so the order stays right.
    let whole = double.trunc();
    Some(integer.cmp(&(whole as i128)).then_with(|| 0.0f64.partial_cmp(&(double - whole)).unwrap_or(Ordering::Equal)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn condition(path: &str, operator: &str, value: Value) -> Condition {
        let mut document = json!({"path": path, "operator": operator});
        if !value.is_null() {
            document["value"] = value;
        }
        serde_json::from_value(document).unwrap()
    }

    fn holds(path: &str, operator: &str, value: Value) -> bool {
        let view = json!({
            "n": 10, "f": 2.5, "neg": -3, "big": 9_007_199_254_740_993i64, "max": u64::MAX, "s": "banana", "e": "", "t": true, "nil": null,
            "list": ["a", "b", 3], "o": {"k": [1, 2.0]},
        });
        Compiled::compile(&condition(path, operator, value)).unwrap().holds(&view)
    }

    #[test]
    fn every_operator_on_every_kind_of_node() {
        let table = [
            ("$.n", "eq", json!(10), true),
            ("$.n", "eq", json!(10.0), true),
            ("$.n", "eq", json!("10"), false),
            ("$.s", "eq", json!("banana"), true),
            ("$.t", "eq", json!(true), true),
            ("$.o", "eq", json!({"k": [1.0, 2]}), true),
            ("$.o", "eq", json!({"k": [1]}), false),
            ("$.list[*]", "eq", json!("b"), true),
            ("$.missing", "eq", json!(1), false),
            ("$.n", "ne", json!(10), false),
            ("$.n", "ne", json!(11), true),
            ("$.n", "ne", json!("10"), true),
            ("$.nil", "ne", json!(1), true),
            ("$.missing", "ne", json!(1), false),
            ("$.list[*]", "ne", json!("b"), false),
            ("$.list[*]", "ne", json!("z"), true),
            ("$.n", "gt", json!(9), true),
            ("$.n", "gt", json!(9.99), true),
            ("$.n", "gt", json!(10), false),
            ("$.n", "gte", json!(10.0), true),
            ("$.f", "lt", json!(3), true),
            ("$.f", "lt", json!(2), false),
            ("$.f", "gt", json!(2), true),
            ("$.f", "lte", json!(2.5), true),
            ("$.neg", "lt", json!(-2.5), true),
            ("$.neg", "gt", json!(-3.5), true),
            ("$.big", "gt", json!(9_007_199_254_740_992.0), true),
            ("$.big", "lt", json!(1e300), true),
            ("$.max", "gt", json!(i64::MAX), true),
            ("$.s", "gt", json!("apple"), true),
            ("$.s", "lt", json!("apple"), false),
            ("$.s", "gt", json!(1), false),
            ("$.n", "lt", json!("zzz"), false),
            ("$.t", "gt", json!(0), false),
            ("$.missing", "lt", json!(1), false),
            ("$.s", "contains", json!("nan"), true),
            ("$.s", "contains", json!("x"), false),
            ("$.e", "contains", json!(""), true),
            ("$.list", "contains", json!("a"), true),
            ("$.list", "contains", json!(3.0), true),
            ("$.list", "contains", json!("3"), false),
            ("$.o", "contains", json!("k"), false),
            ("$.n", "contains", json!("1"), false),
            ("$.s", "regex", json!("an+a"), true),
            ("$.s", "regex", json!("^an"), false),
            ("$.n", "regex", json!("1"), false),
            ("$.list[*]", "regex", json!("^b$"), true),
            ("$.s", "in", json!(["x", "banana"]), true),
            ("$.n", "in", json!([1, 10.0]), true),
            ("$.n", "in", json!(["10"]), false),
            ("$.n", "in", json!([]), false),
            ("$.nil", "in", json!([null]), true),
            ("$.nil", "exists", Value::Null, true),
            ("$.missing", "exists", Value::Null, false),
            ("$.list[*]", "exists", Value::Null, true),
            ("$.nil", "not_exists", Value::Null, false),
            ("$.missing.more", "not_exists", Value::Null, true),
        ];
        for (path, operator, value, expected) in table {
            assert_eq!(holds(path, operator, value.clone()), expected, "{path} {operator} {value}");
        }
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_place() {
        let refused = |operator, value| {
            let errors = Compiled::compile(&condition("$.a", operator, value)).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].pointer, "/value");
            errors[0].detail.clone()
        };
        for operator in ["eq", "ne", "gt", "gte", "lt", "lte", "contains", "regex", "in"] {
            assert_eq!(refused(operator, Value::Null), "is needed by this operator and must not be null");
        }
        for operator in ["gt", "gte", "lt", "lte"] {
            assert_eq!(refused(operator, json!(true)), "must be a number or a string for this operator");
        }
        for operator in ["exists", "not_exists"] {
            assert_eq!(refused(operator, json!(1)), "must be left out for this operator");
        }
        assert_eq!(refused("in", json!("a")), "must be a list for this operator");
        assert_eq!(refused("in", json!(vec![0; CHOICES_MAX + 1])), "must have at most 1000 elements");
        assert_eq!(refused("regex", json!(5)), "must be a string that holds a regular expression");
        assert_eq!(refused("regex", json!("a(b")), "is not a regular expression: unclosed group");
        assert!(refused("regex", json!("(a{1000}){1000}")).starts_with("compiles to more than"));
        assert!(refused("regex", json!("a".repeat(PATTERN_BYTES_MAX + 1))).starts_with("must be at most"));
    }

    #[test]
    fn both_mistakes_of_a_condition_are_named() {
        let errors = Compiled::compile(&condition("nope", "in", json!(1))).unwrap_err();
        let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers, ["/path", "/value"]);
    }
}
