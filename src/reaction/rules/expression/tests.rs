//! Expressions by example, and bounds on their cost.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::nesting::NESTING_MAX;
use super::*;
use crate::reaction::tests::is_quick;

pub(super) fn compile(source: &str) -> Result<Expression, String> {
    Expression::compile(source, EventKinds::default())
}

/// The first error.
fn refusal(source: &str) -> String {
    match compile(source) {
        Err(error) => error,
        Ok(expression) => expression.problems.first().unwrap_or_else(|| panic!("{source} is taken")).clone(),
    }
}

fn over(source: &str, view: &Json) -> Result<bool, ExpressionFault> {
    let expression = compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
    expression.evaluate(&view.clone().into(), &mut Budget::full())
}

fn purchase() -> Json {
    json!({
        "app_id": "shop", "timestamp_ms": 1_700_000_000_000i64,
        "device_context": {"platform": "PLATFORM_IOS", "is_emulator": false},
        "purchase_complete": {"total_cents": 12_500, "currency": "EUR",
            "items": [{"product_id": "p1", "quantity": 2}, {"product_id": "p2", "quantity": 1}]},
        "custom_event": {"float_params": {"ratio": 0.5}, "int_params": {"big": 9_007_199_254_740_993i64},
            "string_params": {"s": "x"}, "properties": {"n": 1, "d": 1.5, "l": [1, "a", null], "t": true}},
    })
}

#[test]
fn evaluates_fields_of_the_event() {
    let view = purchase();
    for (source, expected) in [
        ("event.device_context.platform == 'PLATFORM_IOS'", true),
        ("event.purchase_complete.total_cents >= 10000", true),
        ("event.purchase_complete.total_cents * 2 + 1 > 25000", true),
        ("event.custom_event.float_params.ratio < 1", true),
        ("event.purchase_complete.total_cents > 12499.5", true),
        ("event.timestamp_ms > 1600000000000 && event.app_id.startsWith('sh')", true),
        ("event.purchase_complete.currency in ['EUR', 'USD']", true),
        ("event.purchase_complete.total_cents in [1, 12500.0]", true),
        ("event.purchase_complete.items.exists(i, i.quantity > 1 && i.product_id == 'p1')", true),
        ("event.purchase_complete.items.all(i, i.quantity > 1)", false),
        ("event.purchase_complete.items.exists_one(i, i.quantity > 1)", true),
        ("event.purchase_complete.items.filter(i, i.quantity > 1).map(i, i.product_id) == ['p1']", true),
        ("event.purchase_complete.items.map(i, i.quantity > 1, i.product_id)[0] == 'p1'", true),
        (
            "event.purchase_complete.items.exists(i, event.purchase_complete.items.exists(j, i.quantity < j.quantity))",
            true,
        ),
        ("size(event.purchase_complete.items) == 2", true),
        ("event.purchase_complete.items.size() == 2", true),
        ("event.purchase_complete.currency.matches('^[A-Z]{3}$')", true),
        ("matches(event.app_id, event.app_id)", true),
        ("has(event.user_login)", false),
        ("has(event.purchase_complete) && !event.device_context.is_emulator", true),
        ("type(event.purchase_complete.total_cents) == int", true),
        ("event.custom_event.int_params.big == 9007199254740993", true),
        ("event.custom_event.int_params.big == 9007199254740992.0", false),
        ("event.custom_event.int_params['big'] > 9007199254740992.0", true),
        ("9007199254740992.0 < event.custom_event.int_params.big", true),
        ("event.custom_event.int_params.big in [9007199254740992.0]", false),
        ("event.custom_event.int_params.big in [9007199254740992.0, event.custom_event.int_params.big + 1]", false),
        ("event.custom_event.properties.l[2] == null && event.custom_event.properties.t", true),
        ("event.custom_event.properties.l.exists(x, type(x) == string)", true),
        ("'n' in event.custom_event.properties", true),
        ("event.custom_event.string_params == {'s': 'x'}", true),
        ("event.custom_event.string_params.all(k, k == 's')", true),
        ("(event.app_id == 'shop' ? 1 : 2) == 1", true),
        ("string(event.purchase_complete.total_cents) + '!' == '12500!'", true),
        ("double(event.purchase_complete.total_cents) * 1.5 == 18750.0", true),
        // The other payload is absent, which is not a fault.
        ("event.user_login.method == 'x'", false),
        ("!(event.user_login.method == 'x')", false),
        ("event.user_login.method == 'x' || event.app_id == 'shop'", true),
        ("event.app_id == 'shop' || event.user_login.method == 'x'", true),
        ("event.user_login.method == 'x' && event.app_id == 'none'", false),
        ("event['user_login']['method'] == 'x'", false),
        ("event['user_login'].method == 'x' || event.app_id == 'shop'", true),
        ("event['purchase_complete']['total_cents'] == 12500", true),
        // Also by a computed name.
        ("event[event.app_id == 'shop' ? 'user_login' : 'app_id'].method == 'x'", false),
        ("['user_login', 'purchase_complete'].exists(k, event[k].currency == 'EUR')", true),
        ("event[event.app_id == 'shop' ? 'app_id' : 'user_login'] == 'shop'", true),
        ("has(event['device_context'].platform) && 'user_login' in event", false),
        ("event.purchase_complete.total_cents == 12500.0", true),
        ("event.purchase_complete.total_cents > -9223372036854775808", true),
        ("event.device_context.platform == 7", false),
    ] {
        assert_eq!(over(source, &view), Ok(expected), "{source}");
        assert_eq!(compile(source).unwrap().problems, [""; 0], "{source}");
    }
}

