//! Lowers the parser's tree to evaluable nodes, checking names, argument counts and types.
//!
//! Invariant: a part that can never work is reported as a problem with its position in the text. A rule that was
//! stored before the check existed still compiles: such a node is a fault when it is reached.

use cel_interpreter::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, MapExpr, SelectExpr, SourceInfo, operators,
};

use super::functions;
use super::macros;
use super::never;
use super::tree::{Arithmetic, Comparison, Field, Macro, MacroKind, Node};
use super::types::{Type, constant};
use super::value::Value;
use crate::base::nearest::suggestion;
use crate::event::describe::ViewType;
use crate::reaction::rules::filters::EventKinds;
use crate::reaction::rules::node_types::{member, shown};
use crate::reaction::rules::pattern::{COMPILED_BYTES_MAX, Pattern};

/// Nesting depth of operators and calls.
const DEPTH_MAX: usize = 64;
/// Nesting depth of macros.
const MACRO_DEPTH_MAX: usize = 4;
/// Reported problems of one expression.
const PROBLEMS_MAX: usize = 8;
/// The identifiers that name types: `type(event.x) == int`.
const TYPES: [&str; 10] = ["bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"];

/// The state of lowering one expression.
pub(super) struct Lower<'a> {
    source: &'a SourceInfo,
    kinds: EventKinds<'a>,
    /// The variables of the enclosing macros.
    scope: Vec<(&'a str, Type)>,
    depth: usize,
    problems: Vec<String>,
    /// The upper bound of the compiled patterns' size.
    pattern_bytes: usize,
}

/// A node with its type. The error names an exceeded bound.
type Lowered = Result<(Node, Type), String>;

impl<'a> Lower<'a> {
    /// Lowers a whole expression. Returns the root and the problems.
    pub(super) fn lower(
        tree: &'a IdedExpr,
        source: &'a SourceInfo,
        kinds: EventKinds<'a>,
    ) -> Result<(Node, Vec<String>), String> {
        let mut lower = Self { source, kinds, scope: Vec::new(), depth: 0, problems: Vec::new(), pattern_bytes: 0 };
        let (node, gives) = lower.node(tree)?;
        if !gives.is_bool() {
            lower.problems.push(format!("must give a bool, and gives {}", gives.name()));
        }
        Ok((node, lower.problems))
    }

