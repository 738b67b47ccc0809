//! Who sends a request: credentials, the keys that this process knows, and the caller they stand for.

pub(crate) mod access;
pub(crate) mod caller;
pub(crate) mod credentials;
pub(crate) mod key_ring;
