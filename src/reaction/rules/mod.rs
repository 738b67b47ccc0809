//! Rules: documents are validated when they are written, compiled when they are loaded, and matched against events
//! within a budget.
//!
//! Invariant: whether a rule matches depends on the event alone. Must not know the bus, or what follows from a match.

pub(super) mod budget;
pub(super) mod number;
pub(super) mod view;

pub(super) mod feasibility;
pub(super) mod filters;
pub(super) mod node_types;
pub(super) mod path;
mod pattern;

mod condition;
mod expression;
pub(super) mod rule;

pub(super) mod actions;
pub(super) mod subject_template;

pub(super) mod index;
pub(super) mod selection;
