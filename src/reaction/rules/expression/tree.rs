//! The nodes of a compiled expression.

use std::collections::HashSet;

use super::functions::Function;
use super::value::Value;
use crate::event::describe::ViewType;
use crate::reaction::rules::pattern::Pattern;

/// A compiled node.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    /// A chain of fields of the event, walked without intermediate values.
    Event(Box<[Field]>),
    /// The variable of a macro.
    Variable(usize),
    Select(Box<Node>, Field),
    Has(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    /// A field of a message, by a name that is known only at evaluation.
    FieldOf(Box<[Node; 2]>, ViewType),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Choose(Box<[Node; 3]>),
    Compare(Comparison, Box<[Node; 2]>),
    Compute(Arithmetic, Box<[Node; 2]>),
    In(Box<[Node; 2]>),
    /// `in` with a literal list.
    Among(Box<Node>, HashSet<Box<str>>, Box<[Value<'static>]>),
    Matches(Box<Node>, Pattern),
    MatchesFound(Box<[Node; 2]>),
    Call(Function, Box<[Node]>),
    List(Box<[Node]>),
    Map(Box<[(Node, Node)]>),
    Macro(Box<Macro>),
    /// A node that cannot be evaluated. Only rules stored before this check existed have one.
    Wrong(Box<str>),
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: Box<str>,
    /// A message that events may lack; its absence is not a fault.
    pub(super) optional: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Debug)]
pub(super) struct Macro {
    pub(super) kind: MacroKind,
    pub(super) range: Node,
    pub(super) variable: usize,
    /// The predicate for an element, or for `map` the transformation of an element.
    pub(super) body: Node,
    /// The predicate of the three-argument `map`.
    pub(super) filter: Option<Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MacroKind {
    All,
    Exists,
    ExistsOne,
    Map,
}
