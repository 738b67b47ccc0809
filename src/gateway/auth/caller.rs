//! The caller of a request: the app and the limits of its API key.
//!
//! Route handlers and rate limits see the caller, not the credentials.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use uuid::Uuid;

use crate::store::{HashedKey, KeyHash, KeyLimits};

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// The gateway asks for no keys.
    Anyone,
    Key(Arc<KnownKey>),
}

impl Caller {
    /// The app whose events the caller may send; `None` means any app.
    pub(crate) fn app(&self) -> Option<&str> {
        self.key().map(|key| &*key.app_id)
    }

    pub(crate) fn key(&self) -> Option<&KnownKey> {
        match self {
            Self::Anyone => None,
            Self::Key(key) => Some(key),
        }
    }
}

/// An API key as this process knows it.
pub(crate) struct KnownKey {
    pub(crate) id: Uuid,
    pub(crate) app_id: Box<str>,
    /// The key's own limits, if it has any.
    pub(crate) limits: KeyLimits,
    pub(crate) hash: KeyHash,
    /// Expiry by the store's clock.
    pub(crate) expires_at_ms: Option<i64>,
    /// The minute of the last use that was recorded.
    pub(crate) used_minute: AtomicI64,
}

impl From<HashedKey> for KnownKey {
    fn from(key: HashedKey) -> Self {
        let HashedKey { id, app_id, hash, expires_at_ms, limits, version: _ } = key;
        Self { id, app_id: app_id.into(), limits, hash, expires_at_ms, used_minute: AtomicI64::new(0) }
    }
}

impl fmt::Debug for KnownKey {
    /// Omits the hash.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKey")
            .field("id", &self.id)
            .field("app_id", &self.app_id)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
