//! A rule's CEL expression over `event`, the rule view.
//!
//! Invariant: compiling is quick whatever is written (length and nesting are bounded before
//! the parser sees the text), and evaluating costs no more than a small multiple of the
//! size of the expression times that of the view: macros (`all`, `exists`, `map`, ...) are
//! at most two deep, and an inner one ranges over what the outer one gives it, never over
//! `event` again. An expression that fails at run time, a missing field included, or that
//! gives anything but a bool, is no match.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel_interpreter::common::ast::{EntryExpr, Expr, IdedExpr};
use cel_interpreter::objects::Key;
use cel_interpreter::{Context, ExecutionError, Program, Value as CelValue};
use serde_json::Value;

/// Bytes of an expression's text.
pub(super) const EXPRESSION_BYTES_MAX: usize = 4_096;
/// How deep brackets, parentheses and braces may stand in one another.
const NESTING_MAX: usize = 12;
/// Unary signs in a row and `?` in one expression: each makes the parser recurse.
const RECURSION_MAX: usize = 24;
/// Macros inside of macros.
const MACRO_DEPTH_MAX: usize = 2;
/// Characters of the parser's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 200;

/// Building the standard library costs 40 µs, so there is one for the whole process.
static ROOT: LazyLock<Context<'static, 'static>> = LazyLock::new(Context::default);

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Expression(Program);

/// One event as expressions see it: converted once, however many ask.
pub(super) struct Scope(Context<'static, 'static>);

/// Why an evaluation gave no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// A field that is not there, a type that does not fit, a division by zero.
    Failed,
    NotBool,
}

impl Scope {
    pub(super) fn new(view: &Value) -> Self {
        let mut scope = ROOT.new_inner_scope();
        scope.add_variable_from_value("event", to_cel(view));
        Self(scope)
    }
}

impl Expression {
    /// Compiles an expression; the error is one clause for the person who wrote it.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("must be at most {EXPRESSION_BYTES_MAX} bytes long"));
        }
        bound_nesting(source)?;
        let program = Program::compile(source).map_err(|errors| {
            let Some(error) = errors.errors.first() else { return "is not a CEL expression".to_owned() };
            let message: String = error.msg.chars().take(MESSAGE_CHARS_MAX).collect();
            format!("is not a CEL expression: line {}, column {}: {message}", error.pos.0, error.pos.1)
        })?;
        Names::default().check(program.expression(), 0)?;
        let expression = Self(program);
        expression.try_out()?;
        Ok(expression)
    }

    pub(super) fn evaluate(&self, scope: &Scope) -> Result<bool, Fault> {
        match self.0.execute(&scope.0) {
            Ok(CelValue::Bool(verdict)) => Ok(verdict),
            Ok(_) => Err(Fault::NotBool),
            Err(_) => Err(Fault::Failed),
        }
    }

    /// Evaluates once over nothing: what has no chance with any event is refused now.
    fn try_out(&self) -> Result<(), String> {
        match self.0.execute(&Scope::new(&Value::Object(Default::default())).0) {
            Ok(CelValue::Bool(_)) => Ok(()),
            Ok(_) => Err("must give a bool".to_owned()),
            Err(ExecutionError::UndeclaredReference(name)) => {
                Err(format!("names an unknown function or type `{name}`"))
            }
            // A field that the empty event lacks, most of all.
            Err(_) => Ok(()),
        }
    }
}

/// Integers become CEL's `int`, so that they take part in arithmetic with literals.
fn to_cel(value: &Value) -> CelValue {
    match value {
        Value::Null => CelValue::Null,
        Value::Bool(value) => CelValue::Bool(*value),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => CelValue::Int(integer),
            (None, Some(integer)) => CelValue::UInt(integer),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => CelValue::String(Arc::new(text.clone())),
        Value::Array(elements) => CelValue::List(Arc::new(elements.iter().map(to_cel).collect())),
        Value::Object(members) => {
            let members: HashMap<Key, CelValue> =
                members.iter().map(|(name, member)| (Key::String(Arc::new(name.clone())), to_cel(member))).collect();
            CelValue::Map(members.into())
        }
    }
}

/// Refuses text that would make the parser recurse deeply, without parsing it.
fn bound_nesting(source: &str) -> Result<(), String> {
    let (mut depth, mut signs, mut choices) = (0usize, 0usize, 0usize);
    let bytes = source.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'(' | b'[' | b'{' => depth += 1,
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
        if signs > RECURSION_MAX || choices > RECURSION_MAX {
            return Err(format!("must not have more than {RECURSION_MAX} signs in a row or `?` in all"));
        }
        at += 1;
    }
    Ok(())
}

