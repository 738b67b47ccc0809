//! Exact comparison of numbers across integer and floating-point types.
//!
//! Invariant: two numbers are equal only when they are the same number. An integer is never converted to a double,
//! which cannot represent every integer above 2^53. Conditions, expressions, thresholds, `in` and the filters of paths
//! all compare here.

use std::cmp::Ordering;

use serde_json::Number;

use super::budget::{Budget, Exhausted};
use crate::event::ViewValue;

/// A number from a view, a document or an expression.
#[derive(Clone, Copy, Debug)]
pub(in crate::reaction) enum Numeric {
    Int(i64),
    Uint(u64),
    Double(f64),
}

impl Numeric {
    pub(in crate::reaction) fn of(number: &Number) -> Self {
        match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Self::Int(integer),
            (None, Some(integer)) => Self::Uint(integer),
            (None, None) => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
        }
    }

    pub(in crate::reaction) fn of_value(value: &ViewValue<'_>) -> Option<Self> {
        match value {
            ViewValue::Int(integer) => Some(Self::Int(*integer)),
            ViewValue::Uint(integer) => Some(Self::Uint(*integer)),
            ViewValue::Double(double) => Some(Self::Double(*double)),
            _ => None,
        }
    }

    /// `None` when either is NaN.
    pub(in crate::reaction) fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(&b),
            (Self::Double(a), b) => b.whole().and_then(|b| compare_with_double(b, a)).map(Ordering::reverse),
            (a, Self::Double(b)) => a.whole().and_then(|a| compare_with_double(a, b)),
            (a, b) => Some(a.whole()?.cmp(&b.whole()?)),
        }
    }

    pub(in crate::reaction) fn equals(self, other: Self) -> bool {
        self.compare(other) == Some(Ordering::Equal)
    }

    fn whole(self) -> Option<i128> {
        match self {
            Self::Int(integer) => Some(integer.into()),
            Self::Uint(integer) => Some(integer.into()),
            Self::Double(_) => None,
        }
    }

    /// Equal numbers have equal text, so that `1` and `1.0` form one group.
    pub(in crate::reaction) fn canonical(self) -> String {
        match self {
            Self::Int(integer) => integer.to_string(),
            Self::Uint(integer) => integer.to_string(),
            // Integral doubles of this size are exact as `i128`, and print as the integer that they equal.
            Self::Double(double) if double.fract() == 0.0 && double.abs() < 2f64.powi(64) => {
                (double as i128).to_string()
            }
            Self::Double(double) => Number::from_f64(double).map_or_else(|| "null".to_owned(), |n| n.to_string()),
        }
    }
}

/// A number other than NaN, in the order of the exact values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact(pub(super) Numeric);

impl Ord for Exact {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.compare(other.0).unwrap_or(Ordering::Equal)
    }
}

impl PartialOrd for Exact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Exact {}

fn compare_with_double(integer: i128, double: f64) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // The cast saturates far outside the 64-bit range, so the order stays right.
    let whole = double.trunc();
    let fraction = double - whole;
    // Infinity minus itself is NaN, but then the integral parts already differ.
    Some(integer.cmp(&(whole as i128)).then_with(|| 0.0f64.partial_cmp(&fraction).unwrap_or(Ordering::Equal)))
}

/// JSON equality: numbers by value, everything else by type and content.
pub(in crate::reaction) fn equal(a: &ViewValue<'_>, b: &ViewValue<'_>, budget: &mut Budget) -> Result<bool, Exhausted> {
    budget.step()?;
    Ok(match (a, b) {
        (ViewValue::Text(a), ViewValue::Text(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            budget.bytes(a.len())?;
            a == b
        }
        (ViewValue::List(a), ViewValue::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b) {
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (ViewValue::Object(a), ViewValue::Object(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, a) in a.iter() {
                let Some(b) = b.get(key) else { return Ok(false) };
                if !equal(a, b, budget)? {
                    return Ok(false);
                }
            }
            true
        }
        (ViewValue::Null, ViewValue::Null) => true,
        (ViewValue::Bool(a), ViewValue::Bool(b)) => a == b,
        _ => Numeric::of_value(a).zip(Numeric::of_value(b)).is_some_and(|(a, b)| a.equals(b)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn neighbours_beyond_two_to_the_53_differ() {
        let big = 9_007_199_254_740_992i64;
        assert!(!Numeric::Int(big + 1).equals(Numeric::Double(big as f64)));
        assert!(Numeric::Int(big).equals(Numeric::Double(big as f64)));
        assert_eq!(Numeric::Int(big + 1).compare(Numeric::Double(big as f64)), Some(Ordering::Greater));
        assert_eq!(Numeric::Double(big as f64).compare(Numeric::Int(big + 1)), Some(Ordering::Less));
        assert_eq!(Numeric::Uint(u64::MAX).compare(Numeric::Double(2f64.powi(64))), Some(Ordering::Less));
        assert_eq!(Numeric::Int(i64::MAX).compare(Numeric::Double(2f64.powi(63))), Some(Ordering::Less));
        assert!(Numeric::Int(i64::MIN).equals(Numeric::Double(-(2f64.powi(63)))));
        assert_eq!(Numeric::Int(-1).compare(Numeric::Uint(u64::MAX)), Some(Ordering::Less));
        assert_eq!(Numeric::Int(1).compare(Numeric::Double(f64::NAN)), None);
        assert_eq!(Numeric::Int(i64::MAX).compare(Numeric::Double(f64::INFINITY)), Some(Ordering::Less));
        assert_eq!(Numeric::Double(f64::NEG_INFINITY).compare(Numeric::Uint(0)), Some(Ordering::Less));
        assert!(Numeric::Double(-0.0).equals(Numeric::Int(0)));
    }

    fn any_numeric() -> impl Strategy<Value = Numeric> {
        prop_oneof![
            any::<i64>().prop_map(Numeric::Int),
            any::<u64>().prop_map(Numeric::Uint),
            any::<f64>().prop_filter("a number", |n| !n.is_nan()).prop_map(Numeric::Double),
            (any::<i64>(), -2i64..3).prop_map(|(n, off)| Numeric::Double((n as f64) + off as f64)),
            (-3i64..3).prop_map(Numeric::Int),
            (-6i64..6).prop_map(|n| Numeric::Double(n as f64 / 2.0)),
        ]
    }

    proptest! {
        #[test]
        fn it_is_a_total_order_that_groups_by_value(a in any_numeric(), b in any_numeric(), c in any_numeric()) {
            let order = |a: Numeric, b: Numeric| a.compare(b).unwrap();
            prop_assert_eq!(order(a, b), order(b, a).reverse());
            if order(a, b).is_le() && order(b, c).is_le() {
                prop_assert!(order(a, c).is_le());
            }
            if let (Numeric::Int(a), Numeric::Int(b)) = (a, b) {
                prop_assert_eq!(order(Numeric::Int(a), Numeric::Int(b)), a.cmp(&b));
            }
            let huge = |n: Numeric| matches!(n, Numeric::Double(d) if d.abs() >= 2f64.powi(64));
            if !huge(a) && !huge(b) {
                prop_assert_eq!(order(a, b).is_eq(), a.canonical() == b.canonical(), "{:?} {:?}", a, b);
            }
        }
    }
}
