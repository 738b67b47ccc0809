//! A rule's CEL expression over `event`, the rule view.
//!
//! The parser is the `cel` package's; what it reads is checked and evaluated here. So an expression is refused
//! for what it names and not for what it once did, it costs no more than its budget, numbers compare exactly,
//! and the view is not converted for it.
//!
//! Invariant: compiling is quick whatever is written, and evaluating ends within the budget. An expression that
//! asks for a message that the event does not have is no match; one that fails otherwise is no match and a fault.

mod arithmetic;
mod eval;
mod functions;
mod lower;
mod macros;
mod nesting;
mod never;
#[cfg(test)]
mod package_tests;
mod stop;
#[cfg(test)]
mod tests;
mod tree;
mod types;
mod value;

use std::borrow::Cow;

use cel_interpreter::parser::{ParseErrors, Parser};
use serde_json::Value as Json;

use self::eval::Run;
use self::lower::Lower;
use self::stop::Stop;
use self::tree::Node;
use super::budget::Budget;
use super::filters::Kinds;

/// Bytes of an expression's text.
pub(super) const EXPRESSION_BYTES_MAX: usize = 4_096;
/// Characters of the parser's own message that are passed on.
const MESSAGE_CHARS_MAX: usize = 200;

/// A compiled expression.
#[derive(Debug)]
pub(super) struct Expression {
    root: Node,
    /// What of it can never work; a rule that is written now must have none.
    pub(super) problems: Vec<String>,
}

/// Why an evaluation gave no verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It would have cost more than its budget.
    Budget,
    /// A type that does not fit, a key that is not there, a division by zero.
    Failed(Cow<'static, str>),
}

impl Expression {
    /// Compiles an expression for events of these kinds; the error is one clause for the person who wrote it.
    pub(super) fn compile(source: &str, kinds: Kinds<'_>) -> Result<Self, String> {
        if source.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("must be at most {EXPRESSION_BYTES_MAX} bytes long"));
        }
        nesting::bound(source)?;
        let parser = Parser::new().enable_ident_escape_syntax(true);
        let (tree, places) = parser.parse_with_source_info(source).map_err(|errors| describe(&errors))?;
        let (root, problems) = Lower::whole(&tree, &places, kinds)?;
        Ok(Self { root, problems })
    }

    /// The verdict over a view; false when the event lacks a message that is asked for.
    pub(super) fn evaluate(&self, view: &Json, budget: &mut Budget) -> Result<bool, Fault> {
        match (Run { event: view, variables: Vec::new(), budget }).bool(&self.root) {
            Ok(verdict) => Ok(verdict),
            Err(Stop::Absent) => Ok(false),
            Err(Stop::Exhausted) => Err(Fault::Budget),
            Err(Stop::Fault(text)) => Err(Fault::Failed(text)),
        }
    }
}

fn describe(errors: &ParseErrors) -> String {
    let Some(error) = errors.errors.first() else { return "is not a CEL expression".to_owned() };
    let message: String = error.msg.chars().take(MESSAGE_CHARS_MAX).collect();
    format!("is not a CEL expression: line {}, column {}: {message}", error.pos.0, error.pos.1)
}
