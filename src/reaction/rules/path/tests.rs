//! Paths by example, against an independent implementation, and bounds on their cost.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::reaction::rules::filters::EventKinds;
use crate::reaction::tests::is_quick;

fn all(path: &Path, view: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    path.find(&view.clone().into(), &mut Budget::full(), |node, _| {
        found.push(node.to_json());
        Ok(false)
    })
    .unwrap();
    found
}

#[test]
fn plain_paths_find_what_the_walk_finds() {
    let view = json!({"a": {"b": {"c": 1, "_d9": null}, "list": [{"c": 2}], "text": "x"}, "": 3});
    for source in
        ["$", "$.a", "$.a.b", "$.a.b.c", "$['a'].b._d9", "$.a.list", "$.a.list.c", "$.a.text.c", "$.b", "$['']"]
    {
        let plain = Path::compile(source).unwrap();
        assert!(plain.fields.is_some(), "{source}");
        let walked = Path { fields: None, segments: Path::compile(source).unwrap().segments };
        assert_eq!(all(&plain, &view), all(&walked, &view), "{source}");
    }
}

#[test]
fn finds_the_nodes_of_the_standard() {
    let view = json!({"items": [{"p": 1, "q": 5}, {"p": 2}], "my key": 7, "deep": {"items": [{"p": 9}]},
        "lists": [[0, 1], [2, 3], []], "big": 9_007_199_254_740_993i64, "s": "a.b", "pattern": "a.*", "broken": "b)|(a"});
    for (source, expected) in [
        ("$", vec![view.clone()]),
        ("$['my key']", vec![json!(7)]),
        ("$ ['my\\u0020key']", vec![json!(7)]),
        ("$.items[0].p", vec![json!(1)]),
        ("$.items[-1].p", vec![json!(2)]),
        ("$.items[*].p", vec![json!(1), json!(2)]),
        ("$.items[?@.p > 1].p", vec![json!(2)]),
        ("$.items[?(@.q && @.p == 1)].q", vec![json!(5)]),
        ("$.items[?!@.q].p", vec![json!(2)]),
        ("$.deep..p", vec![json!(9)]),
        ("$.nothing[*]", vec![]),
        // A nested filter tests for existence.
        ("$.lists[?@[?@>1]]", vec![json!([2, 3])]),
        ("$.lists[?@[?@>0]]", vec![json!([0, 1]), json!([2, 3])]),
        ("$.items[?$.deep]", vec![json!({"p": 1, "q": 5}), json!({"p": 2})]),
        ("$.items[?@.p == $.items[0].p].q", vec![json!(5)]),
        ("$[?match(@, 'a.b')]", vec![json!("a.b")]),
        ("$[?match(@, '[a-z]')]", vec![]),
        ("$[?search(@, '[.]')]", vec![json!("a.*"), json!("a.b")]),
        ("$[?match(@, $.pattern)]", vec![json!("a.*"), json!("a.b")]),
        // The event's pattern is not a regular expression, with or without a group.
        ("$[?match(@, $.broken)]", vec![]),
        ("$[?search(@, $.broken)]", vec![]),
        ("$[?@ == 9007199254740992]", vec![]),
        ("$[?@ == 9007199254740993]", vec![view["big"].clone()]),
        ("$[?@ > 9007199254740992.0]", vec![view["big"].clone()]),
        ("$.lists[?length(@) == 0]", vec![json!([])]),
        ("$.lists[?count(@[*]) == 2][0]", vec![json!(0), json!(2)]),
        ("$.items[?value(@..q) == 5].p", vec![json!(1)]),
        ("$.items[::-1].p", vec![json!(2), json!(1)]),
        ("$.items[1:].p", vec![json!(2)]),
        ("$.items[:-1].p", vec![json!(1)]),
        ("$.items[5:0:-2].p", vec![json!(2)]),
        ("$.items[::0]", vec![]),
        ("$.items[?@.absent == @.missing].p", vec![json!(1), json!(2)]),
    ] {
        let path = Path::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(all(&path, &view), expected, "{source}");
    }
}

