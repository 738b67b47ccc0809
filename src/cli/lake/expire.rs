//! `causality lake expire`: removes partitions older than the retention.

use std::time::Instant;

use indicatif::{HumanBytes, HumanCount};

use super::partitions::{LEASE_POLL_PAUSE, LEASE_WAIT_MAX, app_id};
use super::progress::bar;
use super::survey::old_partitions;
use crate::app::{Lake, Removals, open_audit_store};
use crate::cli::run::Layers;
use crate::cli::{Failure, output};
use crate::config::Config;
use crate::store::Store;
use crate::warehouse::{Expired, ExpiryOutcome, OldPartition, OldPartitions, WarehouseError};

/// The actor in the audit record.
const ACTOR: &str = "causality lake expire";

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ExpireArgs {
    /// Only this app's partitions
    #[arg(long, value_name = "APP", value_parser = app_id)]
    app: Option<String>,
    /// Say what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    layers: Layers,
}

impl ExpireArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

/// Totals over all partitions.
#[derive(Default)]
struct Totals {
    partitions: u64,
    files: u64,
    bytes: u64,
    busy: u64,
    /// Files left in partitions that were removed.
    left: Vec<String>,
    problems: Vec<String>,
    removals: Removals,
}

pub(super) async fn expire(args: &ExpireArgs, lake: &Lake, config: &Config) -> Result<(), Failure> {
    let Some(retention) = &lake.settings.retention else {
        return output::print("nothing is removed: warehouse_retention is not set, so everything is kept for ever\n");
    };
    let mut totals = Totals::default();
    let mut audit = None;
    loop {
        let found = look(lake, args.app.as_deref()).await?;
        if args.dry_run || found.partitions.is_empty() && totals.partitions == 0 {
            return output::print(&plan(&found));
        }
        // Before anything is removed: a store that is down refuses the command.
        if audit.is_none() {
            audit = Some(open_audit_store(config).await?);
        }
        let bar = bar(Some(found.partitions.len() as u64), "{elapsed:>4} [{bar:32}] {pos}/{len} {msg}");
        let before = totals.partitions;
        for old in &found.partitions {
            bar.set_message(old.partition.to_string());
            match one(lake, old).await {
                Ok(expiry) => totals.add(old, expiry),
                Err(error) => totals.problems.push(format!("{}: {error}", old.partition)),
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
        // There are more partitions than one listing returns.
        if !found.more || totals.partitions == before || !totals.problems.is_empty() {
            break;
        }
    }
    let mut text = report(&totals, retention.keep_removed);
    match audit {
        Some(Ok(store)) => record(store, std::mem::take(&mut totals.removals), &mut totals.problems).await,
        Some(Err(why)) if totals.partitions > 0 => text.push_str(&format!("no audit record was written: {why}\n")),
        _ => {}
    }
    output::print(&text)?;
    if totals.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(totals.problems.join("\n")))
}

async fn look(lake: &Lake, app_id: Option<&str>) -> Result<OldPartitions, Failure> {
    old_partitions(lake, app_id, bar(None, "{elapsed:>4} {spinner} {msg}")).await
}

/// Removes one partition; waits while another worker has its lease.
async fn one(lake: &Lake, old: &OldPartition) -> Result<ExpiryOutcome, WarehouseError> {
    let (began, retention) = (Instant::now(), lake.settings.retention.clone().unwrap_or_default());
    loop {
        let expiry = lake.warehouse.expire(old, &retention).await;
        if !matches!(expiry, Ok(ExpiryOutcome::Busy)) || began.elapsed() >= LEASE_WAIT_MAX {
            return expiry;
        }
        tokio::time::sleep(LEASE_POLL_PAUSE).await;
    }
}

async fn record(store: Store, removals: Removals, problems: &mut Vec<String>) {
    for entry in removals.records(ACTOR) {
        let removed = entry.after.clone().unwrap_or_default();
        if let Err(error) = store.add_audit(entry).await {
            problems.push(format!("the audit record of {removed} could not be written: {error}"));
        }
    }
    store.close().await;
}

impl Totals {
    fn add(&mut self, old: &OldPartition, expiry: ExpiryOutcome) {
        let partition = &old.partition;
        match expiry {
            ExpiryOutcome::Done(done) => {
                self.removals.add(old, &done);
                let Expired { files, bytes, left } = done;
                self.partitions += 1;
                self.files += files;
                self.bytes += bytes;
                self.left.extend(left.into_iter().map(|name| format!("{partition}/{name}")));
            }
            ExpiryOutcome::Busy => self.busy += 1,
            ExpiryOutcome::Nothing => {}
        }
    }
}

fn plan(found: &OldPartitions) -> String {
    let OldPartitions { partitions, more, .. } = found;
    let mut text = String::new();
    for of_app in partitions.chunk_by(|one, other| one.partition.app_id == other.partition.app_id) {
        let files: u64 = of_app.iter().map(|old| old.files).sum();
        let bytes: u64 = of_app.iter().map(|old| old.bytes).sum();
        let [oldest, newest] = [of_app.first(), of_app.last()].map(|old| old.map(|old| old.partition.hour_text()));
        text.push_str(&format!(
            "{}: {} partitions, {} files, {}, hours from {} to {}\n",
            of_app[0].partition.app_id,
            HumanCount(of_app.len() as u64),
            HumanCount(files),
            HumanBytes(bytes),
            oldest.unwrap_or_default(),
            newest.unwrap_or_default(),
        ));
    }
    if partitions.is_empty() {
        text.push_str("no partition is older than warehouse_retention\n");
    } else {
        text.push_str(&format!(
            "{}{} partitions with {} files, {}, would be removed\n",
            if *more { "at least " } else { "" },
            HumanCount(partitions.len() as u64),
            HumanCount(found.files()),
            HumanBytes(found.bytes()),
        ));
    }
    let stay = [
        (found.unnamed_files, "of ours that the Delta table does not name, or not yet: see causality lake init"),
        (found.foreign_files, "of others"),
    ];
    for (count, what) in stay.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("{} files stay there: {what}\n", HumanCount(count)));
    }
    text
}

