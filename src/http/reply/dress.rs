//! Headers for replies that no service made.

use std::fmt;
use std::sync::Arc;

use http::HeaderMap;
use http::request::Parts;

/// Gives a refusal of the listener itself the headers that all replies of its service have, by the head of the request.
#[derive(Clone, Default)]
pub struct Dress(Option<Arc<Write>>);

type Write = dyn Fn(&Parts, &mut HeaderMap) + Send + Sync;

impl Dress {
    pub fn new(write: impl Fn(&Parts, &mut HeaderMap) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(write)))
    }

    pub(crate) fn write(&self, head: &Parts, headers: &mut HeaderMap) {
        if let Some(write) = &self.0 {
            write(head, headers);
        }
    }
}

impl fmt::Debug for Dress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dress").field(&self.0.is_some()).finish()
    }
}
