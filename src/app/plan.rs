//! What this process runs, and where it listens.

use std::net::SocketAddr;

use crate::app::role::RoleSet;
use crate::config::Loaded;

/// What to run.
pub struct Plan {
    pub loaded: Loaded,
    pub roles: RoleSet,
    /// Run only the gateway, and drop events after validation: the null gateway of benchmarks.
    pub discard: bool,
}

/// The addresses of the listeners.
pub(super) struct Addresses {
    pub(super) http: Option<SocketAddr>,
    pub(super) admin: SocketAddr,
}
