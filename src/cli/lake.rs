//! `causality lake`: the table over the Parquet files, by the storage itself; no process need run.

use clap::Subcommand;

use super::run::Layers;
use super::{Failure, output};
use crate::app;
use crate::telemetry;
use crate::warehouse::Adopted;

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
}

pub fn execute(args: &Args) -> Result<(), Failure> {
    let Command::Init { layers } = &args.command;
    let loaded = layers.load()?;
    telemetry::start_logs(loaded.config.log_level, loaded.config.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let tell = |done: Adopted| tracing::debug!(added = done.added, known = done.known, "files added to the Delta log");
    match runtime.block_on(app::init_lake(&loaded.config, tell)) {
        Ok(done) => output::print(&report(done)),
        Err(failure) => Err(match failure.how {
            app::How::Refused => Failure::refused(failure.to_string()),
            app::How::Unreachable => Failure::unreachable(failure.to_string()),
            app::How::Failed => Failure::failed(failure.to_string()),
        }),
    }
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
