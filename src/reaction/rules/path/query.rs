//! The segments of a parsed path and their evaluation.
//!
//! Invariant: every visited node costs a step of the budget, so evaluation ends whatever the path and the document
//! are. Nodes come in the order of RFC 9535; members of an object in the order of their names.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use crate::event::ViewValue;
use crate::reaction::rules::budget::{Budget, Exhausted};
use crate::reaction::rules::number::{Numeric, equal};
use crate::reaction::rules::pattern::Pattern;

#[derive(Debug)]
pub(super) enum Segment {
    Children(Box<[Selector]>),
    Descendants(Box<[Selector]>),
}

#[derive(Debug)]
pub(super) enum Selector {
    Name(Box<str>),
    Wildcard,
    Index(i64),
    Slice { start: Option<i64>, end: Option<i64>, step: i64 },
    Filter(Box<Logical>),
}

#[derive(Debug)]
pub(super) enum Logical {
    Any(Box<[Logical]>),
    All(Box<[Logical]>),
    Not(Box<Logical>),
    Exists(Query),
    Compare(Comparable, Comparison, Comparable),
    Matches { subject: Comparable, pattern: PatternOf, whole: bool },
}

/// A path inside a filter: from the current node (`@`) or from the root (`$`).
#[derive(Debug)]
pub(super) struct Query {
    pub(super) from_root: bool,
    pub(super) segments: Box<[Segment]>,
}

#[derive(Debug)]
pub(super) enum Comparable {
    Literal(ViewValue<'static>),
    Singular(Query),
    Length(Box<Comparable>),
    Count(Query),
    ValueOf(Query),
}

#[derive(Debug)]
pub(super) enum PatternOf {
    Constant(Pattern),
    Found(Comparable),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Below,
    AtMost,
    Above,
    AtLeast,
}

impl Query {
    /// Whether it finds at most one node.
    pub(super) fn is_singular(&self) -> bool {
        self.segments.iter().all(|segment| match segment {
            Segment::Children(selectors) => matches!(&**selectors, [Selector::Name(_) | Selector::Index(_)]),
            Segment::Descendants(_) => false,
        })
    }
}

/// A value to compare: borrowed from the document, or computed.
enum Found<'v> {
    Node(&'v ViewValue<'v>),
    Number(u64),
    Nothing,
}

impl Found<'_> {
    fn as_number(&self) -> Option<Numeric> {
        match self {
            Self::Node(node) => Numeric::of_value(node),
            Self::Number(number) => Some(Numeric::Uint(*number)),
            Self::Nothing => None,
        }
    }
}

/// Walks from a root. The caller ends the walk by breaking.
pub(super) struct Walk<'v, 'b> {
    pub(super) root: &'v ViewValue<'v>,
    pub(super) budget: &'b mut Budget,
}

type Flow = Result<ControlFlow<()>, Exhausted>;

const GO_ON: Flow = Ok(ControlFlow::Continue(()));

/// Returns from the function when the walk ends.
macro_rules! go {
    ($flow:expr) => {
        if $flow?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    };
}

