//! The view of one event that rules match against, built on first use.

use std::cell::OnceCell;

use serde_json::Value;

use crate::event::EventRef;

/// The rule view of one event.
pub struct View<'e> {
    event: Option<&'e EventRef<'e>>,
    value: OnceCell<Value>,
}

impl<'e> View<'e> {
    pub fn of(event: &'e EventRef<'e>) -> Self {
        Self { event: Some(event), value: OnceCell::new() }
    }

    pub(in crate::reaction) fn value(&self) -> &Value {
        self.value.get_or_init(|| self.event.map_or(Value::Null, EventRef::view))
    }
}

impl From<Value> for View<'static> {
    fn from(value: Value) -> Self {
        Self { event: None, value: value.into() }
    }
}
