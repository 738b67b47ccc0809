//! Decimal text to integers, exactly: never through a double.

/// From this value on, a double cannot represent every integer: `2^53 + 1`.
pub(crate) const EXACT_ABOVE: u64 = (1 << 53) + 1;

/// Whether a JSON number must be kept as text: an integer that a double cannot represent exactly, or a number outside
/// the range of doubles.
pub(crate) fn needs_text(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    match digits.bytes().all(|byte| byte.is_ascii_digit()) {
        true => digits.parse().is_ok_and(|integer: u64| integer >= EXACT_ABOVE) || digits.len() > 19,
        false => number.parse().is_ok_and(|number: f64| number.is_infinite()),
    }
}

/// The value of a JSON number that is a 64-bit integer in any notation: `1e18`, `5.0` and `1200e-2` are integers too.
pub(crate) fn integer(number: &str) -> Option<i64> {
    number.parse().ok().or_else(|| scaled_integer(number))
}

fn scaled_integer(number: &str) -> Option<i64> {
    let (negative, number) = number.strip_prefix('-').map_or((false, number), |number| (true, number));
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let exponent = saturating(exponent)?;
    if whole.is_empty() {
        return None;
    }
    let digits = whole.bytes().chain(fraction.bytes());
    let zeros = digits.clone().rev().take_while(|digit| *digit == b'0').count();
    let significant = whole.len() + fraction.len() - zeros;
    if significant == 0 {
        return Some(0);
    }
    // The value is the significant digits, the last of which is not zero, times ten to this power.
    let power = exponent.saturating_sub(i64::try_from(fraction.len()).ok()?);
    let power = power.saturating_add(i64::try_from(zeros).ok()?);
    let scale = 10_u64.checked_pow(u32::try_from(power).ok()?)?;
    let mut value = 0_u64;
    for digit in digits.take(significant) {
        let digit = char::from(digit).to_digit(10)?;
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
    }
    let value = value.checked_mul(scale)?;
    if negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

/// Parses an exponent. One that exceeds 64 bits saturates.
fn saturating(exponent: &str) -> Option<i64> {
    let digits = exponent.trim_start_matches(['+', '-']);
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_outside_a_double_need_text() {
        for (number, expected) in [
            ("9007199254740992", false),
            ("9007199254740993", true),
            ("-9007199254740993", true),
            ("18446744073709551616", true),
            ("100000000000000000000000", true),
            ("1e400", true),
            ("-1e400", true),
            ("1e300", false),
            ("1234567890123456789.5", false),
            ("0", false),
        ] {
            assert_eq!(needs_text(number), expected, "{number}");
        }
    }

    #[test]
    fn every_notation_of_an_integer_is_exact() {
        let zeros = "0".repeat(100_000);
        let small = format!("12{zeros}e-100000");
        for (text, expected) in [
            ("1e18", Some(1_000_000_000_000_000_000)),
            ("9007199254740993", Some(9_007_199_254_740_993)),
            ("9007199254740993.0", Some(9_007_199_254_740_993)),
            ("9.007199254740993e15", Some(9_007_199_254_740_993)),
            ("9223372036854775807.000", Some(i64::MAX)),
            ("9.223372036854775807E+18", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("9.223372036854775808e18", None),
            ("-9.223372036854775808e18", Some(i64::MIN)),
            ("-922337203685477580.8e1", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("1e19", None),
            ("1200e-2", Some(12)),
            ("0.5e1", Some(5)),
            ("-0", Some(0)),
            ("-0.000e99999999999999999999", Some(0)),
            ("0e-99999999999999999999", Some(0)),
            ("1e99999999999999999999", None),
            ("1e-99999999999999999999", None),
            ("1.5", None),
            ("15e-1", None),
            ("9007199254740992.5", None),
            (&small, Some(12)),
            ("", None),
            ("-", None),
            (".", None),
            ("e5", None),
            ("0e", None),
            ("0ex", None),
            ("NaN", None),
            ("Infinity", None),
            ("-Infinity", None),
        ] {
            assert_eq!(integer(text), expected, "{}", &text[..text.len().min(40)]);
        }
    }

    proptest! {
        #[test]
        fn shifting_the_point_changes_nothing(number in any::<i64>(), places in 0_usize..25) {
            let digits = number.unsigned_abs().to_string();
            let sign = if number < 0 { "-" } else { "" };
            let padded = format!("{digits:0>width$}", width = places + 1);
            let (whole, fraction) = padded.split_at(padded.len() - places);
            let point = if fraction.is_empty() { "" } else { "." };
            prop_assert_eq!(integer(&format!("{sign}{whole}{point}{fraction}e{places}")), Some(number));
            prop_assert_eq!(integer(&format!("{sign}{digits}{}e-{places}", "0".repeat(places))), Some(number));
        }
    }
}