#[test]
fn invalid_paths_are_refused() {
    for source in [
        "",
        "a.b",
        "$.",
        "$..",
        "$.a[",
        "$.a[?]",
        "$[01]",
        "$.1a",
        "@.a",
        " $",
        "$ ",
        "$. a",
        "$[-0]",
        "$[9007199254740992]",
        "$['\u{1}']",
        "$['\\x']",
        "$['\\'\"']x",
        "$[\"\\'\"]",
        "$['\\ud800']",
        "$[?@.a == 'x' == 'y']",
        "$[?@.* == 1]",
        "$[?@..a == 1]",
        "$[?length(@.*) == 1]",
        "$[?count(1) == 1]",
        "$[?match(@.a, 'x') == true]",
        "$[?length(@.a)]",
        "$[?true]",
        "$[?!@.a == 1]",
        "$[?(@.a) == 1]",
        "$[?count (@.*) == 1]",
        "$[?nope(@)]",
        "$[?@.a == 01]",
        "$[?@.a == 1.]",
        "$[?@.a == .5]",
        "$[?@.a == 1e]",
        "$[?@.a & @.b]",
        "$[?match(@.a, 1)]",
        "$[?match(@.a, '(')]",
        "$[?match(@.a)]",
        "$[?length()]",
        "$[1 2]",
        "$[,]",
        "$[1,]",
        "$.a..",
        "$...a",
        "$[?@.a == 1e400]",
        "$[?@.a==TRUE]",
    ] {
        assert!(Path::compile(source).is_err(), "{source}");
    }
    assert_eq!(
        Path::compile("$.a[?@.b ==]").unwrap_err(),
        "is not a JSONPath (RFC 9535): expected `@`, `$`, a literal or a function, at column 12"
    );
    assert_eq!(
        Path::compile("$['é'].1").unwrap_err(),
        "is not a JSONPath (RFC 9535): expected a name or `*`, at column 8"
    );
}

#[test]
fn text_that_is_expensive_to_parse_is_handled_quickly() {
    let sources = [
        format!("$.{}", "a".repeat(PATH_BYTES_MAX)),
        format!("$[?{}@.a{}]", "(".repeat(100), ")".repeat(100)),
        format!("$[?{}", "length(".repeat(70)),
        format!("$[?{}@.a", "!(".repeat(60)),
        format!("$[?{}@{} == 1]", "length(".repeat(40), ")".repeat(4)),
        format!("$[?{}", "@.a && length(length(length(length(@.b || ".repeat(8)),
        "$[?@".repeat(100),
        "[".repeat(500),
    ];
    for source in sources {
        assert!(Path::compile(&source).is_err(), "{source}");
        assert!(is_quick(|| drop(Path::compile(&source))), "{source}");
    }
}

#[test]
fn expensive_evaluations_are_abandoned() {
    let leaf = json!({"a": vec![json!([1, 2, 3]); 30], "b": "x".repeat(1_000)});
    let deep = (0..8).fold(leaf.clone(), |inner, _| json!([inner]));
    let view = json!({"deep": deep, "wide": vec![leaf.clone(); 300]}).into();
    for source in [
        "$..*..*..*",
        "$..[*,*,*]..[*,*,*]",
        "$[*,*,*,*,*,*,*,*][*,*,*,*,*,*,*,*][*,*,*,*,*,*,*,*][*,*,*,*,*,*,*,*]",
        "$.wide[?$..a == $.wide[0].a]",
        "$.wide[?count($..*) == 0]",
        "$..[?search(@.b, 'x')]..[?search($.wide[0].b, '(a|b|x)*y')]",
        "$.wide[?@.a[?$.wide[?$.wide == $.wide]]]",
    ] {
        // A compile error is fine as well.
        let Ok(path) = Path::compile(source) else { continue };
        let mut budget = Budget::full();
        assert_eq!(path.find(&view, &mut budget, |_, _| Ok(false)), Err(Exhausted), "{source}");
        assert!(is_quick(|| assert!(path.find(&view, &mut Budget::full(), |_, _| Ok(false)).is_err())), "{source}");
    }
}

