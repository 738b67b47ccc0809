//! Authentication: credentials, the keys that this process knows, and the callers they belong to.

pub(crate) mod access;
pub(crate) mod caller;
pub(crate) mod credentials;
pub(crate) mod key_ring;
