//! Conditions by example, and what can never hold.

use serde_json::json;

use super::*;

fn condition(path: &str, operator: &str, value: Value) -> Condition {
    let mut document = json!({"path": path, "operator": operator});
    if !value.is_null() {
        document["value"] = value;
    }
    serde_json::from_value(document).unwrap()
}

fn holds(path: &str, operator: &str, value: Value) -> bool {
    let view = json!({
        "n": 10, "f": 2.5, "neg": -3, "big": 9_007_199_254_740_993i64, "max": u64::MAX, "s": "banana", "e": "", "t": true, "nil": null,
        "list": ["a", "b", 3], "o": {"k": [1, 2.0]},
    });
    CompiledCondition::compile(&condition(path, operator, value))
        .unwrap()
        .holds(&view.into(), &mut Budget::full())
        .unwrap()
}

#[test]
fn every_operator_on_every_kind_of_node() {
    let table = [
        ("$.n", "eq", json!(10), true),
        ("$.n", "eq", json!(10.0), true),
        ("$.n", "eq", json!("10"), false),
        ("$.s", "eq", json!("banana"), true),
        ("$.t", "eq", json!(true), true),
        ("$.o", "eq", json!({"k": [1.0, 2]}), true),
        ("$.o", "eq", json!({"k": [1]}), false),
        ("$.list[*]", "eq", json!("b"), true),
        ("$.missing", "eq", json!(1), false),
        ("$.n", "ne", json!(10), false),
        ("$.n", "ne", json!(11), true),
        ("$.n", "ne", json!("10"), true),
        ("$.nil", "ne", json!(1), true),
        ("$.missing", "ne", json!(1), false),
        ("$.list[*]", "ne", json!("b"), false),
        ("$.list[*]", "ne", json!("z"), true),
        ("$.n", "gt", json!(9), true),
        ("$.n", "gt", json!(9.99), true),
        ("$.n", "gt", json!(10), false),
        ("$.n", "gte", json!(10.0), true),
        ("$.f", "lt", json!(3), true),
        ("$.f", "lt", json!(2), false),
        ("$.f", "gt", json!(2), true),
        ("$.f", "lte", json!(2.5), true),
        ("$.neg", "lt", json!(-2.5), true),
        ("$.neg", "gt", json!(-3.5), true),
        ("$.big", "gt", json!(9_007_199_254_740_992.0), true),
        ("$.big", "lt", json!(1e300), true),
        ("$.max", "gt", json!(i64::MAX), true),
        ("$.s", "gt", json!("apple"), true),
        ("$.s", "lt", json!("apple"), false),
        ("$.s", "gt", json!(1), false),
        ("$.n", "lt", json!("zzz"), false),
        ("$.t", "gt", json!(0), false),
        ("$.missing", "lt", json!(1), false),
        ("$.s", "contains", json!("nan"), true),
        ("$.s", "contains", json!("x"), false),
        ("$.e", "contains", json!(""), true),
        ("$.list", "contains", json!("a"), true),
        ("$.list", "contains", json!(3.0), true),
        ("$.list", "contains", json!("3"), false),
        ("$.o", "contains", json!("k"), false),
        ("$.n", "contains", json!("1"), false),
        ("$.s", "regex", json!("an+a"), true),
        ("$.s", "regex", json!("^an"), false),
        ("$.n", "regex", json!("1"), false),
        ("$.list[*]", "regex", json!("^b$"), true),
        ("$.s", "in", json!(["x", "banana"]), true),
        ("$.n", "in", json!([1, 10.0]), true),
        ("$.n", "in", json!(["10"]), false),
        ("$.n", "in", json!([]), false),
        ("$.nil", "in", json!([null]), true),
        ("$.nil", "exists", Value::Null, true),
        ("$.missing", "exists", Value::Null, false),
        ("$.list[*]", "exists", Value::Null, true),
        ("$.nil", "not_exists", Value::Null, false),
        ("$.missing.more", "not_exists", Value::Null, true),
    ];
    for (path, operator, value, expected) in table {
        assert_eq!(holds(path, operator, value.clone()), expected, "{path} {operator} {value}");
    }
}

