//! Detects comparisons with a constant that can never hold for the other side's type.

use super::tree::{Comparison, Node};
use super::types::Type;
use super::value::Value;
use crate::base::nearest::suggestion;
use crate::event::describe::ViewType;
use crate::reaction::rules::node_types::shown;
use crate::reaction::rules::number::Numeric;

/// Why a comparison never holds, or why `!=` always holds. Either side may be the constant.
pub(super) fn impossible_comparison(comparison: Comparison, a: &(Node, Type), b: &(Node, Type)) -> Option<String> {
    let turned = match comparison {
        Comparison::Less => Comparison::Greater,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Greater => Comparison::Less,
        Comparison::AtLeast => Comparison::AtMost,
        same => same,
    };
    with_constant(comparison, a, b).or_else(|| with_constant(turned, b, a))
}

fn with_constant(comparison: Comparison, holds: &(Node, Type), other: &(Node, Type)) -> Option<String> {
    let Node::Constant(value) = &other.0 else { return None };
    if let Comparison::Equal | Comparison::NotEqual = comparison {
        return impossible_equality(holds, value);
    }
    let (Type::Int, Value::Number(number)) = (&holds.1, value) else { return None };
    let above = matches!(comparison, Comparison::Greater | Comparison::AtLeast);
    let order = Numeric::Int(if above { i64::MAX } else { i64::MIN }).compare(*number)?;
    let passes = match comparison {
        Comparison::Greater => order.is_gt(),
        Comparison::AtLeast => order.is_ge(),
        Comparison::Less => order.is_lt(),
        _ => order.is_le(),
    };
    let size = if above { "large" } else { "small" };
    (!passes).then(|| format!("compares an int with `{}`, and no int is so {size}", number.canonical()))
}

/// Why no value of that type equals the constant.
pub(super) fn impossible_equality(holds: &(Node, Type), value: &Value<'_>) -> Option<String> {
    if let Node::Constant(_) = holds.0 {
        return None;
    }
    match (&holds.1, value) {
        (Type::View(ViewType::Enum(names)), Value::Number(number)) => {
            let is = |index: &usize| Numeric::Uint(*index as u64).equals(*number);
            let name = (0..names.len()).find(is).map(|index| names[index])?;
            Some(format!("compares with the number of `{name}`, which is seen by its name"))
        }
        (Type::View(ViewType::Enum(names)), value) => {
            let name = value.as_str().filter(|name| !names.contains(name))?;
            let near = suggestion(name, names.iter().copied());
            Some(format!("compares with `{}`, which is none of the names that can stand there{near}", shown(name)))
        }
        (Type::Int, Value::Number(number)) => {
            let integer = match number {
                Numeric::Int(_) => true,
                Numeric::Uint(unsigned) => i64::try_from(*unsigned).is_ok(),
                // Both ends are powers of two, which doubles represent exactly.
                Numeric::Double(double) => {
                    double.fract() == 0.0 && *double >= i64::MIN as f64 && *double < -(i64::MIN as f64)
                }
            };
            (!integer).then(|| format!("compares an int with `{}`, which no int equals", number.canonical()))
        }
        _ => None,
    }
}
