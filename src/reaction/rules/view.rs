//! The view of one event that rules match against, built on first use.

use std::cell::OnceCell;

use crate::event::{EventRef, ViewValue};

/// Bytes of an event whose rules are selected by an index. The conditions that an index skips compare at most this much
/// text each, and 64 of them stay within the budget of a rule: an evaluation would not have been a fault.
const INDEXED_BYTES_MAX: usize = 64 << 10;

/// The rule view of one event.
pub struct View<'e> {
    event: Option<&'e EventRef<'e>>,
    value: OnceCell<ViewValue<'e>>,
}

impl<'e> View<'e> {
    pub fn of(event: &'e EventRef<'e>) -> Self {
        Self { event: Some(event), value: OnceCell::new() }
    }

    /// Whether conditions could exceed the budget of a rule merely by the size of what they compare.
    pub(super) fn is_large(&self) -> bool {
        self.event.is_some_and(|event| event.bytes.len() > INDEXED_BYTES_MAX)
    }

    pub(in crate::reaction) fn value(&self) -> &ViewValue<'e> {
        self.value.get_or_init(|| self.event.map_or(ViewValue::Null, EventRef::rule_view))
    }
}

impl From<serde_json::Value> for View<'static> {
    fn from(json: serde_json::Value) -> Self {
        Self { event: None, value: ViewValue::from(json).into() }
    }
}
