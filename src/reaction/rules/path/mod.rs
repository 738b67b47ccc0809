//! JSONPath (RFC 9535), compiled once and evaluated often.
//!
//! Invariant: compiling a path takes time in proportion to its text, and evaluating it ends within the caller's
//! budget. Knows of events only the types that `check` is given.

mod check;
mod parse;
mod query;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use self::query::{Segment, Selector, Walk};
use super::budget::{Budget, Exhausted};
use super::filters::EventKinds;
use super::node_types::NodeTypes;
use crate::event::ViewValue;

/// Bytes of a path's text.
pub(in crate::reaction) const PATH_BYTES_MAX: usize = 512;

/// A compiled path.
#[derive(Debug)]
pub(in crate::reaction) struct Path {
    /// `$.a.b.c`, by far the most common form, evaluated without inspecting each segment.
    fields: Option<Box<[Box<str>]>>,
    segments: Box<[Segment]>,
}

impl Path {
    /// Compiles a path. The error is one clause for its author.
    pub(in crate::reaction) fn compile(source: &str) -> Result<Self, String> {
        if source.len() > PATH_BYTES_MAX {
            return Err(format!("must be at most {PATH_BYTES_MAX} bytes long"));
        }
        let segments = parse::parse(source).map_err(|wrong| {
            let column = source.get(..wrong.at).unwrap_or_default().chars().count() + 1;
            format!("is not a JSONPath (RFC 9535): {}, at column {column}", wrong.what)
        })?;
        let name = |segment: &Segment| match segment {
            Segment::Children(selectors) => match &**selectors {
                [Selector::Name(name)] => Some(name.clone()),
                _ => None,
            },
            Segment::Descendants(_) => None,
        };
        let fields = segments.iter().map(name).collect();
        Ok(Self { fields, segments })
    }

    /// The types that the path finds in events of these kinds. The error says what can never exist.
    pub(in crate::reaction) fn check(&self, kinds: EventKinds<'_>) -> Result<NodeTypes, String> {
        check::check(&self.segments, kinds)
    }

    /// The names of a path of the form `$.a.b.c`.
    pub(in crate::reaction) fn field_names(&self) -> Option<&[Box<str>]> {
        self.fields.as_deref()
    }

    /// The first node that passes `test`, in document order.
    pub(in crate::reaction) fn find<'v>(
        &self,
        view: &'v ViewValue<'v>,
        budget: &mut Budget,
        mut test: impl FnMut(&'v ViewValue<'v>, &mut Budget) -> Result<bool, Exhausted>,
    ) -> Result<Option<&'v ViewValue<'v>>, Exhausted> {
        if let Some(fields) = &self.fields {
            budget.steps(fields.len())?;
            let Some(node) = member(view, fields) else { return Ok(None) };
            return Ok(test(node, budget)?.then_some(node));
        }
        let mut passed = None;
        let mut walk = Walk { root: view, budget };
        let _ended = walk.find(view, &self.segments, &mut |node, budget| {
            if test(node, budget)? {
                passed = Some(node);
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(passed)
    }

    /// The first node, if any.
    pub(in crate::reaction) fn first<'v>(
        &self,
        view: &'v ViewValue<'v>,
        budget: &mut Budget,
    ) -> Result<Option<&'v ViewValue<'v>>, Exhausted> {
        self.find(view, budget, |_, _| Ok(true))
    }
}

/// The node at a path of names.
pub(super) fn member<'v>(view: &'v ViewValue<'v>, names: &[Box<str>]) -> Option<&'v ViewValue<'v>> {
    names.iter().try_fold(view, |node, name| {
        let ViewValue::Object(members) = node else { return None };
        members.get(name)
    })
}
