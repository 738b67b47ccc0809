//! Regular expressions from rules and from events.
//!
//! Invariant: compilation is bounded by the size of the pattern, and matching is charged at its worst case: the length
//! of the text times the size of the pattern.

use std::fmt::Write as _;

use regex::{Regex, RegexBuilder};

use super::budget::{Budget, Exhausted};

/// Bytes of a pattern's source.
pub(super) const PATTERN_BYTES_MAX: usize = 1_024;
/// Size classes of compiled patterns, tried in order: bytes, and the steps charged for matching one KiB of text.
const SIZE_CLASSES: [(usize, usize); 4] = [(16 << 10, 128), (64 << 10, 512), (256 << 10, 2_048), (1 << 20, 8_192)];
/// Bytes of all compiled patterns of one rule.
pub(super) const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Bytes of a pattern that comes from the event rather than from the rule.
const DYNAMIC_BYTES_MAX: usize = 256;
/// Steps charged for compiling such a pattern.
const DYNAMIC_STEPS: usize = 5_000;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    steps_a_kib: usize,
    /// The upper bound of its compiled size.
    bytes_max: usize,
}

impl Pattern {
    /// Compiles a pattern. The error is one clause for its author.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > PATTERN_BYTES_MAX {
            return Err(format!("must be at most {PATTERN_BYTES_MAX} bytes long"));
        }
        Self::build(source, &SIZE_CLASSES)
    }

    /// Compiles a pattern from an event. `None` when it is not a regular expression or is too large.
    pub(super) fn dynamic(source: &str, budget: &mut Budget) -> Result<Option<Self>, Exhausted> {
        budget.steps(DYNAMIC_STEPS)?;
        if source.len() > DYNAMIC_BYTES_MAX {
            return Ok(None);
        }
        Ok(Self::build(source, &SIZE_CLASSES[..1]).ok())
    }

    /// Compiles an I-Regexp (RFC 9485) from a rule, for JSONPath's `match` (the `whole` text) or `search`.
    pub(super) fn compile_i_regexp(source: &str, whole: bool) -> Result<Self, String> {
        let bare = Self::compile(&from_i_regexp(source))?;
        if whole { Self::compile(&anchored(&from_i_regexp(source))) } else { Ok(bare) }
    }

    /// Like `compile_i_regexp`, for a pattern from an event.
    pub(super) fn dynamic_i_regexp(source: &str, whole: bool, budget: &mut Budget) -> Result<Option<Self>, Exhausted> {
        let source = from_i_regexp(source);
        match Self::dynamic(&source, budget)? {
            Some(_) if whole => Self::dynamic(&anchored(&source), budget),
            bare => Ok(bare),
        }
    }

    fn build(source: &str, classes: &[(usize, usize)]) -> Result<Self, String> {
        for (compiled_bytes_max, steps_a_kib) in classes {
            match RegexBuilder::new(source).size_limit(*compiled_bytes_max).build() {
                Ok(regex) => {
                    return Ok(Self { regex, steps_a_kib: *steps_a_kib, bytes_max: *compiled_bytes_max });
                }
                Err(regex::Error::CompiledTooBig(_)) => {}
                // The message repeats the pattern; its last line names the mistake.
                Err(other) => {
                    let message = other.to_string();
                    let reason = message.lines().last().unwrap_or_default();
                    let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                    return Err(format!("is not a regular expression: {reason}"));
                }
            }
        }
        Err(format!("compiles to more than {} bytes", classes.last().map_or(0, |(bytes, _)| *bytes)))
    }

    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    pub(super) fn is_match(&self, text: &str, budget: &mut Budget) -> Result<bool, Exhausted> {
        budget.steps(1 + text.len().saturating_mul(self.steps_a_kib) / 1_024)?;
        Ok(self.regex.is_match(text))
    }
}

