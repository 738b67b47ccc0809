//! A connection lent to a use case.
//!
//! Invariant: it returns to the pool only if [`Client::keep`] says so. Everything else discards it: a cancelled use case
//! drops it in the middle of a statement or a transaction.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use deadpool_postgres::{ClientWrapper, Object};

/// A pooled connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Client(Arc<Lent>);

struct Lent {
    object: Option<Object>,
    is_whole: AtomicBool,
}

impl Client {
    pub(super) fn new(object: Object) -> Self {
        Self(Arc::new(Lent { object: Some(object), is_whole: AtomicBool::new(false) }))
    }

    /// No statement and no transaction is left on it: it returns to the pool.
    pub(super) fn keep(self) {
        self.0.is_whole.store(true, Ordering::Relaxed);
    }
}

impl Deref for Client {
    type Target = ClientWrapper;

    fn deref(&self) -> &ClientWrapper {
        self.0.object.as_ref().expect("taken only when dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !*self.is_whole.get_mut()
        {
            drop(Object::take(object));
        }
    }
}
