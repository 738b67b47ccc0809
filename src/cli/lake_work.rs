//! `causality lake compact`, `vacuum` and `status`: what keeps the lake fast, by hand.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use jiff::Timestamp;

use super::run::Layers;
use super::{Failure, lake_expire, moment, output};
use crate::app::Lake;
use crate::event;
use crate::warehouse::{
    Candidate, Compacted, CompactionFilter, CompactionOutcome, CompactionProgress, LakeStatus, OldPartitions,
    Partition, Vacuumed, WarehouseError, WarehouseErrorKind,
};

/// How long a partition is waited for that another worker has, or a worker that is gone: its lease ends within this.
pub(super) const BUSY_PATIENCE: Duration = Duration::from_secs(45);
pub(super) const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Partitions that are worked on at once, where there are as many processors: each takes up to 256 MB.
const PARTITIONS_TOGETHER_MAX: usize = 4;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CompactArgs {
    /// Only this app's partitions
    #[arg(long, value_name = "APP", value_parser = app_id)]
    app: Option<String>,
    /// Only hours from this one on: 2026-01-31, 2026-01-31T09:00:00Z, or 7d ago
    #[arg(long, value_name = "TIME", value_parser = moment::past)]
    from: Option<Timestamp>,
    /// Only hours before this one
    #[arg(long, value_name = "TIME", value_parser = moment::past)]
    to: Option<Timestamp>,
    /// Say what would be compacted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    layers: Layers,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct VacuumArgs {
    #[command(flatten)]
    layers: Layers,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    layers: Layers,
}

pub(super) fn app_id(text: &str) -> Result<String, String> {
    if event::is_app_id(text) { Ok(text.to_owned()) } else { Err("is no app id".to_owned()) }
}

impl CompactArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }

    fn filter(&self) -> CompactionFilter {
        let hour = |at: Timestamp| at.as_second().div_euclid(3_600);
        CompactionFilter {
            app_id: self.app.clone(),
            from_hour: self.from.map(hour),
            // The hour in which it lies counts as before it, unless it begins there.
            to_hour: self.to.map(|at| (at.as_second() + 3_599).div_euclid(3_600)),
        }
    }
}

impl VacuumArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

impl StatusArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

pub(super) fn failed(error: &WarehouseError) -> Failure {
    match error.kind {
        WarehouseErrorKind::Refused => Failure::refused(error.to_string()),
        _ => Failure::failed(error.to_string()),
    }
}

/// Only a terminal is shown it.
pub(super) fn bar(total: Option<u64>, template: &str) -> ProgressBar {
    let bar = match (std::io::stderr().is_terminal(), total) {
        (false, _) => ProgressBar::hidden(),
        (true, Some(total)) => ProgressBar::new(total),
        (true, None) => ProgressBar::new_spinner(),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

async fn survey(lake: &Lake, filter: &CompactionFilter) -> Result<LakeStatus, Failure> {
    let bar = bar(None, "{elapsed:>4} {spinner} {msg}");
    let shown = bar.clone();
    let show = move |status: &LakeStatus| {
        shown.set_message(format!("{} files in {} partitions", status.files, status.partitions));
        shown.tick();
        true
    };
    let status = lake.warehouse.survey(&lake.settings, filter, show).await;
    bar.finish_and_clear();
    status.map_err(|error| failed(&error))
}

/// What became of all partitions.
#[derive(Default)]
struct Totals {
    partitions: u64,
    compacted: Compacted,
    busy: u64,
    problems: Vec<String>,
}

impl Totals {
    fn add(&mut self, partition: &Partition, outcome: CompactionOutcome) {
        match outcome {
            CompactionOutcome::Done(done) => {
                let all = &mut self.compacted;
                self.partitions += 1;
                all.files_read += done.files_read;
                all.bytes_read += done.bytes_read;
                all.files_written += done.files_written;
                all.bytes_written += done.bytes_written;
                all.rows += done.rows;
                all.repeated += done.repeated;
            }
            CompactionOutcome::Busy | CompactionOutcome::Overtaken => self.busy += 1,
            CompactionOutcome::Damaged { file } => {
                self.problems
                    .push(format!("{partition}: {file} cannot be read; it stays, and its partition is left as it is"));
            }
            CompactionOutcome::Nothing | CompactionOutcome::Warm | CompactionOutcome::Stopped => {}
        }
    }
}

pub(super) async fn compact(args: &CompactArgs, lake: &Lake) -> Result<(), Failure> {
    lake.warehouse.check_compaction().await.map_err(|error| failed(&error))?;
    let status = survey(lake, &args.filter()).await?;
    if status.candidates.is_empty() {
        return output::print(&nothing_due(&status, lake));
    }
    if args.dry_run {
        return output::print(&plan(&status));
    }
    let total = status.candidates.iter().map(|candidate| candidate.bytes).sum();
    let bar = bar(Some(total), "{elapsed:>4} [{bar:32}] {bytes}/{total_bytes} {msg}");
    let totals = Mutex::new(Totals::default());
    let work = async |candidate: &Candidate| {
        let partition = &candidate.partition;
        bar.set_message(partition.to_string());
        let done = one(lake, candidate, &bar).await;
        let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
        match done {
            Ok(outcome) => totals.add(partition, outcome),
            Err(error) => totals.problems.push(format!("{partition}: {error}")),
        }
    };
    stream::iter(&status.candidates).for_each_concurrent(partitions_together(), work).await;
    let totals = totals.into_inner().unwrap_or_else(PoisonError::into_inner);
    bar.finish_and_clear();
    output::print(&report(&totals))?;
    if totals.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(totals.problems.join("\n")))
}

/// How many are worked on at once.
pub(super) fn partitions_together() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(PARTITIONS_TOGETHER_MAX)
}

