//! The composition root: the only place that chooses engines and connects roles to them.
//!
//! `run` reads as the life of the process: bind every port, open the engines, start the roles, wait, stop in order.
//! `settings` maps the configuration to the settings of each part.

// What to run, and on what.
mod choice;
mod plan;
pub mod role;
mod service_manager;
mod settings;
mod start_failure;

// Outside of the roles: the ports, the log, the signals.
mod certificates;
mod data_directory;
mod listeners;
pub mod open_files;
mod signals;
mod sockets;
pub mod telemetry;

// Services that no role has.
mod abandoned;
mod admin_access;
mod fatal;
mod janitor;
mod lake;
mod readiness;
mod retention;
mod usage;

// From the start to the stop.
mod admin_port;
mod banner;
mod engines;
mod import;
mod null_gateway;
mod roles;
mod run;
mod start_log;
mod starting;

pub use engines::migrate;
pub use import::{Import, import_files};
pub use lake::{Lake, init_lake, open_audit_store, open_lake};
pub use plan::Plan;
pub use retention::Removals;
pub use run::run;
pub use start_failure::{StartFailure, StartFailureKind};

use crate::{admin, gateway};

/// The OpenAPI document of a gateway that faces the internet.
pub fn gateway_document() -> serde_json::Value {
    gateway::document(&gateway::DocumentOptions::default())
}

/// The OpenAPI document of the admin API.
pub fn admin_document() -> serde_json::Value {
    admin::document()
}
