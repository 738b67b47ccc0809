//! One event as rules see it, made only as far as somebody asks.

use std::cell::OnceCell;

use serde_json::Value;

use super::expression::Scope;
use crate::event::EventRef;

/// The rule view of one event, in the forms that conditions and expressions want.
pub struct View<'e> {
    event: Option<&'e EventRef<'e>>,
    value: OnceCell<Value>,
    scope: OnceCell<Scope>,
}

impl<'e> View<'e> {
    pub fn of(event: &'e EventRef<'e>) -> Self {
        Self { event: Some(event), value: OnceCell::new(), scope: OnceCell::new() }
    }

    pub(super) fn value(&self) -> &Value {
        self.value.get_or_init(|| self.event.map_or(Value::Null, EventRef::view))
    }

    pub(super) fn scope(&self) -> &Scope {
        self.scope.get_or_init(|| Scope::new(self.value()))
    }
}

impl From<Value> for View<'static> {
    fn from(value: Value) -> Self {
        Self { event: None, value: value.into(), scope: OnceCell::new() }
    }
}
