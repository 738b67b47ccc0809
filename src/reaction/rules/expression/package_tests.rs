//! Expressions against the package's own interpreter.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel_interpreter::objects::Key;
use cel_interpreter::{Context, ExecutionError, Program, Value as CelValue};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Value as Json, json};

use super::tests::compile;
use super::*;

/// The result of the `cel` package's own interpreter, which ours must equal.
fn evaluate_with_package(source: &str, view: &Json) -> Option<Result<bool, ()>> {
    static ROOT: LazyLock<Context<'static, 'static>> = LazyLock::new(Context::default);
    let program = Program::compile(source).ok()?;
    let mut scope = ROOT.new_inner_scope();
    scope.add_variable_from_value("event", to_cel(view));
    Some(match program.execute(&scope) {
        Ok(CelValue::Bool(result)) => Ok(result),
        Ok(_) => Err(()),
        // We check types and names before evaluation.
        Err(ExecutionError::UndeclaredReference(_)) => return None,
        Err(_) => Err(()),
    })
}

fn to_cel(value: &Json) -> CelValue {
    match value {
        Json::Null => CelValue::Null,
        Json::Bool(value) => CelValue::Bool(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => CelValue::Int(integer),
            (None, Some(integer)) => CelValue::UInt(integer),
            (None, None) => CelValue::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => CelValue::String(Arc::new(text.clone())),
        Json::Array(elements) => CelValue::List(Arc::new(elements.iter().map(to_cel).collect())),
        Json::Object(members) => {
            let members: HashMap<Key, CelValue> =
                members.iter().map(|(name, member)| (Key::String(Arc::new(name.clone())), to_cel(member))).collect();
            CelValue::Map(members.into())
        }
    }
}

/// The same cases in every run, unless `PROPTEST_RNG_SEED` asks for others.
fn same_cases(cases: u32) -> ProptestConfig {
    let config =
        ProptestConfig { cases, max_global_rejects: 100_000, failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_RNG_SEED") {
        Some(_) => config,
        None => ProptestConfig { rng_seed: RngSeed::Fixed(9_535), ..config },
    }
}

/// A dynamic field, so that nothing is refused before evaluation.
const P: &str = "event.custom_event.properties";

/// A scalar, a list or a map, from the event or literal.
fn any_term() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        prop::sample::select(vec![
            "n", "m", "d", "w", "s", "e", "t", "z", "l", "ls", "o", "missing", "l[0]", "l[3]", "o.a", "o['b']",
            "ls[1]",
        ])
        .prop_map(|path| format!("{P}.{path}")),
        prop::sample::select(vec![
            "0",
            "1",
            "-1",
            "2",
            "3u",
            "0u",
            "1.5",
            "1.0",
            "-0.0",
            "1e3",
            "'a'",
            "'abc'",
            "''",
            "'1'",
            "'true'",
            "true",
            "false",
            "null",
            "b'ab'",
            "[]",
            "[1, 2]",
            "['a', 'b']",
            "{}",
            "{'a': 1}",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615u",
            "int",
            "string",
            "type(1)",
        ])
        .prop_map(|literal| format!("dyn({literal})")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (
                two.clone(),
                prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"])
            )
                .prop_map(|((a, b), sign)| format!("({a} {sign} {b})")),
            (
                inner.clone(),
                prop::sample::select(vec!["size", "int", "uint", "double", "string", "bool", "bytes", "dyn", "type"])
            )
                .prop_map(|(a, name)| format!("{name}({a})")),
            (two.clone(), prop::sample::select(vec!["startsWith", "endsWith", "contains", "matches"]))
                .prop_map(|((a, b), name)| format!("{a}.{name}(dyn({b}))")),
            (two.clone(), prop::sample::select(vec!["all", "exists", "exists_one", "filter", "map"]))
                .prop_map(|((a, b), name)| format!("{a}.{name}(x, {b} == x || x == {b})")),
            (two.clone(), prop::sample::select(vec!["all", "exists", "exists_one"]))
                .prop_map(|((a, b), name)| format!("{a}.{name}(x, x > {b})")),
            two.clone().prop_map(|(a, b)| format!("{a}.map(x, x == {b}, [x])")),
            (inner.clone(), two.clone()).prop_map(|(a, (b, c))| format!("({a} ? {b} : {c})")),
            two.clone().prop_map(|(a, b)| format!("{a}[{b}]")),
            two.prop_map(|(a, b)| format!("[{a}, {b}]")),
            inner.clone().prop_map(|a| format!("!{a}")),
            inner.prop_map(|a| format!("-({a})")),
            prop::sample::select(vec!["s", "missing", "o.a", "o.missing", "l.a"])
                .prop_map(|path| format!("has({P}.{path})")),
        ]
    })
}

proptest! {
    #![proptest_config(same_cases(2_000))]
    /// Both return the same result, or both fail.
    #[test]
    fn results_equal_those_of_the_package(term in any_term(), other in any_term(), sign in prop::sample::select(vec!["", "==", "<", "in"])) {
        let source = if sign.is_empty() { term } else { format!("{term} {sign} {other}") };
        prop_assume!(source.len() < EXPRESSION_BYTES_MAX);
        let properties = json!({"n": 1, "m": -7, "d": 1.5, "w": 2.0, "s": "abc", "e": "", "t": true, "z": null,
            "l": [1, 2.0, "a", true, null], "ls": ["a", "b"], "o": {"a": 1, "b": {"c": [1]}}});
        let view = json!({"custom_event": {"properties": properties}});
        if let (Ok(expression), Some(expected)) = (compile(&source), evaluate_with_package(&source, &view)) {
            // Expressions that are refused on writing are not compared.
            prop_assume!(expression.problems.is_empty());
            let ours = expression.evaluate(&view.into(), &mut Budget::full());
            prop_assume!(ours != Err(ExpressionFault::Budget));
            // The package adds the keys of a map to a list, which is not CEL.
            prop_assume!(ours != Err(ExpressionFault::Failed("computes a list with a map".into())));
            prop_assert_eq!(ours.clone().map_err(|_| ()), expected, "{} {:?} {:?}", source, ours, expression.problems);
        }
    }
}
