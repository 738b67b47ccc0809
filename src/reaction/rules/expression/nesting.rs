//! Bounds on an expression's text, enforced before parsing.
//!
//! Invariant: accepted text makes the parser neither recurse deeply nor take long.

/// Nesting depth of brackets, parentheses and braces.
pub(super) const NESTING_MAX: usize = 12;
/// Total brackets, parentheses and braces: long call chains parse slowly.
const BRACKETS_MAX: usize = 256;
/// Unary signs in a row and `?` in one expression: each makes the parser recurse.
const RECURSION_MAX: usize = 24;

/// Refuses text that would make the parser recurse deeply, without parsing it.
pub(super) fn bound(source: &str) -> Result<(), String> {
    let (mut depth, mut brackets, mut signs, mut choices) = (0usize, 0usize, 0usize, 0usize);
    let bytes = source.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => {
                depth += 1;
                brackets += 1;
            }
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'?' => choices += 1,
            b'"' | b'\'' => at = string_end(bytes, at),
            b'/' if bytes.get(at + 1) == Some(&b'/') => at += bytes[at..].iter().take_while(|b| **b != b'\n').count(),
            _ => {}
        }
        signs = match bytes.get(at) {
            Some(b'!' | b'-') => signs + 1,
            Some(byte) if byte.is_ascii_whitespace() => signs,
            _ => 0,
        };
        if depth > NESTING_MAX {
            return Err(format!("must not nest brackets deeper than {NESTING_MAX}"));
        }
        if brackets > BRACKETS_MAX {
            return Err(format!("must not have more than {BRACKETS_MAX} brackets"));
        }
        if signs > RECURSION_MAX || choices > RECURSION_MAX {
            return Err(format!("must not have more than {RECURSION_MAX} signs in a row or `?` in all"));
        }
        at += 1;
    }
    Ok(())
}

/// The index of the last byte of the string literal that opens at `open`; brackets inside are ignored.
fn string_end(bytes: &[u8], open: usize) -> usize {
    let quote = bytes[open];
    // `r'..'`, `br'..'`, `rb'..'`: a backslash escapes nothing.
    let prefix = bytes[..open].iter().rev().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    let raw = prefix <= 2 && bytes[open - prefix..open].iter().any(|b| matches!(b, b'r' | b'R'));
    let length = if bytes[open..].starts_with(&[quote; 3]) { 3 } else { 1 };
    let mut at = open + length;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if !raw => at += 1,
            b'\n' if length == 1 => return at,
            b if b == quote && bytes[at..].starts_with(&[quote; 3][..length]) => return at + length - 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}
