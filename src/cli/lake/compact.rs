//! `causality lake compact`: merges small files into few large ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures_util::{StreamExt as _, stream};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::partitions::{LEASE_POLL_PAUSE, LEASE_WAIT_MAX, app_id, concurrent_partitions, failed};
use super::progress::{bar, progress_on};
use super::survey::survey;
use crate::app::Lake;
use crate::cli::run::Layers;
use crate::cli::{Failure, human_time, output};
use crate::warehouse::{
    Candidate, Compacted, CompactionOutcome, LakeStatus, Partition, PartitionFilter, WarehouseError,
};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct CompactArgs {
    /// Only this app's partitions
    #[arg(long, value_name = "APP", value_parser = app_id)]
    app: Option<String>,
    /// Only hours from this one on: 2026-01-31, 2026-01-31T09:00:00Z, or 7d ago
    #[arg(long, value_name = "TIME", value_parser = human_time::past)]
    from: Option<Timestamp>,
    /// Only hours before this one
    #[arg(long, value_name = "TIME", value_parser = human_time::past)]
    to: Option<Timestamp>,
    /// Say what would be compacted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    layers: Layers,
}

impl CompactArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }

    fn filter(&self) -> PartitionFilter {
        let hour = |at: Timestamp| at.as_second().div_euclid(3_600);
        PartitionFilter {
            app_id: self.app.clone(),
            from_hour: self.from.map(hour),
            // The hour that contains the time counts as before it, unless it starts there.
            to_hour: self.to.map(|at| (at.as_second() + 3_599).div_euclid(3_600)),
        }
    }
}

/// Totals over all partitions.
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
        let mut totals = totals.lock();
        match done {
            Ok(outcome) => totals.add(partition, outcome),
            Err(error) => totals.problems.push(format!("{partition}: {error}")),
        }
    };
    stream::iter(&status.candidates).for_each_concurrent(concurrent_partitions(), work).await;
    let totals = totals.into_inner();
    bar.finish_and_clear();
    output::print(&report(&totals))?;
    if totals.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(totals.problems.join("\n")))
}

/// Compacts one partition; waits while another worker has its lease.
async fn one(lake: &Lake, candidate: &Candidate, bar: &ProgressBar) -> Result<CompactionOutcome, WarehouseError> {
    let (reported, began) = (Arc::new(AtomicU64::new(0)), Instant::now());
    loop {
        let outcome =
            lake.warehouse.compact(&candidate.partition, &lake.settings.compaction, progress_on(bar, &reported)).await;
        if matches!(outcome, Ok(CompactionOutcome::Busy)) && began.elapsed() < LEASE_WAIT_MAX {
            tokio::time::sleep(LEASE_POLL_PAUSE).await;
            continue;
        }
        bar.inc(candidate.bytes.saturating_sub(reported.load(Ordering::Relaxed)));
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
    let (files_min, age_min) = (lake.settings.compaction.files_min, lake.settings.compaction.age_min);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_names_partitions_and_their_size() {
        let partition = Partition { app_id: "shop".to_owned(), hour: 491_000 };
        let candidates = vec![Candidate { partition: partition.clone(), files: 9, bytes: 1 << 20 }];
        let status = LakeStatus { candidates, ..LakeStatus::default() };
        assert!(plan(&status).starts_with(&format!("{partition}: 9 files, 1.00 MiB\n1 partitions")));
    }

    #[test]
    fn the_report_names_what_was_left_out() {
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