/// The index of the last byte of the string literal that opens at `open`: brackets in it are data.
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

/// Checks that an expression speaks of `event` and of its own macros' variables alone.
#[derive(Default)]
struct Names<'e> {
    /// The variables of the macros around the node.
    bound: Vec<&'e str>,
}

/// The identifiers that name types: `type(event.x) == int`.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

impl<'e> Names<'e> {
    fn check(&mut self, node: &'e IdedExpr, depth: usize) -> Result<(), String> {
        match &node.expr {
            Expr::Unspecified | Expr::Literal(_) => Ok(()),
            Expr::Ident(name) => {
                if name == "event" || self.bound.contains(&name.as_str()) || TYPES.contains(&name.as_str()) {
                    Ok(())
                } else {
                    Err(format!("names an unknown variable `{name}`: there is `event` alone"))
                }
            }
            Expr::Select(select) => self.check(&select.operand, depth),
            Expr::Call(call) => {
                call.target.as_deref().into_iter().chain(&call.args).try_for_each(|n| self.check(n, depth))
            }
            Expr::List(list) => list.elements.iter().try_for_each(|n| self.check(n, depth)),
            Expr::Map(map) => self.entries(map.entries.iter().map(|entry| &entry.expr), depth),
            Expr::Struct(_) => Err("must not build messages".to_owned()),
            Expr::Comprehension(each) => {
                if depth >= MACRO_DEPTH_MAX {
                    return Err(format!("must not nest macros deeper than {MACRO_DEPTH_MAX}"));
                }
                if depth > 0 && each.iter_range.references().has_variable("event") {
                    return Err("must not range over `event` inside of a macro: use the macro's variable".to_owned());
                }
                self.check(&each.iter_range, depth + 1)?;
                self.check(&each.accu_init, depth + 1)?;
                let outer = self.bound.len();
                self.bound.extend([each.iter_var.as_str(), each.accu_var.as_str()]);
                self.bound.extend(each.iter_var2.as_deref());
                let inner = [&each.loop_cond, &each.loop_step, &each.result]
                    .into_iter()
                    .try_for_each(|n| self.check(n, depth + 1));
                self.bound.truncate(outer);
                inner
            }
        }
    }

