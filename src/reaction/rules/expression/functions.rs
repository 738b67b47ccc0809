//! The functions of expressions: their arguments, results and implementation.

use super::error::EvalError;
use super::types::Type;
use super::value::Value;
use crate::reaction::rules::budget::Budget;
use crate::reaction::rules::number::Numeric;

/// A pure function of its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Bool,
    Bytes,
    Contains,
    Double,
    Dyn,
    EndsWith,
    Int,
    Size,
    StartsWith,
    String,
    Type,
    Uint,
}

/// How a function is called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `f(x)`.
    Free,
    /// `x.f(y)`.
    Member,
    Both,
}

/// Name, call style, number of arguments including the receiver.
const FUNCTIONS: [(&str, Style, usize, Function); 12] = [
    ("bool", Style::Free, 1, Function::Bool),
    ("bytes", Style::Free, 1, Function::Bytes),
    ("contains", Style::Member, 2, Function::Contains),
    ("double", Style::Free, 1, Function::Double),
    ("dyn", Style::Free, 1, Function::Dyn),
    ("endsWith", Style::Member, 2, Function::EndsWith),
    ("int", Style::Free, 1, Function::Int),
    ("size", Style::Both, 1, Function::Size),
    ("startsWith", Style::Member, 2, Function::StartsWith),
    ("string", Style::Free, 1, Function::String),
    ("type", Style::Free, 1, Function::Type),
    ("uint", Style::Free, 1, Function::Uint),
];
/// Handled by the compiler or by the parser.
const OTHERS: [(&str, Style, usize); 7] = [
    ("matches", Style::Both, 2),
    ("has", Style::Free, 1),
    ("all", Style::Member, 3),
    ("exists", Style::Member, 3),
    ("exists_one", Style::Member, 3),
    ("filter", Style::Member, 3),
    ("map", Style::Member, 3),
];

/// All names, for suggestions.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FUNCTIONS.iter().map(|(name, ..)| *name).chain(OTHERS.iter().map(|(name, ..)| *name))
}

/// Checks name, style and number of arguments (including the receiver). The error completes `calls ...`.
pub(super) fn find(name: &str, has_target: bool, arguments: usize) -> Result<Option<Function>, String> {
    let known = FUNCTIONS.iter().map(|(name, style, count, function)| (*name, *style, *count, Some(*function)));
    let others = OTHERS.iter().map(|(name, style, count)| (*name, *style, *count, None));
    let Some((_, style, count, function)) = known.chain(others).find(|(known, ..)| *known == name) else {
        return Err(String::new());
    };
    match style {
        Style::Free if has_target => Err(format!("`{name}` on something: write `{name}(x)`")),
        Style::Member if !has_target => Err(format!("`{name}` on nothing: write `x.{name}(...)`")),
        _ if count != arguments => {
            let wanted = count - usize::from(has_target);
            let given = arguments - usize::from(has_target);
            Err(format!("`{name}` with {given} arguments: it takes {wanted}"))
        }
        _ => Ok(function),
    }
}

impl Function {
    /// The type of the result, or the index of an invalid argument and the expected type.
    pub(super) fn result(self, arguments: &[Type]) -> Result<Type, (usize, &'static str)> {
        let first = arguments.first().unwrap_or(&Type::Dyn);
        let takes = |good: bool, what, gives| if good { Ok(gives) } else { Err((0, what)) };
        match self {
            Self::Dyn => Ok(Type::Dyn),
            Self::Type => Ok(Type::Kind),
            Self::Contains | Self::EndsWith | Self::StartsWith => {
                match arguments.iter().position(|argument| !argument.is_string()) {
                    Some(place) => Err((place, "a string")),
                    None => Ok(Type::Bool),
                }
            }
            Self::Size => {
                let sized = first.is_string() || first.is_list() || first.is_map() || matches!(first, Type::Bytes);
                takes(sized, "a string, bytes, a list or a map", Type::Int)
            }
            Self::Bool => takes(first.is_bool() || first.is_string(), "a bool or a string", Type::Bool),
            Self::Bytes => takes(first.is_string() || matches!(first, Type::Bytes), "a string or bytes", Type::Bytes),
            Self::Double => takes(first.is_number() || first.is_string(), "a number or a string", Type::Double),
            Self::Int => takes(first.is_number() || first.is_string(), "a number or a string", Type::Int),
            Self::Uint => takes(first.is_number() || first.is_string(), "a number or a string", Type::Uint),
            Self::String => {
                let good = first.is_number() || first.is_string() || first.is_bool() || matches!(first, Type::Bytes);
                takes(good, "a number, a bool, a string or bytes", Type::String)
            }
        }
    }

