//! The values of expressions: borrowed from the view or the expression, or computed.
//!
//! Invariant: a clone costs at most a reference count, and comparing is charged by the amount of data compared.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::event::ViewValue;
use crate::reaction::rules::budget::{Budget, Exhausted};
use crate::reaction::rules::number::Numeric;

/// A value. Scalars of the view become scalars here; `View` is a list or an object of the view.
#[derive(Clone, Debug)]
pub(super) enum Value<'e> {
    Null,
    Bool(bool),
    Number(Numeric),
    Borrowed(&'e str),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    View(&'e ViewValue<'e>),
    List(Arc<[Value<'e>]>),
    Map(Arc<[(Value<'e>, Value<'e>)]>),
    Type(&'static str),
}

impl<'e> Value<'e> {
    pub(super) fn of(node: &'e ViewValue<'e>) -> Self {
        match node {
            ViewValue::Null => Self::Null,
            ViewValue::Bool(value) => Self::Bool(*value),
            ViewValue::Int(integer) => Self::Number(Numeric::Int(*integer)),
            ViewValue::Uint(integer) => Self::Number(Numeric::Uint(*integer)),
            ViewValue::Double(double) => Self::Number(Numeric::Double(*double)),
            ViewValue::Text(text) => Self::Borrowed(text),
            ViewValue::List(_) | ViewValue::Object(_) => Self::View(node),
        }
    }

    /// A constant, without counting a reference to its text.
    pub(super) fn of_constant(constant: &'e Value<'static>) -> Self {
        if let Self::Text(text) = constant { Self::Borrowed(text) } else { constant.clone() }
    }

    pub(super) fn int(integer: i64) -> Self {
        Self::Number(Numeric::Int(integer))
    }

    pub(super) fn double(double: f64) -> Self {
        Self::Number(Numeric::Double(double))
    }

    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Borrowed(text) => Some(text),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The name of its type, as written in an expression.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Number(Numeric::Int(_)) => "int",
            Self::Number(Numeric::Uint(_)) => "uint",
            Self::Number(Numeric::Double(_)) => "double",
            Self::Borrowed(_) | Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::View(ViewValue::List(_)) | Self::List(_) => "list",
            Self::View(_) | Self::Map(_) => "map",
            Self::Type(_) => "type",
        }
    }

    /// How many elements a list has.
    pub(super) fn list_length(&self) -> Option<usize> {
        match self {
            Self::View(ViewValue::List(elements)) => Some(elements.len()),
            Self::List(elements) => Some(elements.len()),
            _ => None,
        }
    }

    /// An element of a list.
    pub(super) fn element(&self, index: usize) -> Option<Value<'e>> {
        match self {
            Self::View(ViewValue::List(elements)) => elements.get(index).map(Value::of),
            Self::List(elements) => elements.get(index).cloned(),
            _ => None,
        }
    }

    /// How many entries a map has.
    pub(super) fn map_length(&self) -> Option<usize> {
        match self {
            Self::View(ViewValue::Object(members)) => Some(members.len()),
            Self::Map(entries) => Some(entries.len()),
            _ => None,
        }
    }

    /// The entry of a map; `None` when there is none or this is not a map.
    pub(super) fn entry(&self, key: &Value<'e>, budget: &mut Budget) -> Result<Option<Value<'e>>, Exhausted> {
        match self {
            Self::View(ViewValue::Object(members)) => Ok(key.as_str().and_then(|key| members.get(key)).map(Value::of)),
            Self::Map(entries) => {
                for (other, value) in entries.iter() {
                    if equal(other, key, budget)? {
                        return Ok(Some(value.clone()));
                    }
                }
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// The elements of a list or the keys of a map, for the macros.
    pub(super) fn items(&self, budget: &mut Budget) -> Result<Option<Vec<Value<'e>>>, Exhausted> {
        budget.steps(self.list_length().or(self.map_length()).unwrap_or(0))?;
        Ok(Some(match self {
            Self::View(ViewValue::List(elements)) => elements.iter().map(Value::of).collect(),
            Self::List(elements) => elements.to_vec(),
            Self::View(ViewValue::Object(members)) => members.iter().map(|(key, _)| Value::Borrowed(key)).collect(),
            Self::Map(entries) => entries.iter().map(|(key, _)| key.clone()).collect(),
            _ => return Ok(None),
        }))
    }
}

/// Equality: numbers by value, everything else by type and content.
pub(super) fn equal(a: &Value<'_>, b: &Value<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
    budget.step()?;
    match (a, b) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Bool(a), Value::Bool(b)) => Ok(a == b),
        (Value::Number(a), Value::Number(b)) => Ok(a.equals(*b)),
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            Ok(a == b)
        }
        (Value::Type(a), Value::Type(b)) => Ok(a == b),
        (Value::View(a), Value::View(b)) => crate::reaction::rules::number::equal(a, b, budget),
        _ => {
            if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
                // Texts of different lengths differ without a comparison.
                budget.bytes(if a.len() == b.len() { a.len() } else { 0 })?;
                return Ok(a == b);
            }
            if let (Some(length), Some(other)) = (a.list_length(), b.list_length()) {
                return if length == other { equal_lists(a, b, length, budget) } else { Ok(false) };
            }
            match (a.map_length(), b.map_length()) {
                (Some(length), Some(other)) if length == other => equal_maps(a, b, budget),
                _ => Ok(false),
            }
        }
    }
}

fn equal_lists(a: &Value<'_>, b: &Value<'_>, length: usize, budget: &mut Budget) -> Result<bool, Exhausted> {
    for index in 0..length {
        if let (Some(a), Some(b)) = (a.element(index), b.element(index))
            && !equal(&a, &b, budget)?
        {
            return Ok(false);
        }
    }
    Ok(true)
}

fn equal_maps(a: &Value<'_>, b: &Value<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
    for key in a.items(budget)?.unwrap_or_default() {
        let (Some(own), Some(other)) = (a.entry(&key, budget)?, b.entry(&key, budget)?) else { return Ok(false) };
        if !equal(&own, &other, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The order of two values, if they are comparable.
pub(super) fn order(a: &Value<'_>, b: &Value<'_>, budget: &mut Budget) -> Result<Option<Ordering>, Exhausted> {
    Ok(match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.compare(*b),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => {
            budget.bytes(a.len().min(b.len()))?;
            Some(a.cmp(b))
        }
        _ => match (a.as_str(), b.as_str()) {
            (Some(a), Some(b)) => {
                budget.bytes(a.len().min(b.len()))?;
                Some(a.cmp(b))
            }
            _ => None,
        },
    })
}
