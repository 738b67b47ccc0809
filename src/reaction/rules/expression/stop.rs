//! Why an evaluation has no value.

use std::borrow::Cow;

use crate::reaction::rules::budget::Exhausted;

/// Why there is no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Exhausted,
    /// Something that an event may lack is not there.
    Absent,
    Fault(Cow<'static, str>),
}

impl Stop {
    pub(super) fn fault(text: &'static str) -> Self {
        Self::Fault(text.into())
    }
}

impl From<Exhausted> for Stop {
    fn from(_: Exhausted) -> Self {
        Self::Exhausted
    }
}