/// Anchors a pattern to the whole text. The pattern must compile by itself: a surplus bracket would close ours.
fn anchored(pattern: &str) -> String {
    format!(r"\A(?:{pattern})\z")
}

/// Translates an I-Regexp to the syntax of [`Pattern`].
fn from_i_regexp(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut in_class = false;
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                out.push(c);
                out.extend(chars.next());
            }
            '[' if !in_class => {
                in_class = true;
                out.push(c);
            }
            ']' => {
                in_class = false;
                out.push(c);
            }
            // `.` matches neither of the two line terminators.
            '.' if !in_class => out.push_str(r"[^\n\r]"),
            // These are ordinary characters in an I-Regexp.
            '^' | '$' if !in_class => {
                let _ = write!(out, "\\{c}");
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn oversized_patterns_are_refused_quickly() {
        for source in [r"((\w{9}){9}){9}", "(a{1000}){1000}", r"(?i)((\pL{5}){50}){50}", "((((a{9}){9}){9}){9}){9}"] {
            let started = Instant::now();
            assert!(Pattern::compile(source).unwrap_err().starts_with("compiles to more than"), "{source}");
            assert!(started.elapsed().as_millis() < 500, "{source} {:?}", started.elapsed());
        }
        assert_eq!(Pattern::compile("a(b").unwrap_err(), "is not a regular expression: unclosed group");
        assert!(Pattern::compile(&"a".repeat(PATTERN_BYTES_MAX + 1)).unwrap_err().starts_with("must be at most"));
    }

    #[test]
    fn matching_is_charged_by_text_and_pattern() {
        let cost = |source: &str, length: usize| {
            let mut budget = Budget::full();
            Pattern::compile(source).unwrap().is_match(&"a".repeat(length), &mut budget).map(|_| budget.used())
        };
        assert!(cost("error: .*timeout", 250_000).unwrap() < 50_000);
        assert!(cost(r"^[\w.]+@\w+\.[a-z]{2,10}$", 1_000).unwrap() < 10_000);
        assert_eq!(cost(r"[ab]*a[ab]{3000}z", 250_000), Err(Exhausted));
        let mut budget = Budget::full();
        assert!(Pattern::dynamic("a+", &mut budget).unwrap().is_some());
        assert!(Pattern::dynamic("(", &mut budget).unwrap().is_none());
        assert!(Pattern::dynamic(&"a".repeat(300), &mut budget).unwrap().is_none());
        assert!(std::iter::repeat_with(|| Pattern::dynamic("a", &mut budget)).take(100).any(|tried| tried.is_err()));
    }

    #[test]
    fn i_regexps_follow_the_standard() {
        let matches = |source: &str, whole: bool, text: &str| {
            let written = Pattern::compile_i_regexp(source, whole).unwrap();
            let brought = Pattern::dynamic_i_regexp(source, whole, &mut Budget::full()).unwrap().unwrap();
            let matches = written.is_match(text, &mut Budget::full()).unwrap();
            assert_eq!(brought.is_match(text, &mut Budget::full()), Ok(matches), "{source}");
            matches
        };
        // A pattern that is invalid by itself stays invalid inside a group.
        for source in ["a)|(b", "a)|(?:b", ")(", "(?x)a#"] {
            let written = Pattern::compile_i_regexp(source, true);
            let brought = Pattern::dynamic_i_regexp(source, true, &mut Budget::full()).unwrap();
            assert!(written.is_err() && brought.is_none(), "{source}");
        }
        assert!(matches("a.b", true, "axb") && !matches("a.b", true, "a\nb") && !matches("a.b", true, "a\rb"));
        assert!(matches("a|b", true, "b") && !matches("a|b", true, "bb") && matches("a|b", false, "xbx"));
        assert!(matches(r"1\.5", true, "1.5") && !matches(r"1\.5", true, "1x5"));
        assert!(matches("[.]", true, ".") && !matches("[.]", true, "x"));
        assert!(matches("[^.]", true, "x"));
    }
}
