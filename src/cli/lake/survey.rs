//! Surveys the lake, with a progress bar.

use indicatif::ProgressBar;

use super::partitions::failed;
use super::progress::bar;
use crate::app::Lake;
use crate::cli::Failure;
use crate::warehouse::{LakeStatus, OldPartitions, PartitionFilter};

pub(super) async fn survey(lake: &Lake, filter: &PartitionFilter) -> Result<LakeStatus, Failure> {
    let bar = bar(None, "{elapsed:>4} {spinner} {msg}");
    let progress = bar.clone();
    let show = move |status: &LakeStatus| {
        progress.set_message(format!("{} files in {} partitions", status.files, status.partitions));
        progress.tick();
        true
    };
    let status = lake.warehouse.survey(&lake.settings.compaction, filter, show).await;
    bar.finish_and_clear();
    status.map_err(|error| failed(&error))
}

/// Partitions older than the retention. Empty if there is none.
pub(super) async fn old_partitions(
    lake: &Lake,
    app_id: Option<&str>,
    bar: ProgressBar,
) -> Result<OldPartitions, Failure> {
    let Some(retention) = &lake.settings.retention else { return Ok(OldPartitions::default()) };
    let progress = bar.clone();
    let show = move |found: &OldPartitions| {
        progress.set_message(format!("{} partitions are too old", found.partitions.len()));
        progress.tick();
        true
    };
    let found = lake.warehouse.old_partitions(retention, app_id, show).await;
    bar.finish_and_clear();
    found.map_err(|error| failed(&error))
}
