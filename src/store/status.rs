//! What the store reports about itself: counts for status and metrics, and schema versions.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    pub engine: String,
    pub deliveries_pending: u64,
    pub deliveries_dead: u64,
    /// Since each webhook was last disabled.
    pub deliveries_given_up: u64,
    pub webhooks: u64,
    pub rules: u64,
    pub anomaly_configs: u64,
}

/// The schema versions before and after a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub from: u32,
    pub to: u32,
}