#[test]
fn invalid_values_are_refused_with_their_pointer() {
    let refused = |operator, value| {
        let errors = CompiledCondition::compile(&condition("$.a", operator, value)).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].pointer, "/value");
        errors[0].detail.clone()
    };
    for operator in ["eq", "ne", "gt", "gte", "lt", "lte", "contains", "regex", "in"] {
        assert_eq!(refused(operator, Value::Null), "is needed by this operator and must not be null");
    }
    for operator in ["gt", "gte", "lt", "lte"] {
        assert_eq!(refused(operator, json!(true)), "must be a number or a string for this operator");
    }
    for operator in ["exists", "not_exists"] {
        assert_eq!(refused(operator, json!(1)), "must be left out for this operator");
    }
    assert_eq!(refused("in", json!("a")), "must be a list for this operator");
    assert_eq!(refused("in", json!(vec![0; CHOICES_MAX + 1])), "must have at most 1000 elements");
    assert_eq!(refused("regex", json!(5)), "must be a string that holds a regular expression");
    assert_eq!(refused("regex", json!("a(b")), "is not a regular expression: unclosed group");
    assert!(refused("regex", json!("(a{1000}){1000}")).starts_with("compiles to more than"));
    assert!(refused("regex", json!(r"((\w{9}){9}){9}")).starts_with("compiles to more than"));
    assert!(refused("regex", json!("a".repeat(2_000))).starts_with("must be at most"));
}

#[test]
fn all_errors_of_a_condition_are_reported() {
    let errors = CompiledCondition::compile(&condition("nope", "in", json!(1))).unwrap_err();
    let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, ["/path", "/value"]);
}