#[test]
fn failures_are_faults_with_a_reason() {
    let view = purchase();
    for (source, expected) in [
        ("event.custom_event.string_params.colour == 'red'", "there is no `colour`"),
        ("event.custom_event.properties.n > 'a'", "compares a int with a string"),
        ("event.custom_event.properties.n", "is a int where a bool is needed"),
        ("event.purchase_complete.total_cents / 0 == 1", "divides by zero"),
        ("event.timestamp_ms * event.timestamp_ms > 0", "an int overflows"),
        ("event.purchase_complete.items[2].quantity == 1", "a list has no such index"),
        ("int(event.app_id) == 1", "int cannot take this string"),
        ("event[event.app_id] == 1", "there is no field of that name"),
        ("'b'.matches('a)|(b' + event.app_id)", "matches() was given no regular expression, or too large a one"),
        ("'shop'.matches(event.app_id + '(')", "matches() was given no regular expression, or too large a one"),
    ] {
        assert_eq!(over(source, &view), Err(ExpressionFault::Failed(expected.into())), "{source}");
    }
}

#[test]
fn impossible_expressions_are_refused_with_their_position() {
    for (source, part) in [
        ("", "is not a CEL expression"),
        ("event.a ==", "is not a CEL expression: line 1"),
        ("foo == 1", "names an unknown variable `foo` (there is `event`), at line 1, column 1"),
        ("evnt.app_id == 'x'", "names an unknown variable `evnt` (did you mean `event`?)"),
        ("1 + 1", "must give a bool, and gives an int"),
        ("event.app_id", "must give a bool, and gives a string"),
        (
            "event.app_id.startWith('s')",
            "calls an unknown function `startWith` (did you mean `startsWith`?), at line 1, column",
        ),
        ("frobnicate(event.app_id) == 1", "calls an unknown function `frobnicate`"),
        ("event.app_id.size(1) == 1", "calls `size` with 1 arguments: it takes 0"),
        ("startsWith(event.app_id, 's')", "calls `startsWith` on nothing: write `x.startsWith(...)`"),
        ("event.app_id.int() == 1", "calls `int` on something: write `int(x)`"),
        ("event.app_id > 5", "compares a string with an int, which have no order, at line 1"),
        ("event.app_id == 5", "compares a string with an int, which are never equal"),
        ("event.purchase_complete.total_cents == '5'", "compares an int with a string"),
        (
            "event.purchase_complete.total == 5",
            "names an unknown field `total` (did you mean `total_cents`?), at line 1, column 24",
        ),
        (
            "true &&\n  event.purchase_complet.x == 5",
            "names an unknown field `purchase_complet` (did you mean `purchase_complete`?), at line 2, column 8",
        ),
        ("'é' == event.app_id && event.nope == 1", "names an unknown field `nope`, at line 1, column 29"),
        ("event.purchase_complete.items.quantity == 1", "names a field `quantity` of a list"),
        (
            "event.purchase_complete.items.all(i, i.quantitty > 1)",
            "names an unknown field `quantitty` (did you mean `quantity`?)",
        ),
        ("event.purchase_complete.items.all(i, i.quantity)", "a macro tests with a bool, not an int"),
        ("event.app_id.all(c, c == 'a')", "a macro ranges over lists and maps, not a string"),
        (
            "event.device_context.platform == 'IOS'",
            "compares with `IOS`, which is none of the names that can stand there (did you mean `PLATFORM_IOS`?)",
        ),
        ("event.device_context.platform in ['PLATFORM_IOS', 'ANDROID']", "compares with `ANDROID`, which is none"),
        ("event.device_context.is_emulator == 'true'", "compares a bool with a string"),
        ("event.app_id in [1, 2]", "looks for a string among ints, which are never equal"),
        ("event.purchase_complete.total_cents * 1.5 > 1.0", "has no `*` for an int and a double: convert one of them"),
        ("event.app_id && true", "`&&` takes bools, not a string"),
        ("!event.app_id", "`!` takes a bool, not a string"),
        ("event.app_id.contains(1)", "`contains` takes a string, not an int"),
        ("event.app_id.matches('(')", "the pattern of `matches` is not a regular expression"),
        (r"event.app_id.matches('((\\w{9}){9}){9}')", "the pattern of `matches` compiles to more than"),
        ("has(event.app_idd)", "names an unknown field `app_idd` (did you mean `app_id`?)"),
        ("event['app_idd'] == 'x'", "names an unknown field `app_idd`"),
        (
            "event['device_context']['platfrom'] == 'x'",
            "names an unknown field `platfrom` (did you mean `platform`?), at line 1, column 24",
        ),
        ("event['app_id']['x'] == 'x'", "takes a string out of a string by its index"),
        ("'user_logn' in event", "names an unknown field `user_logn` (did you mean `user_login`?)"),
        ("event.app_id in []", "looks for something in a list that has no element"),
        ("event.purchase_complete.total_cents == 10.5", "compares an int with `10.5`, which no int equals"),
        ("10.5 != event.purchase_complete.total_cents", "compares an int with `10.5`, which no int equals"),
        ("event.purchase_complete.total_cents in [1, 10.5]", "compares an int with `10.5`, which no int equals"),
        ("event.purchase_complete.total_cents == 9223372036854775808u", "compares an int with `9223372036854775808`"),
        ("event.purchase_complete.total_cents == 1e19", "compares an int with `10000000000000000000`"),
        (
            "event.purchase_complete.total_cents > 9223372036854775807",
            "compares an int with `9223372036854775807`, and no int is so large",
        ),
        (
            "-1e19 >= event.purchase_complete.total_cents",
            "compares an int with `-10000000000000000000`, and no int is so small",
        ),
        ("event.device_context.platform == 1", "compares with the number of `PLATFORM_IOS`, which is seen by its name"),
        ("event.?app_id == 'x'", "is not a CEL expression"),
        ("Message{a: 1} == 1", "must not build messages"),
        ("[[[[[true]]]]].all(a, a.all(b, b.all(c, c.all(d, d.all(e, e)))))", "must not nest macros deeper"),
    ] {
        let error = refusal(source);
        assert!(error.starts_with(part), "{source}: {error}");
        assert!(error.matches("at line").count() <= 1, "{error}");
    }
    // All problems are reported together.
    let expression = compile("event.nope == 1 || event.app_id == 2 || frob(event)").unwrap();
    assert_eq!(expression.problems.len(), 3, "{:?}", expression.problems);
    // A part that was stored before the check existed is a fault when it is reached.
    assert_eq!(
        expression
            .evaluate(&purchase().into(), &mut Budget::full())
            .map_err(|fault| matches!(fault, ExpressionFault::Failed(_))),
        Err(true)
    );
}