#[test]
fn paths_to_nonexistent_fields_are_refused() {
    let commerce = (Some("commerce".to_owned()), Some("purchase_complete".to_owned()));
    let kinds = EventKinds::of(&commerce.0, &commerce.1);
    let check = |source: &str| Path::compile(source).unwrap().check(kinds).map(|_| ());
    for source in [
        "$",
        "$.purchase_complete.total_cents",
        "$.purchase_complete.items[*].quantity",
        "$.device_context.platform",
        "$.purchase_complete.items[?@.quantity > 1].product_id",
        "$..quantity",
        "$.*",
        "$.purchase_complete.items[0]",
        "$['user_id','device_id']",
        "$..total_cents",
        // Every payload has properties, which can contain any name.
        "$..total_cennts",
        "$..[?@.total_cennts > 5]",
        "$.purchase_complete..quantitty",
        "$.purchase_complete.*.quantitty",
        "$.purchase_complete.*.*.*.*",
        "$.purchase_complete.properties.a.b[0]",
        "$.*.total_cents",
        "$.*.platform",
        "$..*",
        "$.purchase_complete.items[?@.quantity == 2]",
        "$.purchase_complete.items[?2.0 <= @.quantity]",
        "$.purchase_complete.items[?match(@.product_id, 'p.*')]",
        "$.purchase_complete.items[?search(@.product_id, $.user_id)]",
        "$.purchase_complete.items[?length(@.product_id) > 2 && count(@.*) == 4]",
        "$.purchase_complete.items[?@.product_id == $.user_id]",
        "$.purchase_complete.items[?@.quantity >= $.timestamp_ms]",
        "$.purchase_complete[?@ == 'EUR']",
        "$[?@.total_cents > 5]",
        "$.device_context[?match(@, 'PLATFORM_.*')]",
        "$[?value(@..quantity) == 2]",
        "$[?@.platform == 'PLATFORM_IOS']",
        "$[?@ == 'x' || @ == 5]",
    ] {
        assert_eq!(check(source), Ok(()), "{source}");
    }
    for (source, expected) in [
        ("$.purchase_complete.total_cent", "names an unknown field `total_cent` (did you mean `total_cents`?)"),
        ("$.purchase_completed", "names an unknown field `purchase_completed` (did you mean `purchase_complete`?)"),
        ("$.user_login.method", "names `user_login`, which events of this category and type never have"),
        ("$.purchase_complete.items.quantity", "names a field `quantity` of a list"),
        (
            "$.purchase_complete.items[?@.quantitty > 1]",
            "names an unknown field `quantitty` (did you mean `quantity`?)",
        ),
        ("$.purchase_complete.total_cents.x", "names a field `x` of an integer"),
        ("$.purchase_complete[0]", "takes an element by its index of an object, which is no list"),
        ("$.app_id[*]", "looks for members of a string"),
        ("$.device_context..platfrom", "names a field `platfrom` that nothing there has (did you mean `platform`?)"),
        ("$.*.total_cennts", "names a field `total_cennts` that nothing there has (did you mean `total_cents`?)"),
        ("$['user_id','device_id'].x", "names a field `x` of a string"),
        (
            "$.purchase_complete.items..quantitty",
            "names a field `quantitty` that nothing there has (did you mean `quantity`?)",
        ),
        ("$.purchase_complete.items.*.quantitty", "names an unknown field `quantitty` (did you mean `quantity`?)"),
        ("$.purchase_complete.*[0].quantitty", "names an unknown field `quantitty` (did you mean `quantity`?)"),
        ("$.purchase_complete.items.*.*.*", "looks for members of a string"),
        ("$.purchase_complete.items[0][0]", "takes an element by its index of an object, which is no list"),
        ("$[?@.total_cennts > 5]", "names a field `total_cennts` that nothing there has (did you mean `total_cents`?)"),
        (
            "$.purchase_complete.items[?@.quantity == '2']",
            "compares with `\"2\"`, which can never hold: the path finds an integer, and this is of another type",
        ),
        (
            "$.purchase_complete.items[?'2' <= @.quantity]",
            "compares with `\"2\"`, which can never hold: the path finds an integer, and this is of another type",
        ),
        (
            "$.purchase_complete.items[?@.quantity == 1.5]",
            "compares with `1.5`, which can never hold: the path finds an integer, and this has a fraction",
        ),
        (
            "$.purchase_complete.items[?!(@.quantity == null)]",
            "compares with `null`, which can never hold: the path finds an integer, and this is of another type",
        ),
        (
            "$.purchase_complete.items[?match(@.quantity,'2')]",
            "calls `match`, which can never hold: the path finds an integer, and only strings match a regular expression",
        ),
        (
            "$.purchase_complete.items[?search(@.product_id, @.quantity)]",
            "calls `search`, which can never hold: the path finds an integer, and only strings match a regular expression",
        ),
        ("$.purchase_complete.items[?length(@.quantity) > 1]", "takes the `length` of an integer, which has none"),
        (
            "$.purchase_complete.items[?length(@.product_id) == -1]",
            "compares with `-1`, which can never hold: the path finds an integer, and this is beyond what it holds",
        ),
        (
            "$.purchase_complete.items[?@.product_id < @.quantity]",
            "compares a string with an integer, which have no order",
        ),
        (
            "$.purchase_complete.items[?@.product_id == @.quantity]",
            "compares a string with an integer, which are never equal",
        ),
        (
            "$[?@.platform == 'IOS']",
            "compares with `\"IOS\"`, which is none of the names that the path can find (did you mean `PLATFORM_IOS`?)",
        ),
    ] {
        assert_eq!(check(source), Err(expected.to_owned()), "{source}");
    }
    // Wherever app-defined data can be reached, any name is possible.
    for source in
        ["$..total_cennts", "$.*.*.total_cennts", "$.custom_event..x", "$.custom_event.properties[?@.a == 'x']"]
    {
        let path = Path::compile(source).unwrap();
        assert!(path.check(EventKinds::default()).is_ok(), "{source}");
    }
}

