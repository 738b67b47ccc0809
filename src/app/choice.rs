//! Which engine stands behind each port.
//!
//! A port without a setting is embedded when one process plays all roles, and the production engine at its usual address
//! when roles run apart.

use std::path::{Path, PathBuf};

use crate::app::role::{Role, RoleSet};
use crate::config::{Config, Loaded};

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
    pub(super) fn of(loaded: &Loaded, roles: &RoleSet) -> Self {
        let config = &loaded.config;
        Self {
            nats: config.nats_url.is_some() || !roles.is_all(),
            postgres: config.database_url.is_some() || config.database_host.is_some() || !roles.is_all(),
            objects: in_objects(config),
            reaction: roles.has(Role::Reaction),
            keys: roles.has(Role::Gateway) && config.requires_api_keys(),
            retention: roles.has(Role::Sink)
                && config.warehouse_retention.as_ref().is_some_and(|retention| retention.is_finite())
                && (config.database_url.is_some() || config.database_host.is_some()),
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

/// Whether the warehouse is in an object store rather than a directory.
pub(super) fn in_objects(config: &Config) -> bool {
    config.warehouse_directory().is_none()
        && (config.warehouse_url.is_some() || config.s3_bucket.is_some() || config.s3_endpoint.is_some())
}

/// The directory of a warehouse that is not in an object store.
pub(super) fn warehouse_directory(config: &Config, data_dir: &Path) -> PathBuf {
    config.warehouse_directory().unwrap_or_else(|| data_dir.join("warehouse"))
}
