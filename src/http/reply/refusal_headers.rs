//! Headers for replies of the listener itself.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

/// Adds the headers that all replies of a service carry to refusals of the listener, given the head of the request.
#[derive(Clone, Default)]
pub struct RefusalHeaders(Option<Arc<Write>>);

type Write = dyn Fn(&Parts, &mut HeaderMap) + Send + Sync;

impl RefusalHeaders {
    pub fn new(write: impl Fn(&Parts, &mut HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(write)))
    }

    pub(crate) fn write(&self, head: &Parts, headers: &mut HeaderMap) {
        if let Some(write) = &self.0 {
            write(head, headers);
        }
    }
}

impl fmt::Debug for RefusalHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dress").field(&self.0.is_some()).finish()
    }
}
