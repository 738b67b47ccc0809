//! `causality run`: loads the settings, starts the process and waits for its end.

use std::path::PathBuf;

use super::Failure;
use crate::app::role::RoleSet;
use crate::app::telemetry;
use crate::app::{self, Plan, StartFailure};
use crate::config;

/// Run the process: everything on this machine, with nothing installed, or some roles of it
///
/// With --role gateway, sink or reaction, processes share NATS JetStream (nats_url), PostgreSQL
/// (database_url) and an object store (warehouse_url); each port can also be switched alone.
///
/// Settings come from built-in defaults, then --config, then the environment, then these flags;
/// `causality config` shows them.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Roles, comma-separated: gateway, sink, reaction; `all` when left out
    #[arg(long, value_name = "ROLE", default_value = "all")]
    pub role: RoleSet,
    #[command(flatten)]
    pub layers: Layers,
    /// Parse and validate every event, then drop it: the null gateway that measurements compare with
    #[arg(long, hide = true)]
    pub discard: bool,
}

/// The layers of settings that the command line names.
#[derive(Clone, Debug, clap::Args)]
pub struct Layers {
    /// A TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the bus, the store and the warehouse keep their files
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
}

impl Layers {
    pub fn load(&self) -> Result<config::Loaded, Failure> {
        let flags: Vec<_> = self.data_dir.iter().map(|dir| ("data_dir", dir.clone())).collect();
        config::load(self.config.as_deref(), &flags).map_err(|error| Failure::usage(error.to_string()))
    }
}

/// Blocks until the process is stopped or fails.
pub fn execute(args: Args) -> Result<(), Failure> {
    let loaded = args.layers.load()?;
    telemetry::start_logs(loaded.config.process.log_level, loaded.config.process.log_format);
    let metrics = telemetry::start_metrics().map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    let plan = Plan { loaded, roles: args.role, discard: args.discard };
    let ended = runtime.block_on(app::run(plan, metrics));
    // Tasks left after an orderly stop must not keep the process alive.
    runtime.shutdown_background();
    ended.map_err(failure)
}

/// A failed start keeps its exit status.
pub(super) fn failure(error: anyhow::Error) -> Failure {
    match error.downcast::<StartFailure>() {
        Ok(failure) => failure.into(),
        Err(error) => Failure::failed(format!("{error:#}")),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::failed(error.to_string())
}