    fn name(self) -> &'static str {
        FUNCTIONS.iter().find(|(.., function)| *function == self).map_or("", |(name, ..)| name)
    }

    /// Computes it.
    pub(super) fn call<'e>(self, arguments: &[Value<'e>], budget: &mut Budget) -> Result<Value<'e>, EvalError> {
        let [first, rest @ ..] = arguments else { return Err(EvalError::fault("calls a function without arguments")) };
        let second = rest.first().and_then(Value::as_str);
        budget.bytes(first.as_str().map_or(0, str::len) + second.map_or(0, str::len))?;
        let texts = first.as_str().zip(second);
        let done = match (self, first) {
            (Self::Dyn, value) => Some(value.clone()),
            (Self::Type, value) => Some(Value::Type(value.type_name())),
            (Self::Contains, _) => texts.map(|(text, part)| Value::Bool(text.contains(part))),
            (Self::EndsWith, _) => texts.map(|(text, part)| Value::Bool(text.ends_with(part))),
            (Self::StartsWith, _) => texts.map(|(text, part)| Value::Bool(text.starts_with(part))),
            (Self::Size, value) => size(value).and_then(|size| i64::try_from(size).ok()).map(Value::int),
            (Self::Bool, Value::Bool(_)) | (Self::Bytes, Value::Bytes(_)) => Some(first.clone()),
            (Self::Bool, value) => value.as_str().and_then(bool_of).map(Value::Bool),
            (Self::Bytes, value) => value.as_str().map(|text| Value::Bytes(text.as_bytes().into())),
            (Self::Double, value) => double_of(value).map(Value::double),
            (Self::Int, value) => int_of(value).map(Value::int),
            (Self::Uint, value) => uint_of(value).map(|integer| Value::Number(Numeric::Uint(integer))),
            (Self::String, value) => text_of(value),
        };
        done.ok_or_else(|| EvalError::Fault(format!("{} cannot take this {}", self.name(), first.type_name()).into()))
    }
}

fn size(value: &Value<'_>) -> Option<usize> {
    match value {
        Value::Bytes(bytes) => Some(bytes.len()),
        _ => value.as_str().map(|text| text.chars().count()).or(value.list_length()).or(value.map_length()),
    }
}

fn bool_of(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn double_of(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Number(Numeric::Int(integer)) => Some(*integer as f64),
        Value::Number(Numeric::Uint(integer)) => Some(*integer as f64),
        Value::Number(Numeric::Double(double)) => Some(*double),
        _ => value.as_str()?.parse().ok(),
    }
}

/// 2^63 and 2^64, just beyond the 64-bit ranges.
const INT_END: f64 = 9_223_372_036_854_775_808.0;
const UINT_END: f64 = 18_446_744_073_709_551_616.0;

fn int_of(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Number(Numeric::Int(integer)) => Some(*integer),
        Value::Number(Numeric::Uint(integer)) => i64::try_from(*integer).ok(),
        // Both ends are exclusive, as in the specification.
        Value::Number(Numeric::Double(double)) => (*double > -INT_END && *double < INT_END).then_some(*double as i64),
        _ => value.as_str()?.parse().ok(),
    }
}

fn uint_of(value: &Value<'_>) -> Option<u64> {
    match value {
        Value::Number(Numeric::Int(integer)) => u64::try_from(*integer).ok(),
        Value::Number(Numeric::Uint(integer)) => Some(*integer),
        Value::Number(Numeric::Double(double)) => (*double >= 0.0 && *double < UINT_END).then_some(*double as u64),
        _ => value.as_str()?.parse().ok(),
    }
}

fn text_of<'e>(value: &Value<'e>) -> Option<Value<'e>> {
    Some(match value {
        Value::Borrowed(_) | Value::Text(_) => value.clone(),
        Value::Bool(value) => Value::text(value.to_string()),
        Value::Number(Numeric::Int(integer)) => Value::text(integer.to_string()),
        Value::Number(Numeric::Uint(integer)) => Value::text(integer.to_string()),
        Value::Number(Numeric::Double(double)) => Value::text(double.to_string()),
        Value::Bytes(bytes) => Value::text(std::str::from_utf8(bytes).ok()?),
        _ => return None,
    })
}
