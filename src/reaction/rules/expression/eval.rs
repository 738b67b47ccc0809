//! Evaluates a compiled expression over one view.
//!
//! Invariant: every node costs a step of the budget, so evaluation ends. `&&` and `||` return a result when one side
//! decides it, even if the other side fails.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::sync::Arc;

use super::arithmetic::{int_operation, negate, uint_operation, whole};
use super::error::EvalError;
use super::functions::Function;
use super::tree::{Arithmetic, Comparison, Field, Macro, MacroKind, Node};
use super::value::{Value, equal, order};
use crate::event::ViewValue;
use crate::event::describe::ViewType;
use crate::reaction::rules::budget::Budget;
use crate::reaction::rules::number::Numeric;
use crate::reaction::rules::pattern::Pattern;

type Evaluated<'e> = Result<Value<'e>, EvalError>;

/// One evaluation.
pub(super) struct Evaluator<'e, 'b> {
    pub(super) event: &'e ViewValue<'e>,
    pub(super) variables: Vec<Value<'e>>,
    pub(super) budget: &'b mut Budget,
}

impl<'e> Evaluator<'e, '_> {
    pub(super) fn eval(&mut self, node: &'e Node) -> Evaluated<'e> {
        self.budget.step()?;
        match node {
            Node::Constant(value) => Ok(Value::of_constant(value)),
            Node::Event(fields) => self.event_field(fields),
            Node::Variable(slot) => {
                self.variables.get(*slot).cloned().ok_or_else(|| EvalError::fault("a variable has no value"))
            }
            Node::Select(operand, field) => {
                let operand = self.eval(operand)?;
                self.select(&operand, field)
            }
            Node::Has(operand, name) => {
                let operand = self.eval(operand)?;
                if operand.map_length().is_none() {
                    return Err(EvalError::Fault(format!("has() looks into a {}", operand.type_name()).into()));
                }
                Ok(Value::Bool(operand.entry(&Value::Borrowed(name), self.budget)?.is_some()))
            }
            Node::Index(both) => self.index(&both[0], &both[1]),
            Node::FieldOf(both, place) => self.field_of(&both[0], &both[1], *place),
            Node::Not(inner) => self.bool(inner).map(|value| Value::Bool(!value)),
            Node::Negate(inner) => negate(&self.eval(inner)?),
            Node::And(both) => self.decide(both, false),
            Node::Or(both) => self.decide(both, true),
            Node::Choose(three) => {
                let place = if self.bool(&three[0])? { 1 } else { 2 };
                self.eval(&three[place])
            }
            Node::Compare(comparison, both) => self.compare(*comparison, &both[0], &both[1]),
            Node::Compute(arithmetic, both) => {
                let (a, b) = (self.eval(&both[0])?, self.eval(&both[1])?);
                self.compute(*arithmetic, a, b)
            }
            Node::In(both) => self.is_in(&both[0], &both[1]),
            Node::Among(inner, texts, others) => self.among(inner, texts, others),
            Node::Matches(inner, pattern) => {
                let value = self.eval(inner)?;
                let text = value.as_str().ok_or_else(|| not_text("matches", &value))?;
                Ok(Value::Bool(pattern.is_match(text, self.budget)?))
            }
            Node::MatchesFound(both) => self.matches_found(&both[0], &both[1]),
            Node::Call(function, arguments) => self.call(*function, arguments),
            Node::List(nodes) => {
                self.budget.steps(nodes.len())?;
                let values = nodes.iter().map(|node| self.eval(node)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(values.into()))
            }
            Node::Map(entries) => self.map(entries),
            Node::Macro(inner) => self.over_range(inner),
            Node::Wrong(reason) => Err(EvalError::Fault(reason.to_string().into())),
        }
    }

    pub(super) fn bool(&mut self, node: &'e Node) -> Result<bool, EvalError> {
        match self.eval(node)? {
            Value::Bool(value) => Ok(value),
            other => Err(EvalError::Fault(format!("is a {} where a bool is needed", other.type_name()).into())),
        }
    }

    fn event_field(&mut self, fields: &'e [Field]) -> Evaluated<'e> {
        let mut node = self.event;
        for field in fields {
            match node {
                ViewValue::Object(members) if let Some(member) = members.get(&field.name) => node = member,
                _ => return missing(field),
            }
        }
        Ok(Value::of(node))
    }

    fn select(&mut self, operand: &Value<'e>, field: &'e Field) -> Evaluated<'e> {
        match operand.entry(&Value::Borrowed(&field.name), self.budget)? {
            Some(value) => Ok(value),
            None if operand.map_length().is_some() => missing(field),
            None => Err(EvalError::Fault(format!("a {} has no field `{}`", operand.type_name(), field.name).into())),
        }
    }

    fn field_of(&mut self, operand: &'e Node, name: &'e Node, place: ViewType) -> Evaluated<'e> {
        let (operand, name) = (self.eval(operand)?, self.eval(name)?);
        if let Some(value) = operand.entry(&name, self.budget)? {
            return Ok(value);
        }
        match name.as_str().and_then(|name| place.field(name)) {
            Some(ViewType::Message(_) | ViewType::Struct) => Err(EvalError::Absent),
            _ => Err(EvalError::fault("there is no field of that name")),
        }
    }

    fn index(&mut self, operand: &'e Node, index: &'e Node) -> Evaluated<'e> {
        let (operand, index) = (self.eval(operand)?, self.eval(index)?);
        if operand.map_length().is_some() {
            return operand.entry(&index, self.budget)?.ok_or_else(|| EvalError::fault("a map has no such key"));
        }
        let place = match index {
            Value::Number(Numeric::Int(place)) => usize::try_from(place).ok(),
            Value::Number(Numeric::Uint(place)) => usize::try_from(place).ok(),
            Value::Number(Numeric::Double(place)) if place.fract() == 0.0 && (0.0..1e15).contains(&place) => {
                Some(place as usize)
            }
            _ => {
                return Err(EvalError::Fault(
                    format!("a {} indexes a {}", index.type_name(), operand.type_name()).into(),
                ));
            }
        };
        match operand.list_length() {
            Some(_) => place
                .and_then(|place| operand.element(place))
                .ok_or_else(|| EvalError::fault("a list has no such index")),
            None => Err(EvalError::Fault(format!("a {} has no index", operand.type_name()).into())),
        }
    }

    /// `&&` (decided by false) and `||` (decided by true).
    fn decide(&mut self, both: &'e [Node; 2], by: bool) -> Evaluated<'e> {
        let left = match self.bool(&both[0]) {
            Ok(value) if value == by => return Ok(Value::Bool(by)),
            Err(EvalError::Exhausted) => return Err(EvalError::Exhausted),
            left => left,
        };
        match self.bool(&both[1]) {
            Ok(value) if value == by => Ok(Value::Bool(by)),
            Ok(_) => left.map(Value::Bool),
            Err(EvalError::Exhausted) => Err(EvalError::Exhausted),
            // A fault is more informative than a missing message.
            Err(right) => match left {
                Err(EvalError::Fault(text)) => Err(EvalError::Fault(text)),
                _ => Err(right),
            },
        }
    }

    fn compare(&mut self, comparison: Comparison, a: &'e Node, b: &'e Node) -> Evaluated<'e> {
        let (a, b) = (self.eval(a)?, self.eval(b)?);
        let passes: fn(Ordering) -> bool = match comparison {
            Comparison::Equal => return Ok(Value::Bool(equal(&a, &b, self.budget)?)),
            Comparison::NotEqual => return Ok(Value::Bool(!equal(&a, &b, self.budget)?)),
            Comparison::Less => Ordering::is_lt,
            Comparison::AtMost => Ordering::is_le,
            Comparison::Greater => Ordering::is_gt,
            Comparison::AtLeast => Ordering::is_ge,
        };
        match order(&a, &b, self.budget)? {
            Some(order) => Ok(Value::Bool(passes(order))),
            None => Err(no_overload("compares", &a, &b)),
        }
    }

    fn compute(&mut self, arithmetic: Arithmetic, a: Value<'e>, b: Value<'e>) -> Evaluated<'e> {
        if arithmetic == Arithmetic::Add {
            if let (Some(left), Some(right)) = (a.as_str(), b.as_str()) {
                self.budget.bytes(left.len() + right.len())?;
                return Ok(Value::text([left, right].concat()));
            }
            if let (Value::Bytes(left), Value::Bytes(right)) = (&a, &b) {
                self.budget.bytes(left.len() + right.len())?;
                return Ok(Value::Bytes([&left[..], &right[..]].concat().into()));
            }
            if let (Some(left), Some(right)) = (a.list_length(), b.list_length()) {
                self.budget.steps(left + right)?;
                let mut joined = a.items(self.budget)?.unwrap_or_default();
                joined.extend(b.items(self.budget)?.unwrap_or_default());
                return Ok(Value::List(joined.into()));
            }
        }
        let (Value::Number(left), Value::Number(right)) = (&a, &b) else { return Err(no_overload("computes", &a, &b)) };
        match (*left, *right) {
            (Numeric::Int(left), Numeric::Int(right)) => {
                whole(arithmetic, right == 0, int_operation(arithmetic)(left, right)).map(Value::int)
            }
            (Numeric::Uint(left), Numeric::Uint(right)) => {
                let done = whole(arithmetic, right == 0, uint_operation(arithmetic)(left, right))?;
                Ok(Value::Number(Numeric::Uint(done)))
            }
            (Numeric::Double(left), Numeric::Double(right)) => Ok(Value::double(match arithmetic {
                Arithmetic::Add => left + right,
                Arithmetic::Subtract => left - right,
                Arithmetic::Multiply => left * right,
                Arithmetic::Divide => left / right,
                Arithmetic::Remainder => return Err(no_overload("computes", &a, &b)),
            })),
            _ => Err(no_overload("computes", &a, &b)),
        }
    }

    fn is_in(&mut self, value: &'e Node, within: &'e Node) -> Evaluated<'e> {
        let (value, within) = (self.eval(value)?, self.eval(within)?);
        if within.map_length().is_some() {
            if !is_key(&value) {
                return Err(no_overload("looks for", &value, &within));
            }
            return Ok(Value::Bool(within.entry(&value, self.budget)?.is_some()));
        }
        let Some(length) = within.list_length() else { return Err(no_overload("looks for", &value, &within)) };
        for index in 0..length {
            if let Some(element) = within.element(index)
                && equal(&value, &element, self.budget)?
            {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn among(&mut self, inner: &'e Node, texts: &HashSet<Box<str>>, others: &[Value<'static>]) -> Evaluated<'e> {
        let value = self.eval(inner)?;
        if let Some(text) = value.as_str() {
            self.budget.bytes(text.len())?;
            return Ok(Value::Bool(texts.contains(text)));
        }
        for other in others {
            if equal(&value, other, self.budget)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }

    fn matches_found(&mut self, text: &'e Node, pattern: &'e Node) -> Evaluated<'e> {
        let (text, pattern) = (self.eval(text)?, self.eval(pattern)?);
        let source = pattern.as_str().ok_or_else(|| not_text("matches", &pattern))?;
        let text = text.as_str().ok_or_else(|| not_text("matches", &text))?;
        match Pattern::dynamic(source, self.budget)? {
            Some(pattern) => Ok(Value::Bool(pattern.is_match(text, self.budget)?)),
            None => Err(EvalError::fault("matches() was given no regular expression, or too large a one")),
        }
    }

    fn call(&mut self, function: Function, arguments: &'e [Node]) -> Evaluated<'e> {
        // No function takes more than two arguments.
        match arguments {
            [one] => {
                let one = [self.eval(one)?];
                function.call(&one, self.budget)
            }
            [one, two] => {
                let both = [self.eval(one)?, self.eval(two)?];
                function.call(&both, self.budget)
            }
            _ => function.call(&[], self.budget),
        }
    }

    fn map(&mut self, entries: &'e [(Node, Node)]) -> Evaluated<'e> {
        let mut map: Vec<(Value<'e>, Value<'e>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let (key, value) = (self.eval(key)?, self.eval(value)?);
            if !is_key(&key) || matches!(key, Value::Number(Numeric::Double(_))) {
                return Err(EvalError::Fault(format!("a {} is the key of a map", key.type_name()).into()));
            }
            // The last of several equal keys wins.
            let mut kept = Vec::with_capacity(map.len() + 1);
            for entry in map {
                if !equal(&entry.0, &key, self.budget)? {
                    kept.push(entry);
                }
            }
            kept.push((key, value));
            map = kept;
        }
        Ok(Value::Map(map.into()))
    }

    fn over_range(&mut self, each: &'e Macro) -> Evaluated<'e> {
        let range = self.eval(&each.range)?;
        let Some(items) = range.items(self.budget)? else {
            return Err(EvalError::Fault(format!("a macro ranges over a {}", range.type_name()).into()));
        };
        // Variables are numbered by nesting depth.
        self.variables.truncate(each.variable);
        self.variables.push(Value::Null);
        let done = match each.kind {
            MacroKind::All => self.decided(each, items, false),
            MacroKind::Exists => self.decided(each, items, true),
            MacroKind::ExistsOne => self.exactly_one(each, items),
            MacroKind::Map => self.mapped(each, items),
        };
        self.variables.truncate(each.variable);
        done
    }

    fn with(&mut self, each: &'e Macro, item: Value<'e>) {
        self.variables.truncate(each.variable);
        self.variables.push(item);
    }

    fn decided(&mut self, each: &'e Macro, items: Vec<Value<'e>>, by: bool) -> Evaluated<'e> {
        let mut stop = None;
        for item in items {
            self.with(each, item);
            match self.bool(&each.body) {
                Ok(value) if value == by => return Ok(Value::Bool(by)),
                Ok(_) => {}
                Err(EvalError::Exhausted) => return Err(EvalError::Exhausted),
                Err(other) => stop = stop.or(Some(other)),
            }
        }
        stop.map_or(Ok(Value::Bool(!by)), Err)
    }

    fn exactly_one(&mut self, each: &'e Macro, items: Vec<Value<'e>>) -> Evaluated<'e> {
        let mut count = 0;
        for item in items {
            self.with(each, item);
            count += usize::from(self.bool(&each.body)?);
        }
        Ok(Value::Bool(count == 1))
    }

    fn mapped(&mut self, each: &'e Macro, items: Vec<Value<'e>>) -> Evaluated<'e> {
        let mut mapped = Vec::new();
        for item in items {
            self.with(each, item);
            if let Some(filter) = &each.filter
                && !self.bool(filter)?
            {
                continue;
            }
            mapped.push(self.eval(&each.body)?);
        }
        Ok(Value::List(Arc::from(mapped)))
    }
}

/// Whether a value can be a key of a map.
fn is_key(value: &Value<'_>) -> bool {
    matches!(value, Value::Bool(_) | Value::Number(_)) || value.as_str().is_some()
}

fn missing<'e>(field: &Field) -> Evaluated<'e> {
    if field.optional {
        return Err(EvalError::Absent);
    }
    Err(EvalError::Fault(format!("there is no `{}`", field.name).into()))
}

fn not_text(what: &str, value: &Value<'_>) -> EvalError {
    EvalError::Fault(format!("{what}() takes strings, not a {}", value.type_name()).into())
}

fn no_overload(what: &str, a: &Value<'_>, b: &Value<'_>) -> EvalError {
    EvalError::Fault(format!("{what} a {} with a {}", a.type_name(), b.type_name()).into())
}
