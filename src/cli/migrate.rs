//! `causality migrate`: the schema of the PostgreSQL store.

use super::run::Layers;
use super::{Failure, output};
use crate::app::{self, telemetry};

/// Bring the PostgreSQL database to the schema of this version
///
/// An empty database is set up by the first process that starts; an older one only by this
/// command, which any number of processes may run at once. Waits half a minute for a server that
/// is not up yet. Reads the database_* settings.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub layers: Layers,
}

pub fn execute(args: &Args) -> Result<(), Failure> {
    let loaded = args.layers.load()?;
    telemetry::start_logs(loaded.config.process.log_level, loaded.config.process.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    match runtime.block_on(app::migrate(&loaded.config)) {
        Ok((from, to)) if from == to => output::print(&format!("schema version {to}: nothing to do\n")),
        Ok((from, to)) => output::print(&format!("schema version {from} is now {to}\n")),
        Err(failure) => Err(failure.into()),
    }
}
