//! Why an evaluation ends without a value.

use std::borrow::Cow;

use crate::reaction::rules::budget::Exhausted;

/// Why an evaluation ends without a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EvalError {
    Exhausted,
    /// A message that events may lack is absent.
    Absent,
    Fault(Cow<'static, str>),
}

impl EvalError {
    pub(super) fn fault(text: &'static str) -> Self {
        Self::Fault(text.into())
    }
}

impl From<Exhausted> for EvalError {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}
