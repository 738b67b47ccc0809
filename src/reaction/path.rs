//! A JSONPath, compiled once and asked often.
//!
//! Invariant: whatever a person writes as a path, compiling it is quick and asking it costs
//! no more than a small multiple of the view's size. Length and nesting are bounded before
//! the parser sees the text (its backtracking is exponential in the nesting), and what
//! multiplies the result or compiles a pattern per node is refused afterwards. Knows
//! nothing of events: it walks any JSON value.

use jsonpath_rust::parser::errors::JsonPathError;
use jsonpath_rust::parser::model::{
    Comparable, Filter, FilterAtom, FnArg, JpQuery, Segment, Selector, Test, TestFunction,
};
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;

/// Bytes of a path's text.
pub(super) const PATH_BYTES_MAX: usize = 512;
/// How deep brackets and parentheses may stand in one another.
const NESTING_MAX: usize = 6;
/// `..` segments in one path: each can multiply the nodes by the depth of the document.
const DESCENDANTS_MAX: usize = 2;
/// How many times one node may be selected by lists of selectors (`[0,1,*]`).
const SELECTIONS_MAX: usize = 64;

/// A compiled path.
#[derive(Debug)]
pub(super) struct Path(Steps);

#[derive(Debug)]
enum Steps {
    /// `$.a.b.c`: by far the most common, answered without the library.
    Fields(Box<[Box<str>]>),
    Query(JpQuery),
}

impl Path {
    /// Compiles a path; the error is one clause for the person who wrote it.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > PATH_BYTES_MAX {
            return Err(format!("must be at most {PATH_BYTES_MAX} bytes long"));
        }
        if let Some(fields) = plain_fields(source) {
            return Ok(Self(Steps::Fields(fields)));
        }
        Self::compile_query(source)
    }

    fn compile_query(source: &str) -> Result<Self, String> {
        if nesting(source) > NESTING_MAX {
            return Err(format!("must not nest brackets and parentheses deeper than {NESTING_MAX}"));
        }
        let query = parse_json_path(source).map_err(|error| describe(&error))?;
        let mut cost = Cost { descendants: 0 };
        let selections = cost.segments(&query.segments)?;
        if cost.descendants > DESCENDANTS_MAX {
            return Err(format!("must not use `..` more than {DESCENDANTS_MAX} times"));
        }
        if selections > SELECTIONS_MAX {
            return Err(format!("must not select one node more than {SELECTIONS_MAX} times"));
        }
        Ok(Self(Steps::Query(query)))
    }

    /// The first node that passes `test`, in document order.
    pub(super) fn find<'v>(&self, view: &'v Value, mut test: impl FnMut(&'v Value) -> bool) -> Option<&'v Value> {
        match &self.0 {
            Steps::Fields(fields) => {
                let mut node = view;
                for field in fields {
                    node = node.as_object()?.get(&**field)?;
                }
                test(node).then_some(node)
            }
            // An error here says that the result is no node of the document: nothing was found.
            Steps::Query(query) => {
                js_path_process(query, view).ok()?.into_iter().map(|found| found.val).find(|node| test(node))
            }
        }
    }

    /// The first node, if there is one.
    pub(super) fn first<'v>(&self, view: &'v Value) -> Option<&'v Value> {
        self.find(view, |_| true)
    }
}

/// The fields of `$.a.b.c`, or `None` when the path is anything else.
fn plain_fields(source: &str) -> Option<Box<[Box<str>]>> {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let fields = source.strip_prefix("$.")?.split('.');
    fields.map(|name| is_name(name).then(|| name.into())).collect()
}