    fn problem(&mut self, at: &IdedExpr, what: String) -> (Node, Type) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(format!("{what}{}", self.position(at)));
        }
        (Node::Wrong(what.into()), Type::Dyn)
    }

    fn position(&self, at: &IdedExpr) -> String {
        let Some((start, _)) = self.source.offset_for(at.id) else { return String::new() };
        let before = self.source.source.get(..start as usize).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        format!(", at line {line}, column {column}")
    }

    fn node(&mut self, tree: &'a IdedExpr) -> Lowered {
        if self.depth == DEPTH_MAX {
            return Err(format!("must not nest operators, fields and calls deeper than {DEPTH_MAX}"));
        }
        self.depth += 1;
        let done = self.by_kind(tree);
        self.depth -= 1;
        done
    }

    fn by_kind(&mut self, tree: &'a IdedExpr) -> Lowered {
        match &tree.expr {
            Expr::Unspecified => Err("is not a CEL expression".to_owned()),
            Expr::Struct(_) => Err("must not build messages".to_owned()),
            Expr::Literal(literal) => {
                let (value, of) = constant(literal);
                Ok((Node::Constant(value), of))
            }
            Expr::Ident(name) => Ok(self.name(tree, name)),
            Expr::Select(select) => self.select(tree, select),
            Expr::Call(call) => self.call(tree, call),
            Expr::List(list) => self.list(&list.elements),
            Expr::Map(map) => self.map(tree, map),
            Expr::Comprehension(each) => self.each(tree, each),
        }
    }

    fn name(&mut self, tree: &IdedExpr, name: &str) -> (Node, Type) {
        if let Some(slot) = self.scope.iter().rposition(|(variable, _)| *variable == name) {
            return (Node::Variable(slot), self.scope[slot].1.clone());
        }
        if name == "event" {
            return (Node::Event([].into()), Type::View(ViewType::Event));
        }
        if let Some(name) = TYPES.iter().find(|known| **known == name) {
            return (Node::Constant(Value::Type(name)), Type::Kind);
        }
        let near = suggestion(name, ["event"].into_iter().chain(self.scope.iter().map(|(variable, _)| *variable)));
        self.problem(tree, format!("names an unknown variable `{}`{near}", shown(name)))
    }

    fn select(&mut self, tree: &'a IdedExpr, select: &'a SelectExpr) -> Lowered {
        let operand = self.node(&select.operand)?;
        let name = select.field.as_str();
        if !select.test {
            return Ok(self.field(tree, operand, name));
        }
        // `has()` may name a payload that the filters exclude.
        match self.field_type(&operand.1, name, EventKinds::default()) {
            Ok(_) => Ok((Node::Has(Box::new(operand.0), name.into()), Type::Bool)),
            Err(detail) => Ok(self.problem(tree, detail)),
        }
    }

    /// `operand.name`, or `operand['name']`.
    fn field(&mut self, tree: &IdedExpr, (operand, of): (Node, Type), name: &str) -> (Node, Type) {
        let (field_type, optional) = match self.field_type(&of, name, self.kinds) {
            Ok(found) => found,
            Err(detail) => return self.problem(tree, detail),
        };
        let field = Field { name: name.into(), optional };
        let node = match operand {
            Node::Event(fields) => Node::Event(fields.into_iter().chain([field]).collect()),
            other => Node::Select(Box::new(other), field),
        };
        (node, field_type)
    }

    /// The type of a field, and whether events may lack it.
    fn field_type(&self, of: &Type, name: &str, kinds: EventKinds<'_>) -> Result<(Type, bool), String> {
        match of {
            Type::View(place @ (ViewType::Event | ViewType::Message(_))) => {
                let found = member(*place, name, kinds)?;
                let optional = matches!(found, Some(ViewType::Message(_) | ViewType::Struct));
                Ok((found.map_or(Type::Dyn, Type::of), optional))
            }
            Type::Map(_, value) => Ok(((**value).clone(), false)),
            Type::Dyn => Ok((Type::Dyn, false)),
            other => Err(format!("names a field `{}` of {}", shown(name), other.name())),
        }
    }

    fn call(&mut self, tree: &'a IdedExpr, call: &'a CallExpr) -> Lowered {
        match (call.func_name.as_str(), &call.target, call.args.as_slice()) {
            (operators::LOGICAL_NOT, None, [inner]) => {
                let (node, of) = self.node(inner)?;
                Ok(if of.is_bool() {
                    (Node::Not(Box::new(node)), Type::Bool)
                } else {
                    self.problem(tree, format!("`!` takes a bool, not {}", of.name()))
                })
            }
            (operators::NEGATE, None, [inner]) => self.negate(tree, inner),
            (operators::CONDITIONAL, None, [test, yes, no]) => self.choose(tree, test, yes, no),
            (name, None, [a, b]) if name.starts_with(['_', '@']) => {
                let (a, of_a) = self.node(a)?;
                let (b, of_b) = self.node(b)?;
                Ok(self.operator(tree, name, (a, of_a), (b, of_b)))
            }
            (name, ..) if name.starts_with(['_', '@', '-', '!']) => Err("must not use optional syntax".to_owned()),
            (name, target, arguments) => self.function(tree, name, target.as_deref(), arguments),
        }
    }

    fn negate(&mut self, tree: &'a IdedExpr, inner: &'a IdedExpr) -> Lowered {
        let (node, of) = self.node(inner)?;
        if !of.is_number() || matches!(of, Type::Uint) {
            return Ok(self.problem(tree, format!("`-` takes an int or a double, not {}", of.name())));
        }
        Ok((Node::Negate(Box::new(node)), of))
    }

    fn choose(&mut self, tree: &'a IdedExpr, test: &'a IdedExpr, yes: &'a IdedExpr, no: &'a IdedExpr) -> Lowered {
        let (test, of) = self.node(test)?;
        let (yes, of_yes) = self.node(yes)?;
        let (no, of_no) = self.node(no)?;
        if !of.is_bool() {
            return Ok(self.problem(tree, format!("`?` takes a bool, not {}", of.name())));
        }
        Ok((Node::Choose(Box::new([test, yes, no])), of_yes.joined(of_no)))
    }

    fn operator(&mut self, tree: &IdedExpr, name: &str, a: (Node, Type), b: (Node, Type)) -> (Node, Type) {
        let comparison = match name {
            operators::EQUALS => Some(Comparison::Equal),
            operators::NOT_EQUALS => Some(Comparison::NotEqual),
            operators::LESS => Some(Comparison::Less),
            operators::LESS_EQUALS => Some(Comparison::AtMost),
            operators::GREATER => Some(Comparison::Greater),
            operators::GREATER_EQUALS => Some(Comparison::AtLeast),
            _ => None,
        };
        if let Some(comparison) = comparison {
            return self.compare(tree, comparison, a, b);
        }
        let arithmetic = match name {
            operators::ADD => Some(Arithmetic::Add),
            operators::SUBSTRACT => Some(Arithmetic::Subtract),
            operators::MULTIPLY => Some(Arithmetic::Multiply),
            operators::DIVIDE => Some(Arithmetic::Divide),
            operators::MODULO => Some(Arithmetic::Remainder),
            _ => None,
        };
        if let Some(arithmetic) = arithmetic {
            return self.compute(tree, arithmetic, a, b);
        }
        match name {
            operators::LOGICAL_AND | operators::LOGICAL_OR => {
                for (sign, of) in [&a.1, &b.1].map(|of| (if name == operators::LOGICAL_AND { "&&" } else { "||" }, of))
                {
                    if !of.is_bool() {
                        let what = format!("`{sign}` takes bools, not {}", of.name());
                        return self.problem(tree, what);
                    }
                }
                let both = Box::new([a.0, b.0]);
                (if name == operators::LOGICAL_AND { Node::And(both) } else { Node::Or(both) }, Type::Bool)
            }
            operators::IN => self.is_in(tree, a, b),
            operators::INDEX => self.index(tree, a, b),
            _ => self.problem(tree, "uses optional syntax, which there is none of here".to_owned()),
        }
    }

    fn compare(&mut self, tree: &IdedExpr, comparison: Comparison, a: (Node, Type), b: (Node, Type)) -> (Node, Type) {
        let equality = matches!(comparison, Comparison::Equal | Comparison::NotEqual);
        let good = if equality { a.1.can_equal(&b.1) } else { a.1.has_order_with(&b.1) };
        if !good {
            let never = if equality { "which are never equal" } else { "which have no order" };
            return self.problem(tree, format!("compares {} with {}, {never}", a.1.name(), b.1.name()));
        }
        if let Some(what) = never::impossible_comparison(comparison, &a, &b) {
            return self.problem(tree, what);
        }
        (Node::Compare(comparison, Box::new([a.0, b.0])), Type::Bool)
    }

    fn compute(&mut self, tree: &IdedExpr, arithmetic: Arithmetic, a: (Node, Type), b: (Node, Type)) -> (Node, Type) {
        let sign = match arithmetic {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Remainder => "%",
        };
        let adds = arithmetic == Arithmetic::Add;
        let remainder = arithmetic == Arithmetic::Remainder;
        let gives = match (&a.1, &b.1) {
            (Type::Dyn, Type::Dyn) => Some(Type::Dyn),
            (Type::Dyn, known) | (known, Type::Dyn) => match known {
                Type::Int | Type::Uint => Some(known.clone()),
                Type::Double if !remainder => Some(Type::Double),
                Type::String | Type::Bytes | Type::List(_) if adds => Some(known.clone()),
                Type::View(ViewType::Enum(_)) => Some(Type::Dyn),
                _ => None,
            },
            (Type::Int, Type::Int) => Some(Type::Int),
            (Type::Uint, Type::Uint) => Some(Type::Uint),
            (Type::Double, Type::Double) if !remainder => Some(Type::Double),
            (Type::Bytes, Type::Bytes) if adds => Some(Type::Bytes),
            (Type::List(_), Type::List(_)) if adds => Some(a.1.clone().joined(b.1.clone())),
            (a, b) if adds && a.is_string() && b.is_string() => Some(Type::String),
            _ => None,
        };
        match gives {
            Some(gives) => (Node::Compute(arithmetic, Box::new([a.0, b.0])), gives),
            None => {
                let mixed = a.1.is_number() && b.1.is_number() && !remainder;
                let hint = if mixed { ": convert one of them with int(), uint() or double()" } else { "" };
                self.problem(tree, format!("has no `{sign}` for {} and {}{hint}", a.1.name(), b.1.name()))
            }
        }
    }

    fn is_in(&mut self, tree: &IdedExpr, a: (Node, Type), b: (Node, Type)) -> (Node, Type) {
        let element = match &b.1 {
            Type::List(element) => (**element).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::View(place @ (ViewType::Event | ViewType::Message(_))) => {
                // Equivalent to `has()`.
                if let Node::Constant(name) = &a.0
                    && let Some(name) = name.as_str()
                    && let Err(detail) = member(*place, name, EventKinds::default())
                {
                    return self.problem(tree, detail);
                }
                Type::String
            }
            Type::Dyn => Type::Dyn,
            other => {
                let what = format!("`in` takes a list or a map, not {}", other.name());
                return self.problem(tree, what);
            }
        };
        if !a.1.can_equal(&element) {
            return self
                .problem(tree, format!("looks for {} among {}, which are never equal", a.1.name(), plural(&element)));
        }
        let Node::Constant(Value::List(values)) = &b.0 else { return (Node::In(Box::new([a.0, b.0])), Type::Bool) };
        if values.is_empty() {
            return self.problem(tree, "looks for something in a list that has no element".to_owned());
        }
        if let Some(what) = values.iter().find_map(|value| never::impossible_equality(&a, value)) {
            return self.problem(tree, what);
        }
        let texts = values.iter().filter_map(Value::as_str).map(Into::into).collect();
        let others = values.iter().filter(|value| value.as_str().is_none()).cloned().collect();
        (Node::Among(Box::new(a.0), texts, others), Type::Bool)
    }

    fn index(&mut self, tree: &IdedExpr, a: (Node, Type), b: (Node, Type)) -> (Node, Type) {
        let gives = match (&a.1, &b.0) {
            // A literal name is a field access.
            (Type::View(ViewType::Event | ViewType::Message(_)), Node::Constant(name))
                if let Some(name) = name.as_str() =>
            {
                return self.field(tree, a, name);
            }
            (Type::View(place @ (ViewType::Event | ViewType::Message(_))), _) if b.1.is_string() => {
                return (Node::FieldOf(Box::new([a.0, b.0]), *place), Type::Dyn);
            }
            (Type::Dyn, _) => Type::Dyn,
            (Type::List(element), _) if b.1.is_number() => (**element).clone(),
            (Type::Map(key, value), _) if key.can_equal(&b.1) => (**value).clone(),
            (other, _) => {
                let what = format!("takes {} out of {} by its index", b.1.name(), other.name());
                return self.problem(tree, what);
            }
        };
        (Node::Index(Box::new([a.0, b.0])), gives)
    }

    fn function(
        &mut self,
        tree: &'a IdedExpr,
        name: &str,
        target: Option<&'a IdedExpr>,
        arguments: &'a [IdedExpr],
    ) -> Lowered {
        let (mut nodes, mut types) = (Vec::new(), Vec::new());
        let found = functions::find(name, target.is_some(), arguments.len() + usize::from(target.is_some()));
        let function = match found {
            Ok(function) => function,
            Err(detail) if detail.is_empty() => {
                let near = suggestion(name, functions::names());
                return Ok(self.problem(tree, format!("calls an unknown function `{}`{near}", shown(name))));
            }
            Err(detail) => return Ok(self.problem(tree, format!("calls {detail}"))),
        };
        for argument in target.into_iter().chain(arguments) {
            let (node, of) = self.node(argument)?;
            nodes.push(node);
            types.push(of);
        }
        let Some(function) = function else { return Ok(self.matches(tree, name, nodes, &types)) };
        match function.result(&types) {
            Ok(gives) => Ok((Node::Call(function, nodes.into()), gives)),
            Err((place, takes)) => {
                let given = types.get(place).map_or("nothing", Type::name);
                Ok(self.problem(tree, format!("`{name}` takes {takes}, not {given}")))
            }
        }
    }

    fn matches(&mut self, tree: &IdedExpr, name: &str, nodes: Vec<Node>, types: &[Type]) -> (Node, Type) {
        let Ok([text, pattern]) = <[Node; 2]>::try_from(nodes) else {
            return self.problem(tree, format!("calls `{name}` in a way that it has not"));
        };
        if name != "matches" {
            return self.problem(tree, format!("calls `{name}` in a way that it has not"));
        }
        if let Some(other) = types.iter().find(|of| !of.is_string()) {
            return self.problem(tree, format!("`matches` takes strings, not {}", other.name()));
        }
        let Node::Constant(source) = &pattern else {
            return (Node::MatchesFound(Box::new([text, pattern])), Type::Bool);
        };
        match Pattern::compile(source.as_str().unwrap_or_default()) {
            Ok(pattern) => {
                self.pattern_bytes += pattern.bytes_max();
                if self.pattern_bytes > COMPILED_BYTES_MAX {
                    return self
                        .problem(tree, format!("has patterns that compile to more than {COMPILED_BYTES_MAX} bytes"));
                }
                (Node::Matches(Box::new(text), pattern), Type::Bool)
            }
            Err(detail) => self.problem(tree, format!("the pattern of `matches` {detail}")),
        }
    }

    fn list(&mut self, elements: &'a [IdedExpr]) -> Lowered {
        let (mut nodes, mut of): (Vec<Node>, Option<Type>) = (Vec::new(), None);
        for element in elements {
            let (node, own) = self.node(element)?;
            of = Some(match of {
                None => own,
                Some(of) => of.joined(own),
            });
            nodes.push(node);
        }
        let of = Type::List(Box::new(of.unwrap_or(Type::Dyn)));
        let values = nodes.iter().map(|node| if let Node::Constant(value) = node { Some(value.clone()) } else { None });
        Ok(match values.collect::<Option<Vec<_>>>() {
            Some(values) => (Node::Constant(Value::List(values.into())), of),
            None => (Node::List(nodes.into()), of),
        })
    }

    fn map(&mut self, tree: &'a IdedExpr, map: &'a MapExpr) -> Lowered {
        let mut entries = Vec::new();
        let mut of: Option<(Type, Type)> = None;
        for entry in &map.entries {
            let EntryExpr::MapEntry(entry) = &entry.expr else { return Err("must not build messages".to_owned()) };
            let (key, of_key) = self.node(&entry.key)?;
            let (value, of_value) = self.node(&entry.value)?;
            if !matches!(of_key, Type::Dyn | Type::Bool | Type::Int | Type::Uint) && !of_key.is_string() {
                return Ok(self.problem(tree, format!("has {} as the key of a map", of_key.name())));
            }
            of = Some(match of {
                None => (of_key, of_value),
                Some((key, value)) => (key.joined(of_key), value.joined(of_value)),
            });
            entries.push((key, value));
        }
        let (key, value) = of.unwrap_or((Type::Dyn, Type::Dyn));
        Ok((Node::Map(entries.into()), Type::Map(Box::new(key), Box::new(value))))
    }

    fn each(&mut self, tree: &'a IdedExpr, each: &'a ComprehensionExpr) -> Lowered {
        let Some((kind, body, filter)) = macros::recognize(each) else {
            return Err("uses a macro of another form".to_owned());
        };
        let (range, of) = self.node(&each.iter_range)?;
        let element = match &of {
            Type::List(element) => (**element).clone(),
            Type::Map(key, _) => (**key).clone(),
            Type::View(ViewType::Event | ViewType::Message(_)) => Type::String,
            Type::Dyn => Type::Dyn,
            other => {
                let what = format!("a macro ranges over lists and maps, not {}", other.name());
                return Ok(self.problem(tree, what));
            }
        };
        if self.scope.len() == MACRO_DEPTH_MAX {
            return Err(format!("must not nest macros deeper than {MACRO_DEPTH_MAX}"));
        }
        let variable = self.scope.len();
        self.scope.push((each.iter_var.as_str(), element));
        let inside = self.inside(body, filter);
        self.scope.truncate(variable);
        let ((body, of), filter) = inside?;
        let tested = filter.as_ref().map(|(_, of)| of).or((kind != MacroKind::Map).then_some(&of));
        if let Some(other) = tested.filter(|of| !of.is_bool()) {
            return Ok(self.problem(tree, format!("a macro tests with a bool, not {}", other.name())));
        }
        let gives = if kind == MacroKind::Map { Type::List(Box::new(of)) } else { Type::Bool };
        let filter = filter.map(|(node, _)| node);
        Ok((Node::Macro(Box::new(Macro { kind, range, variable, body, filter })), gives))
    }

    #[expect(clippy::type_complexity, reason = "two nodes with their types")]
    fn inside(
        &mut self,
        body: &'a IdedExpr,
        filter: Option<&'a IdedExpr>,
    ) -> Result<((Node, Type), Option<(Node, Type)>), String> {
        let filter = filter.map(|filter| self.node(filter)).transpose()?;
        Ok((self.node(body)?, filter))
    }
}

fn plural(of: &Type) -> String {
    match of {
        Type::Bytes => "bytes".to_owned(),
        other => format!("{}s", other.name().trim_start_matches("a ").trim_start_matches("an ")),
    }
}
