//! CEL integer arithmetic: an overflow is a fault.

use super::error::EvalError;
use super::tree::Arithmetic;
use super::value::Value;
use crate::reaction::rules::number::Numeric;

pub(super) fn negate<'e>(value: &Value<'e>) -> Result<Value<'e>, EvalError> {
    match value {
        Value::Number(Numeric::Int(integer)) => {
            integer.checked_neg().map(Value::int).ok_or_else(|| EvalError::fault("an int overflows"))
        }
        Value::Number(Numeric::Double(double)) => Ok(Value::double(-double)),
        other => Err(EvalError::Fault(format!("a {} has no negative", other.type_name()).into())),
    }
}

pub(super) fn whole<T>(arithmetic: Arithmetic, by_zero: bool, done: Option<T>) -> Result<T, EvalError> {
    let divides = matches!(arithmetic, Arithmetic::Divide | Arithmetic::Remainder);
    done.ok_or_else(|| EvalError::fault(if divides && by_zero { "divides by zero" } else { "an int overflows" }))
}

pub(super) fn int_operation(arithmetic: Arithmetic) -> fn(i64, i64) -> Option<i64> {
    match arithmetic {
        Arithmetic::Add => i64::checked_add,
        Arithmetic::Subtract => i64::checked_sub,
        Arithmetic::Multiply => i64::checked_mul,
        Arithmetic::Divide => i64::checked_div,
        Arithmetic::Remainder => i64::checked_rem,
    }
}

pub(super) fn uint_operation(arithmetic: Arithmetic) -> fn(u64, u64) -> Option<u64> {
    match arithmetic {
        Arithmetic::Add => u64::checked_add,
        Arithmetic::Subtract => u64::checked_sub,
        Arithmetic::Multiply => u64::checked_mul,
        Arithmetic::Divide => u64::checked_div,
        Arithmetic::Remainder => u64::checked_rem,
    }
}
