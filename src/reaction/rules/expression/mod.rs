//! A rule's CEL expression over `event`, the rule view.
//!
//! The `cel` package parses; checking and evaluating happen here. So an expression is refused for the names that it
//! uses rather than for how an evaluation happened to go, costs no more than its budget, compares numbers exactly, and
//! needs no conversion of the view.
//!
//! Invariant: compiling any text is quick, and evaluating ends within the budget. An expression that accesses a
//! message that the event lacks does not match; one that fails otherwise does not match and is a fault.

mod arithmetic;
mod error;
mod eval;
mod functions;
mod lower;
mod macros;
mod nesting;
mod never;
#[cfg(test)]
mod package_tests;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

use std::borrow::Cow;

use cel_interpreter::parser::{ParseErrors, Parser};

use self::error::EvalError;
use self::eval::Evaluator;
use self::lower::Lower;
use self::tree::Node;
use super::budget::Budget;
use super::filters::EventKinds;
use crate::event::ViewValue;

/// Bytes of an expression's source.
pub(super) const EXPRESSION_BYTES_MAX: usize = 4_096;
/// Characters kept of the parser's own message.
const MESSAGE_CHARS_MAX: usize = 200;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Expression {
    root: Node,
    /// The parts that can never work; a newly written rule must have none.
    pub(super) problems: Vec<String>,
}

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ExpressionFault {
    /// It exceeded its budget.
    Budget,
    /// A type mismatch, a missing key, a division by zero.
    Failed(Cow<'static, str>),
}

impl Expression {
    /// Compiles an expression for events of these kinds. The error is one clause for its author.
    pub(super) fn compile(source: &str, kinds: EventKinds<'_>) -> Result<Self, String> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("must be at most {EXPRESSION_BYTES_MAX} bytes long"));
        }
        nesting::bound(source)?;
        let parser = Parser::new().enable_ident_escape_syntax(true);
        let (tree, places) = parser.parse_with_source_info(source).map_err(|errors| describe(&errors))?;
        let (root, problems) = Lower::lower(&tree, &places, kinds)?;
        Ok(Self { root, problems })
    }

    /// Evaluates the expression over a view. The result is false when the event lacks a message that is accessed.
    pub(super) fn evaluate(&self, view: &ViewValue<'_>, budget: &mut Budget) -> Result<bool, ExpressionFault> {
        match (Evaluator { event: view, variables: Vec::new(), budget }).bool(&self.root) {
            Ok(result) => Ok(result),
            Err(EvalError::Absent) => Ok(false),
            Err(EvalError::Exhausted) => Err(ExpressionFault::Budget),
            Err(EvalError::Fault(text)) => Err(ExpressionFault::Failed(text)),
        }
    }
}

fn describe(errors: &ParseErrors) -> String {
    let Some(error) = errors.errors.first() else { return "is not a CEL expression".to_owned() };
    let message: String = error.msg.chars().take(MESSAGE_CHARS_MAX).collect();
    format!("is not a CEL expression: line {}, column {}: {message}", error.pos.0, error.pos.1)
}
