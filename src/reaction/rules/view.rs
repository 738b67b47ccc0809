//! The view of one event that rules match against, built on first use.

use std::cell::OnceCell;

use crate::event::{EventRef, ViewValue};

/// The rule view of one event.
pub struct View<'e> {
    event: Option<&'e EventRef<'e>>,
    value: OnceCell<ViewValue<'e>>,
}

impl<'e> View<'e> {
    pub fn of(event: &'e EventRef<'e>) -> Self {
        Self { event: Some(event), value: OnceCell::new() }
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