proptest! {
    /// Random tokens: most do not compile, none may panic or take long.
    #[test]
    fn any_text_is_handled_quickly(
        tokens in prop::collection::vec(prop::sample::select(TOKENS.as_slice()), 0..30)
    ) {
        let view = json!({"a": [1, [2, {"a": [3]}], "x"], "b": {"a": 0.5, "b": null}}).into();
        let quick = is_quick(|| {
            if let Ok(path) = Path::compile(&format!("${}", tokens.concat())) {
                let _ = path.find(&view, &mut Budget::full(), |_, _| Ok(false));
            }
        });
        prop_assert!(quick);
    }
}

const TOKENS: [&str; 33] = [
    ".a",
    ".b",
    "..",
    "..a",
    "*",
    "[*]",
    "[0]",
    "[-1]",
    "['a']",
    "[?@.a]",
    "[?",
    "@",
    "@.a",
    "$",
    "(",
    ")",
    "[",
    "]",
    "!",
    "==",
    "<",
    "1",
    "-0",
    "1e400",
    "'x'",
    "&&",
    "length(@.a)",
    "count(@.*)",
    "[::-9007199254740991]",
    "[1:0:0]",
    "match(@.a, 'x')",
    "\\u0061",
    "é",
];

/// Documented deviations from the standard, by the words of their errors.
const REFUSED: [&str; 4] =
    ["must be at most", "must not nest deeper", "beyond what a double holds", "is not a regular expression"];
/// Cases of an independent implementation, `jsonpath-rfc9535` from PyPI.
const CASES: &str = "4000";

#[test]
fn agrees_with_an_independent_implementation() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join("target/python/bin/python");
    assert!(interpreter.exists(), "jsonpath-rfc9535 for Python is missing: run .ci/setup --tests");
    let script = root.join("tests/jsonpath/cases.py");
    let output = std::process::Command::new(interpreter).arg(script).arg(CASES).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut answered, mut invalid, mut refused, mut differ) = (0, 0, 0, Vec::new());
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let source = case["path"].as_str().unwrap();
        match (Path::compile(source), &case["found"]) {
            (Err(_), Value::Null) => invalid += 1,
            (Err(error), _) if REFUSED.iter().any(|reason| error.contains(reason)) => refused += 1,
            (Ok(path), Value::Array(expected)) => {
                let found = all(&path, &case["document"]);
                // Compare exactly: `1` and `1.0` are different JSON values although equal numbers.
                if found == *expected {
                    answered += 1;
                } else {
                    differ.push(format!("{source} over {}: {found:?}, not {expected:?}", case["document"]));
                }
            }
            (ours, theirs) => differ.push(format!("{source}: {:?}, not {theirs}", ours.map(|_| "taken"))),
        }
    }
    assert!(differ.is_empty(), "{} differ, the first:\n{}", differ.len(), differ[..differ.len().min(10)].join("\n"));
    assert!(answered > 2_000 && invalid > 500 && refused < 100, "{answered} {invalid} {refused}");
}