#[test]
fn payloads_excluded_by_the_filters_are_refused() {
    let (category, event_type) = (Some("commerce".to_owned()), Some("purchase_complete".to_owned()));
    let kinds = EventKinds::of(&category, &event_type);
    let problems = |source: &str| Expression::compile(source, kinds).unwrap().problems;
    assert_eq!(problems("event.purchase_complete.total_cents > 1 || has(event.user_login)"), [""; 0]);
    assert_eq!(problems("'user_login' in event"), [""; 0]);
    let found = problems("event['user_login']['method'] == 'x'");
    assert!(found[0].starts_with("names `user_login`, which events of this category and type never have"), "{found:?}");
    let found = problems("event.user_login.method == 'x'");
    assert!(found[0].starts_with("names `user_login`, which events of this category and type never have"), "{found:?}");
}

#[test]
fn text_that_is_expensive_to_parse_is_handled_quickly() {
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
        format!("{}1 > 0", "1+".repeat(2_000)),
        "x.".repeat(2_000),
        format!("event{} == 1", ".a".repeat(2_000)),
        format!("event{} == 1", "[0]".repeat(1_300)),
        format!("event{} == 1", ".a()".repeat(1_000)),
        "'".repeat(4_000),
        "true&&".repeat(600),
        "f(".repeat(NESTING_MAX),
        "a".repeat(EXPRESSION_BYTES_MAX + 1),
    ] {
        let head: String = source.chars().take(12).collect();
        assert!(compile(&source).is_err(), "{head}");
        assert!(is_quick(|| drop(compile(&source))), "{head}");
    }
}

