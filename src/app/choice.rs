//! Which engine stands behind each port.
//!
//! A port without a setting is embedded when one process plays all roles, and the production engine at its usual address
//! when roles run apart.

use crate::app::role::{Role, RoleSet};
use crate::config::Config;

/// The engine of each port. A port that no role of this process needs has none.
pub(super) struct Choice {
    pub(super) nats: bool,
    pub(super) postgres: bool,
    pub(super) objects: bool,
    pub(super) reaction: bool,
    /// A gateway that asks for API keys.
    pub(super) keys: bool,
    /// A sink that writes audit records of the partitions it removes, to a store that other processes share.
    retention: bool,
    pub(super) needs_warehouse: bool,
}

impl Choice {
    pub(super) fn of(config: &Config, roles: &RoleSet) -> Self {
        Self {
            nats: config.names_nats || !roles.is_all(),
            postgres: config.names_postgres || !roles.is_all(),
            objects: config.lake.objects.is_remote(),
            reaction: roles.has(Role::Reaction),
            keys: roles.has(Role::Gateway) && config.requires_api_keys,
            retention: roles.has(Role::Sink) && config.lake.retention.is_some() && config.names_postgres,
            needs_warehouse: roles.has(Role::Sink),
        }
    }

    pub(super) fn needs_store(&self) -> bool {
        self.reaction || self.keys || self.retention
    }

    pub(super) fn bus_name(&self) -> &'static str {
        if self.nats { "nats" } else { "sqlite" }
    }

    pub(super) fn store_name(&self) -> &'static str {
        match (self.needs_store(), self.postgres) {
            (false, _) => "none",
            (true, true) => "postgres",
            (true, false) => "sqlite",
        }
    }

    pub(super) fn warehouse_name(&self) -> &'static str {
        match (self.needs_warehouse, self.objects) {
            (false, _) => "none",
            (true, true) => "objects",
            (true, false) => "local",
        }
    }

    /// Whether this process keeps anything in the data directory.
    pub(super) fn needs_directory(&self) -> bool {
        !self.nats || (self.needs_store() && !self.postgres) || (self.needs_warehouse && !self.objects)
    }
}