/// Tells the bar of the bytes that were read, each once however often the work is begun.
pub(super) fn shown_on(bar: &ProgressBar, told: &Arc<AtomicU64>) -> impl Fn(CompactionProgress) -> bool + use<> {
    let (bar, told) = (bar.clone(), told.clone());
    move |progress| {
        let before = told.fetch_max(progress.bytes_read, Ordering::Relaxed);
        bar.inc(progress.bytes_read.saturating_sub(before));
        true
    }
}

/// Waits for a lease that is not over yet.
async fn one(lake: &Lake, candidate: &Candidate, bar: &ProgressBar) -> Result<CompactionOutcome, WarehouseError> {
    let (told, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    loop {
        let outcome = lake.warehouse.compact(&candidate.partition, &lake.settings, shown_on(bar, &told)).await;
        if matches!(outcome, Ok(CompactionOutcome::Busy)) && began.elapsed() < BUSY_PATIENCE {
            tokio::time::sleep(BUSY_PAUSE).await;
            continue;
        }
        bar.inc(candidate.bytes.saturating_sub(told.load(Ordering::Relaxed)));
        return outcome;
    }
}

fn report(totals: &Totals) -> String {
    let Compacted { files_read, bytes_read, files_written, bytes_written, rows, repeated } = totals.compacted;
    let mut text = format!(
        "{} partitions compacted: {files_read} files ({}) became {files_written} ({}), {} rows\n",
        totals.partitions,
        HumanBytes(bytes_read),
        HumanBytes(bytes_written),
        HumanCount(rows),
    );
    if repeated > 0 {
        text.push_str(&format!("{repeated} rows repeated others, sequence and id, and were left out\n"));
    }
    if totals.busy > 0 {
        text.push_str(&format!("{} partitions left to the workers that have them\n", totals.busy));
    }
    text
}

fn nothing_due(status: &LakeStatus, lake: &Lake) -> String {
    let (files_min, age_min) = (lake.settings.files_min, lake.settings.age_min);
    let mut text = "no partition is due\n".to_owned();
    if status.small_files > 0 {
        text.push_str(&format!(
            "{} small files are in partitions with fewer than {files_min} of them (compaction_min_files), or in which \
             one was stored in the last {} (compaction_min_age)\n",
            status.small_files,
            HumanDuration(age_min),
        ));
    }
    text
}

fn plan(status: &LakeStatus) -> String {
    let line = |candidate: &Candidate| match candidate.files {
        0 => format!("{}: files that were replaced, or left by an interrupted compaction\n", candidate.partition),
        files => format!("{}: {files} files, {}\n", candidate.partition, HumanBytes(candidate.bytes)),
    };
    let mut text: String = status.candidates.iter().map(line).collect();
    text.push_str(&format!("{} partitions would be compacted\n", status.candidates.len()));
    text
}

fn document(status: &LakeStatus, old: &OldPartitions) -> serde_json::Value {
    serde_json::json!({
        "partitions": status.partitions,
        "files": status.files,
        "bytes": status.bytes,
        "small_files": status.small_files,
        "small_bytes": status.small_bytes,
        "compacted_files": status.compacted_files,
        "replaced_files": status.replaced_files,
        "replaced_bytes": status.replaced_bytes,
        "orphans": status.orphans,
        "unnamed_files": status.unnamed_files,
        "foreign_files": status.foreign_files,
        "due_partitions": status.due_partitions(),
        "oldest_uncompacted": status.oldest().map(ToString::to_string),
        "expired_partitions": old.partitions.len(),
        "expired_files": old.files(),
        "expired_bytes": old.bytes(),
    })
}

fn text(status: &LakeStatus, old: &OldPartitions) -> String {
    let mut text = format!(
        "files                {} in {} partitions, {}\nsmall files          {}, {}\ncompacted files      {}\n",
        HumanCount(status.files),
        HumanCount(status.partitions),
        HumanBytes(status.bytes),
        HumanCount(status.small_files),
        HumanBytes(status.small_bytes),
        HumanCount(status.compacted_files),
    );
    let oldest = status.oldest().map_or_else(|| "none".to_owned(), ToString::to_string);
    text.push_str(&format!("partitions due       {}\noldest uncompacted   {oldest}\n", status.due_partitions()));
    if !old.partitions.is_empty() {
        let (partitions, files) = (HumanCount(old.partitions.len() as u64), HumanCount(old.files()));
        let bytes = HumanBytes(old.bytes());
        text.push_str(&format!("older than retention {partitions} partitions, {files} files, {bytes}\n"));
    }
    let rare = [
        ("replaced files", status.replaced_files, "not in the table any more, a vacuum removes them"),
        ("orphans", status.orphans, "of interrupted compactions, a vacuum removes them"),
        ("unnamed files", status.unnamed_files, "not in the table, or not yet: see causality lake init"),
        ("foreign files", status.foreign_files, "left alone"),
    ];
    for (name, count, what) in rare.into_iter().filter(|(_, count, _)| *count > 0) {
        text.push_str(&format!("{name:<20} {}, {what}\n", HumanCount(count)));
    }
    text
}

pub(super) async fn vacuum(lake: &Lake) -> Result<(), Failure> {
    let bar = bar(None, "{elapsed:>4} {spinner} {msg}");
    let shown = bar.clone();
    let show = move |done: &Vacuumed| {
        shown.set_message(format!("{} files removed", done.files + done.orphans));
        shown.tick();
        true
    };
    let done = lake.warehouse.vacuum(&lake.settings, lake.vacuum_retention, show).await;
    bar.finish_and_clear();
    let Vacuumed { files, bytes, orphans, waiting } = done.map_err(|error| failed(&error))?;
    output::print(&format!(
        "{files} replaced files removed ({}), {orphans} left by interrupted compactions, {waiting} stay for now\n",
        HumanBytes(bytes)
    ))
}

pub(super) async fn status(args: &StatusArgs, lake: &Lake) -> Result<(), Failure> {
    let status = survey(lake, &CompactionFilter::default()).await?;
    let old = lake_expire::old_partitions(lake, None, bar(None, "{elapsed:>4} {spinner} {msg}")).await?;
    if args.json {
        return output::print_json(&document(&status, &old));
    }
    output::print(&text(&status, &old))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_in_words_and_in_json() {
        let partition = Partition { app_id: "shop".to_owned(), hour: 491_000 };
        let candidates = vec![Candidate { partition: partition.clone(), files: 9, bytes: 1 << 20 }];
        let status =
            LakeStatus { partitions: 2, files: 1_234, small_files: 9, orphans: 3, candidates, ..LakeStatus::default() };
        let none = OldPartitions::default();
        let text = text(&status, &none);
        for part in ["1,234 in 2 partitions", "orphans              3,", &format!("oldest uncompacted   {partition}")] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("foreign"));
        let document = document(&status, &none);
        assert_eq!((document["files"].as_u64(), document["due_partitions"].as_u64()), (Some(1_234), Some(1)));
        assert_eq!(document["oldest_uncompacted"].as_str(), Some(partition.to_string().as_str()));
        assert!(plan(&status).starts_with(&format!("{partition}: 9 files, 1.00 MiB\n1 partitions")));
    }

    #[test]
    fn the_report_names_what_was_not_done() {
        let partition = Partition { app_id: "shop".to_owned(), hour: 491_000 };
        let mut totals = Totals::default();
        let done = Compacted { files_read: 5, files_written: 1, rows: 10, repeated: 2, ..Compacted::default() };
        totals.add(&partition, CompactionOutcome::Done(done));
        totals.add(&partition, CompactionOutcome::Busy);
        totals.add(&partition, CompactionOutcome::Damaged { file: "x/y.parquet".to_owned() });
        let text = report(&totals);
        assert!(
            text.contains("5 files") && text.contains("2 rows repeated") && text.contains("1 partitions left"),
            "{text}"
        );
        assert!(totals.problems[0].contains("x/y.parquet"));
    }
}