/// The deepest run of open brackets; those inside of string literals are data.
fn nesting(source: &str) -> usize {
    let (mut depth, mut deepest) = (0usize, 0usize);
    let mut quote = None;
    let mut escaped = false;
    for c in source.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

/// The library's messages repeat the text; this keeps the position.
fn describe(error: &JsonPathError) -> String {
    match error {
        JsonPathError::PestError(error) => {
            // The library does not export the type of the position, so its numbers are read from its text.
            let position = format!("{:?}", error.line_col);
            let mut numbers = position.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
            let (line, column) = (numbers.next().unwrap_or("1"), numbers.next().unwrap_or("1"));
            format!("is not a JSONPath (RFC 9535): wrong at line {line}, column {column}")
        }
        _ => "is not a JSONPath (RFC 9535)".to_owned(),
    }
}

/// Walks a parsed path for what would make it expensive.
struct Cost {
    descendants: usize,
}

impl Cost {
    /// How often the segments can select one and the same node.
    fn segments(&mut self, segments: &[Segment]) -> Result<usize, String> {
        let mut selections = 1usize;
        for segment in segments {
            selections = selections.saturating_mul(self.segment(segment)?);
        }
        Ok(selections)
    }

    fn segment(&mut self, segment: &Segment) -> Result<usize, String> {
        match segment {
            Segment::Descendant(inner) => {
                self.descendants += 1;
                self.segment(inner)
            }
            Segment::Selector(selector) => self.selector(selector).map(|()| 1),
            Segment::Selectors(selectors) => {
                selectors.iter().try_for_each(|selector| self.selector(selector))?;
                Ok(selectors.len())
            }
        }
    }

    fn selector(&mut self, selector: &Selector) -> Result<(), String> {
        match selector {
            Selector::Filter(filter) => self.filter(filter),
            _ => Ok(()),
        }
    }

    fn filter(&mut self, filter: &Filter) -> Result<(), String> {
        match filter {
            Filter::Or(filters) | Filter::And(filters) => filters.iter().try_for_each(|inner| self.filter(inner)),
            Filter::Atom(FilterAtom::Filter { expr, .. }) => self.filter(expr),
            Filter::Atom(FilterAtom::Test { expr, .. }) => self.test(expr),
            Filter::Atom(FilterAtom::Comparison(comparison)) => {
                let (left, right) = comparison.vals();
                [left, right].into_iter().try_for_each(|side| match side {
                    Comparable::Function(function) => self.function(function),
                    _ => Ok(()),
                })
            }
        }
    }

    fn test(&mut self, test: &Test) -> Result<(), String> {
        match test {
            Test::RelQuery(segments) => {
                if self.segments(segments)? > 1 {
                    return Err("must not list selectors inside a filter".to_owned());
                }
                Ok(())
            }
            // It would be walked again for every element.
            Test::AbsQuery(_) => Err("must not query from `$` inside a filter".to_owned()),
            Test::Function(function) => self.function(function),
        }
    }

    fn function(&mut self, function: &TestFunction) -> Result<(), String> {
        match function {
            // The library compiles their pattern again for every node.
            TestFunction::Search(..) | TestFunction::Match(..) => {
                Err("must not use search() or match(): use the operator `regex`".to_owned())
            }
            TestFunction::Length(argument) => self.argument(argument),
            TestFunction::Value(argument) | TestFunction::Count(argument) => self.argument(argument),
            TestFunction::Custom(_, arguments) => arguments.iter().try_for_each(|argument| self.argument(argument)),
        }
    }

    fn argument(&mut self, argument: &FnArg) -> Result<(), String> {
        match argument {
            FnArg::Literal(_) => Ok(()),
            FnArg::Test(test) => self.test(test),
            FnArg::Filter(filter) => self.filter(filter),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::reaction::tests::is_quick;

    fn all<'v>(path: &Path, view: &'v Value) -> Vec<&'v Value> {
        let mut found = Vec::new();
        path.find(view, |node| {
            found.push(node);
            false
        });
        found
    }

    #[test]
    fn the_plain_form_answers_as_the_library_does() {
        let view = json!({"a": {"b": {"c": 1, "_d9": null}, "list": [{"c": 2}], "text": "x"}, "": 3});
        for source in ["$.a", "$.a.b", "$.a.b.c", "$.a.b._d9", "$.a.list", "$.a.list.c", "$.a.text.c", "$.b", "$.a.b.x"]
        {
            let plain = Path::compile(source).unwrap();
            assert!(matches!(plain.0, Steps::Fields(_)), "{source}");
            let library = Path::compile_query(source).unwrap();
            assert_eq!(all(&plain, &view), all(&library, &view), "{source}");
        }
    }

    #[test]
    fn other_forms_go_through_the_library() {
        let view = json!({"items": [{"p": 1, "q": 5}, {"p": 2}], "my key": 7, "deep": {"items": [{"p": 9}]}});
        for (source, expected) in [
            ("$", vec![view.clone()]),
            ("$['my key']", vec![json!(7)]),
            ("$.items[0].p", vec![json!(1)]),
            ("$.items[-1].p", vec![json!(2)]),
            ("$.items[*].p", vec![json!(1), json!(2)]),
            ("$.items[?@.p > 1].p", vec![json!(2)]),
            ("$.items[?(@.q && @.p == 1)].q", vec![json!(5)]),
            ("$.deep..p", vec![json!(9)]),
            ("$.nothing[*]", vec![]),
        ] {
            let path = Path::compile(source).unwrap_or_else(|error| panic!("{source}: {error}"));
            assert_eq!(all(&path, &view), expected.iter().collect::<Vec<_>>(), "{source}");
        }
    }

    #[test]
    fn refuses_what_is_no_path() {
        for source in ["", "a.b", "$.", "$..", "$.a[", "$.a[?]", "$[01]", "$.1a", "@.a"] {
            assert!(Path::compile(source).is_err(), "{source}");
        }
        assert_eq!(
            Path::compile("$.a[?@.b ==]").unwrap_err(),
            "is not a JSONPath (RFC 9535): wrong at line 1, column 12"
        );
    }

    #[test]
    fn refuses_what_would_be_expensive_and_quickly() {
        let sources = [
            "$[*,*][*,*][*,*][*,*][*,*][*,*][*,*]".to_owned(),
            "$..a..b..c".to_owned(),
            "$.a[?@..b..c..d]".to_owned(),
            "$.a[?$.b[*]]".to_owned(),
            "$.a[?search(@.b, 'x')]".to_owned(),
            "$.a[?@.b[?match(@.c, @.d)]]".to_owned(),
            format!("$.{}", "a".repeat(PATH_BYTES_MAX)),
            format!("$[?{}@.a{}]", "(".repeat(100), ")".repeat(100)),
            format!("$[?{}", "length(".repeat(70)),
            format!("$[?{}@.a", "!(".repeat(6)),
            format!("$[?{}@{} == 1]", "length(".repeat(5), ")".repeat(4)),
            format!("$[?{}", "@.a && length(length(length(length(@.b || ".repeat(8)),
        ];
        for source in sources {
            assert!(Path::compile(&source).is_err(), "{source}");
            assert!(is_quick(|| drop(Path::compile(&source))), "{source}");
        }
    }

    proptest! {
        /// Tokens thrown together: most do not compile, none may panic or take long.
        #[test]
        fn whatever_is_written_is_answered_quickly(
            tokens in prop::collection::vec(prop::sample::select(TOKENS.as_slice()), 0..30)
        ) {
            let view = json!({"a": [1, [2, {"a": [3]}], "x"], "b": {"a": 0.5, "b": null}});
            let quick = is_quick(|| {
                if let Ok(path) = Path::compile(&format!("${}", tokens.concat())) {
                    path.find(&view, |_| false);
                }
            });
            prop_assert!(quick);
        }
    }

    const TOKENS: [&str; 30] = [
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
    ];
}
