//! `causality lake status`: files, bytes and what is due, in words and in JSON.

use indicatif::{HumanBytes, HumanCount};

use super::progress::bar;
use super::survey::{old_partitions, survey};
use crate::app::Lake;
use crate::cli::run::Layers;
use crate::cli::{Failure, output};
use crate::warehouse::{LakeStatus, OldPartitions, PartitionFilter};

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    layers: Layers,
}

impl StatusArgs {
    pub(super) fn layers(&self) -> &Layers {
        &self.layers
    }
}

pub(super) async fn status(args: &StatusArgs, lake: &Lake) -> Result<(), Failure> {
    let status = survey(lake, &PartitionFilter::default()).await?;
    let old = old_partitions(lake, None, bar(None, "{elapsed:>4} {spinner} {msg}")).await?;
    if args.json {
        return output::print_json(&document(&status, &old));
    }
    output::print(&text(&status, &old))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warehouse::{Candidate, Partition};

    #[test]
    fn figures_are_shown_as_text_and_as_json() {
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
    }
}