fn report(totals: &Totals, keeps: bool) -> String {
    let mut text = format!(
        "{} partitions with {} files, {}, removed{}\n",
        HumanCount(totals.partitions),
        HumanCount(totals.files),
        HumanBytes(totals.bytes),
        if keeps { " from the table; a vacuum removes the files" } else { "" },
    );
    if totals.busy > 0 {
        text.push_str(&format!("{} partitions left to another worker\n", totals.busy));
    }
    for name in &totals.left {
        text.push_str(&format!("{name} stays: it is not ours, not in the table, or cannot be read\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::Partition;

    #[test]
    fn the_plan_names_apps_and_hours_and_the_report_names_files_that_stay() {
        let old = |app: &str, hour| OldPartition {
            partition: Partition { app_id: app.to_owned(), hour },
            files: 2,
            bytes: 1 << 20,
        };
        let partitions = vec![old("007", 491_000), old("shop", 490_999), old("shop", 491_001)];
        let found = OldPartitions { partitions, foreign_files: 1, ..OldPartitions::default() };
        let text = plan(&found);
        for part in [
            "007: 1 partitions, 2 files, 1.00 MiB, hours from 2026-01-05T08Z to 2026-01-05T08Z\n",
            "shop: 2 partitions, 4 files, 2.00 MiB, hours from 2026-01-05T07Z to 2026-01-05T09Z\n",
            "\n3 partitions with 6 files, 3.00 MiB, would be removed\n1 files stay there: of others\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(plan(&OldPartitions::default()).starts_with("no partition"));
        let mut totals = Totals::default();
        let done = Expired { files: 3, bytes: 9, left: vec!["notes.txt".to_owned()] };
        totals.add(&found.partitions[0], ExpiryOutcome::Done(done));
        totals.add(&found.partitions[1], ExpiryOutcome::Busy);
        let text = report(&totals, true);
        assert!(text.starts_with("1 partitions with 3 files, 9 B, removed from the table; a vacuum"), "{text}");
        assert!(text.contains("1 partitions left") && text.contains("hour=08/notes.txt stays"), "{text}");
    }
}