#[test]
fn impossible_conditions_are_refused_with_the_nearest_name() {
    let check = |path: &str, operator: &str, value: Value| {
        let condition = condition(path, operator, value);
        let errors = CompiledCondition::compile(&condition).unwrap().check(&condition, EventKinds::default());
        errors.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    for (path, operator, value) in [
        ("$.purchase_complete.total_cents", "gte", json!(10.5)),
        ("$.device_context.platform", "eq", json!("PLATFORM_IOS")),
        ("$.device_context.platform", "eq", json!(7)),
        ("$.device_context.platform", "regex", json!("IOS")),
        ("$.device_context.is_emulator", "ne", json!(true)),
        ("$.user_profile_update.fields_updated", "contains", json!("email")),
        ("$.custom_event.properties.a.b[0]", "gt", json!("x")),
        ("$.custom_event.int_params.level", "in", json!([1, 2.0])),
        ("$.purchase_complete.items[*].quantity", "eq", json!(1)),
        ("$.button_tap.coordinates", "exists", Value::Null),
        ("$..total_cents", "eq", json!("x")),
        ("$.purchase_complete.total_cents", "eq", json!(i64::MAX)),
        ("$.purchase_complete.total_cents", "in", json!([10.0, -3])),
        ("$.purchase_complete.items[*].quantity", "gte", json!(i32::MAX)),
        ("$.purchase_complete.items[*].quantity", "lt", json!(3e9)),
        ("$.device_context.platform", "contains", json!("IOS")),
        ("$.device_context.platform", "gt", json!("PLATFORM_B")),
        ("$.screen_view.params", "eq", json!({"a": "b"})),
        ("$.button_tap.coordinates", "eq", json!({"x": 1, "y": 2.5})),
        ("$.app_id", "lte", json!("")),
    ] {
        assert_eq!(check(path, operator, value.clone()), [""; 0], "{path} {operator} {value}");
    }
    for (path, operator, value, expected) in [
        ("$.purchase_complete.total", "gt", json!(1), "/path: names an unknown field `total`"),
        (
            "$.purchase_complete.total_cents",
            "gt",
            json!("1"),
            "/value: can never hold: the path finds an integer, and this is of another type",
        ),
        ("$.purchase_complete.currency", "eq", json!(1), "/value: can never hold: the path finds a string"),
        (
            "$.device_context.platform",
            "eq",
            json!("IOS"),
            "/value: is none of the names that the path can find (did you mean `PLATFORM_IOS`?)",
        ),
        (
            "$.device_context.platform",
            "in",
            json!(["PLATFORM_IOS", "PLATFORM_ANDROIT"]),
            "/value/1: is none of the names that the path can find (did you mean `PLATFORM_ANDROID`?)",
        ),
        (
            "$.device_context.is_emulator",
            "gt",
            json!(1),
            "/value: can never hold: the path finds a bool, and only numbers and strings have an order",
        ),
        (
            "$.purchase_complete.total_cents",
            "contains",
            json!("1"),
            "/value: can never hold: the path finds an integer, and only strings and lists",
        ),
        (
            "$.purchase_complete.total_cents",
            "regex",
            json!("1"),
            "/value: can never hold: the path finds an integer, and only strings match",
        ),
        (
            "$.user_profile_update.fields_updated",
            "contains",
            json!(1),
            "/value: can never hold: the path finds a string",
        ),
        ("$.custom_event.int_params.level", "eq", json!("1"), "/value: can never hold: the path finds an integer"),
        ("$.app_id", "in", json!([]), "/value: can never hold: the list has no element"),
        ("$.custom_event.properties.a", "in", json!([]), "/value: can never hold: the list has no element"),
        (
            "$.purchase_complete.total_cents",
            "eq",
            json!(10.5),
            "/value: can never hold: the path finds an integer, and this has a fraction",
        ),
        (
            "$.purchase_complete.total_cents",
            "ne",
            json!(10.5),
            "/value: always differs: the path finds an integer, and this has a fraction",
        ),
        ("$.purchase_complete.total_cents", "in", json!([1, 0.5]), "/value/1: can never hold"),
        (
            "$.purchase_complete.total_cents",
            "eq",
            json!(u64::MAX),
            "/value: can never hold: the path finds an integer, and this is beyond its 64 bits",
        ),
        ("$.purchase_complete.total_cents", "in", json!([1e19]), "/value/0: can never hold"),
        (
            "$.purchase_complete.items[*].quantity",
            "eq",
            json!(3_000_000_000u64),
            "/value: can never hold: the path finds an integer, and this is beyond what it holds",
        ),
        (
            "$.purchase_complete.items[*].quantity",
            "gt",
            json!(i32::MAX),
            "/value: can never hold: the path finds an integer, and none is so large",
        ),
        (
            "$.timestamp_ms",
            "lt",
            json!(i64::MIN),
            "/value: can never hold: the path finds an integer, and none is so small",
        ),
        ("$.timestamp_ms", "gte", json!(1e19), "/value: can never hold"),
        ("$.app_id", "lt", json!(""), "/value: can never hold: the path finds a string, and none comes before"),
        (
            "$.device_context.platform",
            "eq",
            json!(1.0),
            "/value: is the number of `PLATFORM_IOS`, which the path finds by its name",
        ),
        ("$.device_context.platform", "in", json!([7, 2]), "/value/1: is the number of `PLATFORM_ANDROID`"),
        ("$.device_context.platform", "eq", json!(1.5), "/value: can never hold"),
        ("$.device_context.platform", "contains", json!("ios"), "/value: can never hold"),
        ("$.device_context.platform", "regex", json!("^IOS"), "/value: can never hold"),
        ("$.device_context.platform", "gt", json!("Q"), "/value: can never hold"),
        (
            "$.user_profile_update.fields_updated",
            "eq",
            json!(["a", 1]),
            "/value: can never hold: the path finds a list, and none has such an element",
        ),
        ("$.button_tap.coordinates", "eq", json!({"x": 1}), "/value: can never hold"),
        ("$.button_tap.coordinates", "eq", json!({"x": 1, "y": 1, "z": 1}), "/value: can never hold"),
        ("$.screen_view.params", "eq", json!({"a": 1}), "/value: can never hold"),
        ("$['user_id','app_id']", "eq", json!(1), "/value: can never hold"),
        (
            "$.purchase_complete.items[?@.quantity == '2']",
            "exists",
            Value::Null,
            "/path: compares with `\"2\"`, which can never hold",
        ),
    ] {
        let errors = check(path, operator, value.clone());
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "{path} {operator} {value}: {errors:?}");
    }
}