/// Each would take minutes, or all memory, without the budget.
#[test]
fn expensive_evaluations_are_abandoned() {
    let many: Vec<usize> = (0..1_000).collect();
    let view =
        json!({"app_id": "a".repeat(150_000), "custom_event": {"properties": {"l": many, "s": "a".repeat(150_000)}}})
            .into();
    let list = "[0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19]";
    for source in [
        format!("{list}.all(a, {list}.all(b, {list}.all(c, {list}.all(d, a + b + c + d >= 0))))"),
        format!("size({list}.map(a, {list}.map(b, {list}.map(c, {list}.map(d, [a, b, c, d]))))) > 0"),
        "event.custom_event.properties.l.all(a, event.custom_event.properties.l.all(b, event.custom_event.properties.l.all(c, true)))".to_owned(),
        "event.custom_event.properties.l.all(a, event.app_id.contains('b') || true)".to_owned(),
        "event.custom_event.properties.l.all(a, event.app_id + event.app_id != event.app_id)".to_owned(),
        "event.custom_event.properties.l.all(a, event.app_id.matches('(a|aa)+$'))".to_owned(),
        "event.custom_event.properties.l.all(a, 'x'.matches(string(a)) || true)".to_owned(),
        "event.custom_event.properties.l.all(a, size(event.custom_event.properties.l + event.custom_event.properties.l) > 0)".to_owned(),
        "event.custom_event.properties.l.all(a, event.custom_event.properties == event.custom_event.properties)".to_owned(),
        "event.custom_event.properties.l.all(a, bytes(event.app_id) == bytes(event.app_id))".to_owned(),
    ] {
        let expression = compile(&source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(expression.problems, [""; 0], "{source}");
        assert_eq!(expression.evaluate(&view, &mut Budget::full()), Err(ExpressionFault::Budget), "{source}");
        assert!(is_quick(|| drop(expression.evaluate(&view, &mut Budget::full()))), "{source}");
    }
}

#[test]
fn brackets_in_strings_and_comments_are_ignored() {
    let deep = "(".repeat(NESTING_MAX + 1);
    for source in [
        format!("event.app_id == '{deep}'"),
        format!("event.app_id == r\"\\{deep}\""),
        format!("event.app_id == \"\"\"\n\"{deep}\"\"\""),
        format!("event.app_id == 'it\\'s {deep}'"),
        format!("event.app_id == '1' // {deep}"),
    ] {
        assert_eq!(compile(&source).unwrap_or_else(|error| panic!("{source}: {error}")).problems, [""; 0], "{source}");
    }
    let closing = format!("'{}'", ")".repeat(NESTING_MAX));
    let hidden = format!("{}{closing} + {closing}{}", "(".repeat(NESTING_MAX), "(".repeat(NESTING_MAX));
    assert!(compile(&hidden).unwrap_err().contains("must not nest"));
}

#[test]
fn the_deepest_allowed_nesting_compiles_quickly() {
    let source = format!("{}event.app_id in ['1']{}", "(".repeat(NESTING_MAX - 1), ")".repeat(NESTING_MAX - 1));
    compile(&source).unwrap();
    let chain = vec!["event.app_id == '1'"; 170].join(" || ");
    compile(&chain).unwrap();
    assert!(is_quick(|| drop(compile(&source))) && is_quick(|| drop(compile(&chain))));
}

proptest! {
    /// Random tokens: most do not compile, none may panic or take long.
    #[test]
    fn any_text_is_handled_quickly(
        tokens in prop::collection::vec(prop::sample::select(TOKENS.as_slice()), 0..40)
    ) {
        let view = json!({"a": [1, -9_223_372_036_854_775_808i64, "x"], "b": {"a": 0.5, "b": null}}).into();
        let quick = is_quick(|| {
            if let Ok(expression) = compile(&tokens.concat()) {
                let _ = expression.evaluate(&view, &mut Budget::full());
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