impl<'v> Walk<'v, '_> {
    /// Calls `found` with every node that the segments select from `node`.
    pub(super) fn find(
        &mut self,
        node: &'v ViewValue<'v>,
        segments: &[Segment],
        found: &mut dyn FnMut(&'v ViewValue<'v>, &mut Budget) -> Flow,
    ) -> Flow {
        self.budget.step()?;
        let Some((segment, rest)) = segments.split_first() else { return found(node, self.budget) };
        match segment {
            Segment::Children(selectors) => self.children(node, selectors, rest, found),
            Segment::Descendants(selectors) => self.descendants(node, selectors, rest, found),
        }
    }

    fn descendants(
        &mut self,
        node: &'v ViewValue<'v>,
        selectors: &[Selector],
        rest: &[Segment],
        found: &mut dyn FnMut(&'v ViewValue<'v>, &mut Budget) -> Flow,
    ) -> Flow {
        self.budget.step()?;
        go!(self.children(node, selectors, rest, found));
        match node {
            ViewValue::List(elements) => {
                for element in elements {
                    go!(self.descendants(element, selectors, rest, found));
                }
            }
            ViewValue::Object(members) => {
                for (_, member) in members.iter() {
                    go!(self.descendants(member, selectors, rest, found));
                }
            }
            _ => {}
        }
        GO_ON
    }

    fn children(
        &mut self,
        node: &'v ViewValue<'v>,
        selectors: &[Selector],
        rest: &[Segment],
        found: &mut dyn FnMut(&'v ViewValue<'v>, &mut Budget) -> Flow,
    ) -> Flow {
        for selector in selectors {
            match (selector, node) {
                (Selector::Name(name), ViewValue::Object(members)) => {
                    if let Some(member) = members.get(name) {
                        go!(self.find(member, rest, found));
                    }
                }
                (Selector::Index(index), ViewValue::List(elements)) => {
                    if let Some(element) = place(*index, elements.len()).and_then(|at| elements.get(at)) {
                        go!(self.find(element, rest, found));
                    }
                }
                (Selector::Slice { start, end, step }, ViewValue::List(elements)) => {
                    for at in slice(*start, *end, *step, elements.len()) {
                        if let Some(element) = elements.get(at) {
                            go!(self.find(element, rest, found));
                        }
                    }
                }
                (Selector::Wildcard, _) => {
                    for child in each(node) {
                        go!(self.find(child, rest, found));
                    }
                }
                (Selector::Filter(filter), _) => {
                    for child in each(node) {
                        self.budget.step()?;
                        if self.holds(child, filter)? {
                            go!(self.find(child, rest, found));
                        }
                    }
                }
                _ => {}
            }
        }
        GO_ON
    }

    fn holds(&mut self, node: &'v ViewValue<'v>, logical: &Logical) -> Result<bool, Exhausted> {
        self.budget.step()?;
        match logical {
            Logical::Any(parts) => {
                for part in parts {
                    if self.holds(node, part)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Logical::All(parts) => {
                for part in parts {
                    if !self.holds(node, part)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Logical::Not(inner) => self.holds(node, inner).map(|holds| !holds),
            Logical::Exists(query) => {
                self.query(node, query, &mut |_, _| Ok(ControlFlow::Break(()))).map(|f| f.is_break())
            }
            Logical::Compare(left, comparison, right) => {
                let (left, right) = (self.value(node, left)?, self.value(node, right)?);
                compare(&left, *comparison, &right, self.budget)
            }
            Logical::Matches { subject, pattern, whole } => self.matches(node, subject, pattern, *whole),
        }
    }

    fn matches(
        &mut self,
        node: &'v ViewValue<'v>,
        subject: &Comparable,
        pattern: &PatternOf,
        whole: bool,
    ) -> Result<bool, Exhausted> {
        let Found::Node(ViewValue::Text(text)) = self.value(node, subject)? else { return Ok(false) };
        match pattern {
            PatternOf::Constant(pattern) => pattern.is_match(text, self.budget),
            PatternOf::Found(found) => {
                let Found::Node(ViewValue::Text(source)) = self.value(node, found)? else { return Ok(false) };
                self.budget.bytes(source.len())?;
                let pattern = Pattern::dynamic_i_regexp(source, whole, self.budget)?;
                pattern.map_or(Ok(false), |pattern| pattern.is_match(text, self.budget))
            }
        }
    }

    fn query(
        &mut self,
        node: &'v ViewValue<'v>,
        query: &Query,
        found: &mut dyn FnMut(&'v ViewValue<'v>, &mut Budget) -> Flow,
    ) -> Flow {
        let from = if query.from_root { self.root } else { node };
        self.find(from, &query.segments, found)
    }

    fn value<'c>(&mut self, node: &'v ViewValue<'v>, comparable: &'c Comparable) -> Result<Found<'c>, Exhausted>
    where
        'v: 'c,
    {
        match comparable {
            Comparable::Literal(value) => Ok(Found::Node(value)),
            Comparable::Singular(query) => {
                let mut first = Found::Nothing;
                let _ended = self.query(node, query, &mut |found, _| {
                    first = Found::Node(found);
                    Ok(ControlFlow::Break(()))
                })?;
                Ok(first)
            }
            Comparable::Length(of) => Ok(match self.value(node, of)? {
                Found::Node(ViewValue::Text(text)) => {
                    self.budget.bytes(text.len())?;
                    Found::Number(text.chars().count() as u64)
                }
                Found::Node(ViewValue::List(elements)) => Found::Number(elements.len() as u64),
                Found::Node(ViewValue::Object(members)) => Found::Number(members.len() as u64),
                _ => Found::Nothing,
            }),
            Comparable::Count(query) => {
                let mut count = 0;
                let _ended = self.query(node, query, &mut |_, _| {
                    count += 1;
                    GO_ON
                })?;
                Ok(Found::Number(count))
            }
            Comparable::ValueOf(query) => {
                let mut only = Found::Nothing;
                let mut several = false;
                let _ended = self.query(node, query, &mut |found, _| {
                    several = matches!(only, Found::Node(_));
                    only = Found::Node(found);
                    Ok(if several { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })?;
                Ok(if several { Found::Nothing } else { only })
            }
        }
    }
}

fn each<'v>(node: &'v ViewValue<'v>) -> impl Iterator<Item = &'v ViewValue<'v>> {
    let (elements, members) = match node {
        ViewValue::List(elements) => (Some(elements), None),
        ViewValue::Object(members) => (None, Some(members)),
        _ => (None, None),
    };
    elements
        .into_iter()
        .flatten()
        .chain(members.into_iter().flat_map(|members| members.iter().map(|(_, member)| member)))
}

/// Resolves an index, which counts from the back when it is negative.
fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 { index + length as i64 } else { index };
    usize::try_from(index).ok()
}

/// The indices that a slice selects (section 2.3.4.2).
fn slice(start: Option<i64>, end: Option<i64>, step: i64, length: usize) -> impl Iterator<Item = usize> {
    let length = length as i64;
    let normal = |place: i64| if place >= 0 { place } else { length + place };
    let (mut at, end) = if step >= 0 {
        let bound = |place: i64| normal(place).clamp(0, length);
        (bound(start.unwrap_or(0)), bound(end.unwrap_or(length)))
    } else {
        let bound = |place: i64| normal(place).clamp(-1, length - 1);
        // Without an end, the slice runs down past the first element.
        (start.map_or(length - 1, bound), end.map_or(-1, bound))
    };
    std::iter::from_fn(move || {
        let goes_on = (step > 0 && at < end) || (step < 0 && at > end);
        goes_on.then(|| {
            let here = at;
            // Bounded by 2^53 and the length.
            at += step;
            here as usize
        })
    })
}

fn compare(
    left: &Found<'_>,
    comparison: Comparison,
    right: &Found<'_>,
    budget: &mut Budget,
) -> Result<bool, Exhausted> {
    let equals = |budget: &mut Budget| match (left, right) {
        (Found::Nothing, Found::Nothing) => Ok(true),
        (Found::Node(a), Found::Node(b)) => equal(a, b, budget),
        _ => Ok(left.as_number().zip(right.as_number()).is_some_and(|(a, b)| a.equals(b))),
    };
    let order = |budget: &mut Budget| match (left, right) {
        (Found::Node(ViewValue::Text(a)), Found::Node(ViewValue::Text(b))) => {
            budget.bytes(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        _ => Ok(left.as_number().zip(right.as_number()).and_then(|(a, b)| a.compare(b))),
    };
    Ok(match comparison {
        Comparison::Equal => equals(budget)?,
        Comparison::NotEqual => !equals(budget)?,
        Comparison::Below => order(budget)?.is_some_and(Ordering::is_lt),
        Comparison::Above => order(budget)?.is_some_and(Ordering::is_gt),
        Comparison::AtMost => order(budget)?.is_some_and(Ordering::is_lt) || equals(budget)?,
        Comparison::AtLeast => order(budget)?.is_some_and(Ordering::is_gt) || equals(budget)?,
    })
}
