//! A connection borrowed from the pool.

use std::ops::{Deref, DerefMut};

use deadpool_postgres::Object;

/// A pooled connection. It returns to the pool only if its user marks it reusable at the end.
pub(super) struct Client {
    pub(super) object: Option<Object>,
    pub(super) reusable: bool,
}

impl Deref for Client {
    type Target = deadpool_postgres::ClientWrapper;

    fn deref(&self) -> &Self::Target {
        self.object.as_ref().expect("taken only when dropped")
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.object.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.reusable
        {
            drop(Object::take(object));
        }
    }
}
