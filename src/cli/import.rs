//! `causality import`: imports events from files directly into the table. Needs no running process.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::ArgAction;
use indicatif::{ProgressBar, ProgressStyle};

use super::run::{self, Layers};
use super::{Failure, output};
use crate::app::telemetry;
use crate::app::{self, Import};
use crate::import::{Format, Progress, column};

/// Put events from files into the table, each once
///
/// JSON lines (an event a line, as batches have them), CSV and Parquet (columns are fields of the event, such as
/// deviceContext.platform), and Segment's export files; compressed with gzip or zstd or not. Rows go through the
/// gateway's checks and past the bus: no rule sees them.
///
/// A row whose id or idempotency key the table has in the same hour is not written again. An import that was stopped goes
/// on where it was when the same command is given again.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The files, or - for the standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What they hold: json-lines, csv, parquet or segment; by their names when left out
    #[arg(long)]
    format: Option<Format>,
    /// The app of the rows; those that name another are rejected
    #[arg(long, value_name = "ID")]
    app: Option<String>,
    /// The field of a column of CSV or Parquet; `COLUMN=` leaves it out
    #[arg(long, value_name = "COLUMN=FIELD", value_parser = parse_column, action = ArgAction::Append)]
    column: Vec<(String, Option<String>)>,
    /// Where rejected rows go, as JSON lines; FILE.rejects.jsonl when left out
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Bytes of text that are imported at a time: memory is about four times this, and files are made of it
    #[arg(long, value_name = "BYTES", default_value_t = 128 << 20, value_parser = parse_chunk)]
    chunk_bytes: usize,
    /// Check every row and write none
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    layers: Layers,
}

fn parse_column(text: &str) -> Result<(String, Option<String>), String> {
    column(text).map_err(|error| error.to_string())
}

fn parse_chunk(text: &str) -> Result<usize, String> {
    let bytes = text.parse().ok().filter(|bytes| (1 << 10..=1 << 30).contains(bytes));
    bytes.ok_or_else(|| "must be a number from 1024 to 1073741824".to_owned())
}

pub fn execute(args: Args) -> Result<(), Failure> {
    if args.rejects.is_some() && args.files.len() > 1 {
        return Err(Failure::usage("--rejects is for one file: each writes its own"));
    }
    let loaded = args.layers.load()?;
    telemetry::start_logs(loaded.config.process.log_level, loaded.config.process.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start the runtime: {error}")))?;
    let Args { files, format, app, column, rejects, chunk_bytes, dry_run, .. } = args;
    let import = Import { files, format, app, columns: column, rejects, chunk_bytes, dry_run };
    let mut bar = ImportBar::new();
    let mut rejected = 0;
    let done = app::import_files(&runtime, &loaded.config, &import, |file, progress, is_done| {
        bar.show(file, progress);
        if is_done {
            rejected += progress.rejected;
            // If the pipe is closed, there is nobody left to read it.
            let _ = output::print(&report(file, progress, dry_run));
        }
    });
    bar.clear();
    done.map_err(run::failure)?;
    if rejected > 0 {
        return Err(Failure::failed(format!("{rejected} rows were rejected")));
    }
    Ok(())
}

fn report(file: &Path, progress: &Progress, dry_run: bool) -> String {
    let Progress { done_before, imported, duplicates, rejected, rejects, .. } = progress;
    let file = file.display();
    let what = if dry_run { "rows are good" } else { "rows imported" };
    let mut text = format!("{file}: {imported} {what}");
    if *duplicates > 0 {
        text.push_str(&format!(", {duplicates} were there"));
    }
    if *done_before > 0 {
        text.push_str(&format!(", {done_before} were done before"));
    }
    if let Some(rejects) = rejects {
        text.push_str(&format!(", {rejected} rejected: {}", rejects.display()));
    }
    text.push('\n');
    text
}

/// A progress bar, on a terminal.
struct ImportBar(Option<ProgressBar>);

impl ImportBar {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {eta}");
            ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        Self(bar)
    }

    fn show(&mut self, file: &Path, progress: &Progress) {
        let Some(bar) = &self.0 else { return };
        bar.set_length(progress.bytes_total.max(progress.bytes));
        bar.set_position(progress.bytes);
        bar.set_message(format!("{}: {} rows", file.display(), progress.imported));
    }

    fn clear(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_the_rows_by_outcome() {
        let all = Progress { imported: 5, ..Progress::default() };
        assert_eq!(report(Path::new("a.csv"), &all, false), "a.csv: 5 rows imported\n");
        let rejects = Some("a.csv.rejects.jsonl".into());
        let some = Progress { duplicates: 2, done_before: 3, rejected: 1, rejects, ..all };
        let expected = "a.csv: 5 rows are good, 2 were there, 3 were done before, 1 rejected: a.csv.rejects.jsonl\n";
        assert_eq!(report(Path::new("a.csv"), &some, true), expected);
    }
}