    fn entries(&mut self, entries: impl Iterator<Item = &'e EntryExpr>, depth: usize) -> Result<(), String> {
        for entry in entries {
            match entry {
                EntryExpr::MapEntry(entry) => {
                    self.check(&entry.key, depth)?;
                    self.check(&entry.value, depth)?;
                }
                EntryExpr::StructField(field) => self.check(&field.value, depth)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::reaction::tests::is_quick;

    fn evaluate(source: &str) -> Result<bool, Fault> {
        let view = json!({
            "app_id": "shop", "timestamp_ms": 1_700_000_000_000i64,
            "device_context": {"platform": "PLATFORM_IOS", "is_emulator": false},
            "purchase_complete": {"total_cents": 12_500, "currency": "EUR", "ratio": 0.5,
                "items": [{"product_id": "p1", "quantity": 2}, {"product_id": "p2", "quantity": 1}]},
        });
        let expression = Expression::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        expression.evaluate(&Scope::new(&view))
    }

    #[test]
    fn speaks_about_the_event() {
        for (source, expected) in [
            ("event.device_context.platform == 'PLATFORM_IOS'", Ok(true)),
            ("event.purchase_complete.total_cents >= 10000", Ok(true)),
            ("event.purchase_complete.total_cents * 2 + 1 > 25000", Ok(true)),
            ("event.purchase_complete.ratio < 1", Ok(true)),
            ("event.purchase_complete.total_cents > 12499.5", Ok(true)),
            ("event.timestamp_ms > 1600000000000 && event.app_id.startsWith('sh')", Ok(true)),
            ("event.purchase_complete.currency in ['EUR', 'USD']", Ok(true)),
            ("event.purchase_complete.items.exists(i, i.quantity > 1 && i.product_id == 'p1')", Ok(true)),
            ("event.purchase_complete.items.all(i, i.quantity > 1)", Ok(false)),
            ("size(event.purchase_complete.items) == 2", Ok(true)),
            ("event.purchase_complete.currency.matches('^[A-Z]{3}$')", Ok(true)),
            ("has(event.user_login)", Ok(false)),
            ("has(event.purchase_complete) && !event.device_context.is_emulator", Ok(true)),
            ("type(event.purchase_complete.total_cents) == int", Ok(true)),
            ("event.user_login.method == 'x'", Err(Fault::Failed)),
            ("event.user_login.method == 'x' || event.app_id == 'shop'", Ok(true)),
            ("event.app_id", Err(Fault::NotBool)),
            ("event.app_id > 5", Err(Fault::Failed)),
        ] {
            assert_eq!(evaluate(source), expected, "{source}");
        }
    }

    #[test]
    fn refuses_what_cannot_work() {
        for (source, part) in [
            ("", "is not a CEL expression"),
            ("event.a ==", "is not a CEL expression: line 1"),
            ("foo == 1", "unknown variable `foo`"),
            ("1 + 1", "must give a bool"),
            ("frobnicate(event) == 1", "unknown function or type `frobnicate`"),
            ("event.l.all(a, a.l.all(b, b.l.all(c, c)))", "must not nest macros deeper"),
            ("event.l.all(a, event.l.all(b, b == a))", "must not range over `event`"),
        ] {
            let error = Expression::compile(source).expect_err(source);
            assert!(error.contains(part), "{source}: {error}");
        }
    }

    #[test]
    fn refuses_what_would_be_expensive_and_quickly() {
        for source in [
            "(".repeat(2_000),
            "[".repeat(4_000),
            "[".repeat(NESTING_MAX),
            format!("{}true{}", "(".repeat(NESTING_MAX + 1), ")".repeat(NESTING_MAX + 1)),
            "!".repeat(4_000),
            "- ".repeat(2_000),
            "a?".repeat(2_000),
            "{".repeat(2_000),
            "1+".repeat(2_000),
            "x.".repeat(2_000),
            "'".repeat(4_000),
            "true&&".repeat(600),
            "f(".repeat(NESTING_MAX),
            "a".repeat(EXPRESSION_BYTES_MAX + 1),
        ] {
            let head: String = source.chars().take(12).collect();
            assert!(Expression::compile(&source).is_err(), "{head}");
            assert!(is_quick(|| drop(Expression::compile(&source))), "{head}");
        }
    }

    #[test]
    fn brackets_in_strings_and_comments_are_data() {
        let deep = "(".repeat(NESTING_MAX + 1);
        for source in [
            format!("event.a == '{deep}'"),
            format!("event.a == r\"\\{deep}\""),
            format!("event.a == \"\"\"\n\"{deep}\"\"\""),
            format!("event.a == 'it\\'s {deep}'"),
            format!("event.a == 1 // {deep}"),
        ] {
            Expression::compile(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        }
        let closing = format!("'{}'", ")".repeat(NESTING_MAX));
        let hidden = format!("{}{closing} + {closing}{}", "(".repeat(NESTING_MAX), "(".repeat(NESTING_MAX));
        assert!(Expression::compile(&hidden).unwrap_err().contains("must not nest"));
    }

    #[test]
    fn the_deepest_allowed_nesting_compiles_quickly() {
        let source = format!("{}event.a == [1]{}", "(".repeat(NESTING_MAX - 1), ")".repeat(NESTING_MAX - 1));
        Expression::compile(&source).unwrap();
        let chain = vec!["event.a == 1"; 250].join(" || ");
        Expression::compile(&chain).unwrap();
        assert!(is_quick(|| drop(Expression::compile(&source))) && is_quick(|| drop(Expression::compile(&chain))));
    }

    proptest! {
        /// Tokens thrown together: most do not compile, none may panic or take long.
        #[test]
        fn whatever_is_written_is_answered_quickly(
            tokens in prop::collection::vec(prop::sample::select(TOKENS.as_slice()), 0..40)
        ) {
            let view = json!({"a": [1, -9_223_372_036_854_775_808i64, "x"], "b": {"a": 0.5, "b": null}});
            let quick = is_quick(|| {
                if let Ok(expression) = Expression::compile(&tokens.concat()) {
                    let _ = expression.evaluate(&Scope::new(&view));
                }
            });
            prop_assert!(quick);
        }
    }

    const TOKENS: [&str; 40] = [
        "event",
        ".a",
        ".b",
        "[0]",
        "['a']",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "?",
        "+",
        "-",
        "*",
        "/",
        "%",
        "!",
        "==",
        "<",
        " in ",
        "&&",
        "||",
        "1",
        "-9223372036854775808",
        "0",
        "1.5",
        "2u",
        "'x'",
        "r'\\'",
        "true",
        "null",
        ".map(x, x)",
        ".exists(x, x == 1)",
        "size(",
        "has(event.a)",
        "int(",
        ".matches('",
    ];
}
