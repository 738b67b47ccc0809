//! `causality lake`: maintenance of the table, directly on its storage. Needs no running process.

mod partitions;
mod progress;
mod survey;

mod compact;
mod expire;
mod status;
mod vacuum;

mod erase;
mod processes;
mod receipt;

use clap::Subcommand;

use crate::app;
use crate::app::telemetry;
use crate::cli::run::Layers;
use crate::cli::{Failure, output};
use crate::config::Config;
use crate::warehouse::Adopted;
use compact::CompactArgs;
use erase::EraseArgs;
use expire::ExpireArgs;
use status::StatusArgs;
use vacuum::VacuumArgs;

/// Work on the Parquet files and their Delta log
///
/// Reads the settings that say where the files are: data_dir, warehouse_url, s3_*.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Add every stored file that the Delta log does not name, and begin the log when there is none
    ///
    /// For files that were stored with delta_enabled set to false. Sinks may run meanwhile.
    Init {
        #[command(flatten)]
        layers: Layers,
    },
    /// Make small files into few large ones, sorted by time and device, with the same rows
    ///
    /// Of partitions that have compaction_min_files small files and to which nothing was added for
    /// compaction_min_age. Sinks and other compactions may run meanwhile.
    Compact(CompactArgs),
    /// Remove files that compaction replaced, once they are older than vacuum_retention, and what
    /// interrupted compactions left
    Vacuum(VacuumArgs),
    /// Remove every event of one device or user, from the bus, the store and the lake
    ///
    /// Asks the running processes through the admin API first, waits until what is on its way has
    /// arrived, then replaces each file of the lake that holds such rows. May be stopped and given
    /// again at any time. Exits 1 when something could not be erased, and names it.
    Erase(Box<EraseArgs>),
    /// Remove partitions whose hour is older than warehouse_retention
    ///
    /// From the Hive Metastore and the Delta table first. Sinks may run meanwhile. What was removed is
    /// in the audit record of the store, unless it is embedded and a process has it open.
    Expire(ExpireArgs),
    /// Files, bytes, small files, and the oldest hour that is to be compacted
    Status(StatusArgs),
}

pub fn execute(args: &Args) -> Result<(), Failure> {
    let layers = match &args.command {
        Command::Init { layers } => layers.clone(),
        Command::Compact(args) => args.layers().clone(),
        Command::Vacuum(args) => args.layers().clone(),
        Command::Erase(args) => args.layers(),
        Command::Expire(args) => args.layers().clone(),
        Command::Status(args) => args.layers().clone(),
    };
    let loaded = layers.load()?;
    telemetry::start_logs(loaded.config.process.log_level, loaded.config.process.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    runtime.block_on(async {
        let config = &loaded.config;
        let open = async || app::open_lake(config).await.map_err(Failure::from);
        match &args.command {
            Command::Init { .. } => init(config).await,
            Command::Compact(args) => compact::compact(args, &open().await?).await,
            Command::Vacuum(_) => vacuum::vacuum(&open().await?).await,
            Command::Erase(args) => erase::erase(args, &open().await?).await,
            Command::Expire(args) => expire::expire(args, &open().await?, config).await,
            Command::Status(args) => status::status(args, &open().await?).await,
        }
    })
}

async fn init(config: &Config) -> Result<(), Failure> {
    let tell = |done: Adopted| tracing::debug!(added = done.added, known = done.known, "files added to the Delta log");
    let done = app::init_lake(config, tell).await?;
    output::print(&report(done))
}

fn report(done: Adopted) -> String {
    let Adopted { added, known, unreadable, elsewhere } = done;
    let mut text = format!("{added} files added to the Delta log, {known} were in it\n");
    if unreadable > 0 {
        text.push_str(&format!("{unreadable} files cannot be read and were left out: the log above names them\n"));
    }
    if elsewhere > 0 {
        text.push_str(&format!("{elsewhere} files are in directories that are no partitions and were left out\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_what_was_left_out() {
        let all = Adopted { added: 2, known: 1, ..Adopted::default() };
        assert_eq!(report(all), "2 files added to the Delta log, 1 were in it\n");
        let some = report(Adopted { unreadable: 3, elsewhere: 4, ..all });
        assert!(some.contains("3 files cannot be read") && some.contains("4 files are in directories"), "{some}");
    }
}
