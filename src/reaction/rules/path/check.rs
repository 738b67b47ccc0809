//! Checks a path against the schema of events: the names must be able to exist, and the filters able to hold.

use super::query::{Comparable, Comparison, Logical, PatternOf, Query, Segment, Selector};
use crate::base::nearest::suggestion;
use crate::event::describe::{ViewType, payload};
use crate::reaction::rules::feasibility::{impossible_comparison, impossible_match};
use crate::reaction::rules::filters::EventKinds;
use crate::reaction::rules::node_types::{NodeType, NodeTypes, member, shown};
use crate::store::Operator;

/// The types that the segments find in events of these kinds. The error says what can never exist.
pub(super) fn check(segments: &[Segment], kinds: EventKinds<'_>) -> Result<NodeTypes, String> {
    Checker { kinds }.segments(NodeTypes::one(ViewType::Event), segments)
}

struct Checker<'d> {
    kinds: EventKinds<'d>,
}

/// One side of a comparison.
enum Side {
    Literal(serde_json::Value),
    Found(NodeTypes),
}

impl Checker<'_> {
    fn segments(&self, mut types: NodeTypes, segments: &[Segment]) -> Result<NodeTypes, String> {
        for segment in segments {
            types = match segment {
                Segment::Children(selectors) => self.selectors(&types, selectors)?,
                Segment::Descendants(selectors) => self.selectors(&self.with_descendants(types), selectors)?,
            };
        }
        Ok(types)
    }

    fn selectors(&self, types: &NodeTypes, selectors: &[Selector]) -> Result<NodeTypes, String> {
        let mut found = NodeTypes::default();
        for selector in selectors {
            found.join(self.selector(types, selector)?);
        }
        Ok(found)
    }

    fn selector(&self, types: &NodeTypes, selector: &Selector) -> Result<NodeTypes, String> {
        match selector {
            Selector::Name(name) => self.named(types, name),
            Selector::Index(_) | Selector::Slice { .. } => {
                let elements = |node| match node {
                    ViewType::List(element) => vec![Some(element.view_type())],
                    _ => Vec::new(),
                };
                inside(types, elements)
                    .ok_or_else(|| format!("takes an element by its index of {}, which is no list", types.describe()))
            }
            Selector::Wildcard => self.each(types),
            Selector::Filter(filter) => {
                let elements = self.each(types)?;
                self.logical(&elements, filter)?;
                Ok(elements)
            }
        }
    }

    fn named(&self, types: &NodeTypes, name: &str) -> Result<NodeTypes, String> {
        let mut found = NodeTypes { known: Vec::new(), open: types.open, optional: types.optional || types.open };
        let mut wrong = None;
        for node in &types.known {
            match member(*node, name, self.kinds) {
                Ok(holds) => {
                    // Messages and map entries may be missing.
                    found.optional |= matches!(node, ViewType::Map(_) | ViewType::Struct);
                    found.optional |= matches!(holds, Some(ViewType::Message(_) | ViewType::Struct));
                    found.add(holds);
                }
                Err(detail) => {
                    found.optional = true;
                    wrong.get_or_insert(detail);
                }
            }
        }
        match wrong {
            Some(detail) if found.is_empty() && types.known.len() == 1 => Err(detail),
            _ if found.is_empty() => {
                let names = types.known.iter().flat_map(|node| self.fields(*node));
                Err(format!("names a field `{}` that nothing there has{}", shown(name), suggestion(name, names)))
            }
            _ => Ok(found),
        }
    }

    /// The types that `*` and filters range over.
    fn each(&self, types: &NodeTypes) -> Result<NodeTypes, String> {
        inside(types, |node| self.children(node)).ok_or_else(|| format!("looks for members of {}", types.describe()))
    }

    fn with_descendants(&self, mut types: NodeTypes) -> NodeTypes {
        types.optional = true;
        let mut at = 0;
        while let Some(node) = types.known.get(at).copied() {
            self.children(node).into_iter().for_each(|child| types.add(child));
            at += 1;
        }
        types
    }

    /// The types of the children of a node.
    fn children(&self, node: ViewType) -> Vec<NodeType> {
        match node {
            ViewType::List(element) | ViewType::Map(element) => vec![Some(element.view_type())],
            ViewType::Struct => vec![None],
            ViewType::Event | ViewType::Message(_) => {
                self.fields(node).into_iter().map(|name| node.field(name)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The field names of this type in events of these kinds.
    fn fields(&self, node: ViewType) -> Vec<&'static str> {
        let mut names = node.fields();
        if let ViewType::Event = node {
            names.retain(|name| payload(name).is_none_or(|kind| self.kinds.include(kind)));
        }
        names
    }

    fn logical(&self, node: &NodeTypes, logical: &Logical) -> Result<(), String> {
        match logical {
            Logical::Any(parts) | Logical::All(parts) => parts.iter().try_for_each(|part| self.logical(node, part)),
            Logical::Not(inner) => self.logical(node, inner),
            Logical::Exists(query) => self.query(node, query).map(|_| ()),
            Logical::Compare(left, comparison, right) => match (self.side(node, left)?, self.side(node, right)?) {
                (Side::Found(types), Side::Literal(value)) => against_literal(&types, *comparison, &value),
                (Side::Literal(value), Side::Found(types)) => against_literal(&types, turned(*comparison), &value),
                (Side::Found(left), Side::Found(right)) => against_each_other(&left, *comparison, &right),
                (Side::Literal(_), Side::Literal(_)) => Ok(()),
            },
            Logical::Matches { subject, pattern, whole } => {
                let name = if *whole { "match" } else { "search" };
                let (known, found) = match pattern {
                    PatternOf::Constant(pattern) => (Some(pattern), None),
                    PatternOf::Found(found) => (None, Some(self.side(node, found)?)),
                };
                let sides = [Some((self.side(node, subject)?, known)), found.map(|side| (side, None))];
                for (side, known) in sides.into_iter().flatten() {
                    let wrong = match side {
                        Side::Found(types) => impossible_match(&types, known),
                        Side::Literal(value) if value.is_string() => None,
                        Side::Literal(_) => Some("takes strings".to_owned()),
                    };
                    if let Some(detail) = wrong {
                        return Err(format!("calls `{name}`, which {detail}"));
                    }
                }
                Ok(())
            }
        }
    }

    fn side(&self, node: &NodeTypes, comparable: &Comparable) -> Result<Side, String> {
        let number = NodeTypes { optional: true, ..NodeTypes::one(ViewType::Int { min: 0, max: i64::MAX }) };
        match comparable {
            Comparable::Literal(value) => Ok(Side::Literal(value.to_json())),
            Comparable::Singular(query) => self.query(node, query).map(Side::Found),
            Comparable::ValueOf(query) => {
                let found = self.query(node, query)?;
                Ok(Side::Found(NodeTypes { optional: true, ..found }))
            }
            Comparable::Count(query) => {
                self.query(node, query)?;
                Ok(Side::Found(NodeTypes { optional: false, ..number }))
            }
            Comparable::Length(of) => {
                let without = |node: &ViewType| classes_of(*node) & (TEXT | OBJECT | LIST) == 0;
                match self.side(node, of)? {
                    Side::Found(types) if types.known().is_some_and(|known| known.iter().all(without)) => {
                        Err(format!("takes the `length` of {}, which has none", types.describe()))
                    }
                    Side::Literal(value) if !value.is_string() => {
                        Err(format!("takes the `length` of `{}`, which has none", shown(&value.to_string())))
                    }
                    _ => Ok(Side::Found(number)),
                }
            }
        }
    }

    fn query(&self, node: &NodeTypes, query: &Query) -> Result<NodeTypes, String> {
        let from = if query.from_root { NodeTypes::one(ViewType::Event) } else { node.clone() };
        // The current node exists.
        self.segments(NodeTypes { optional: false, ..from }, &query.segments)
    }
}

/// The types of the children, of those types that have children.
fn inside(types: &NodeTypes, of: impl Fn(ViewType) -> Vec<NodeType>) -> Option<NodeTypes> {
    let mut found = NodeTypes { known: Vec::new(), open: types.open, optional: true };
    types.known.iter().flat_map(|node| of(*node)).for_each(|inner| found.add(inner));
    (!found.is_empty()).then_some(found)
}

/// The comparison with its sides swapped.
fn turned(comparison: Comparison) -> Comparison {
    match comparison {
        Comparison::Below => Comparison::Above,
        Comparison::AtMost => Comparison::AtLeast,
        Comparison::Above => Comparison::Below,
        Comparison::AtLeast => Comparison::AtMost,
        same => same,
    }
}

fn against_literal(types: &NodeTypes, comparison: Comparison, value: &serde_json::Value) -> Result<(), String> {
    let wrong = |operator| impossible_comparison(types, operator, value);
    // `<=` and `>=` hold for equal values even when these have no order.
    let unless_equal = |detail: Option<String>| detail.filter(|_| wrong(Operator::Eq).is_some());
    let detail = match comparison {
        Comparison::Equal => wrong(Operator::Eq),
        Comparison::NotEqual => wrong(Operator::Ne),
        Comparison::Below => wrong(Operator::Lt),
        Comparison::Above => wrong(Operator::Gt),
        Comparison::AtMost => unless_equal(wrong(Operator::Lte)),
        Comparison::AtLeast => unless_equal(wrong(Operator::Gte)),
    };
    match detail {
        Some(detail) => Err(format!("compares with `{}`, which {detail}", shown(&value.to_string()))),
        None => Ok(()),
    }
}

fn against_each_other(left: &NodeTypes, comparison: Comparison, right: &NodeTypes) -> Result<(), String> {
    let both = classes(left) & classes(right);
    let (possible, why) = match comparison {
        Comparison::Below | Comparison::Above => (both & (TEXT | NUMBER) != 0, "which have no order"),
        // Two missing nodes are equal.
        _ => (both != 0 || (left.optional && right.optional), "which are never equal"),
    };
    if possible { Ok(()) } else { Err(format!("compares {} with {}, {why}", left.describe(), right.describe())) }
}

const TEXT: u8 = 1;
const NUMBER: u8 = 2;
const BOOL: u8 = 4;
const OBJECT: u8 = 8;
const LIST: u8 = 16;

/// The classes of values; only values of the same class can be equal.
fn classes(types: &NodeTypes) -> u8 {
    match types.known() {
        Some(known) => known.iter().fold(0, |all, node| all | classes_of(*node)),
        None => TEXT | NUMBER | BOOL | OBJECT | LIST,
    }
}

fn classes_of(node: ViewType) -> u8 {
    match node {
        ViewType::String => TEXT,
        ViewType::Enum(_) => TEXT | NUMBER,
        ViewType::Int { .. } | ViewType::Double => NUMBER,
        ViewType::Bool => BOOL,
        ViewType::Event | ViewType::Message(_) | ViewType::Struct | ViewType::Map(_) => OBJECT,
        ViewType::List(_) => LIST,
    }
}
