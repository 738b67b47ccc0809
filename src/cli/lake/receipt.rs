//! The receipt of an erasure: what was removed, and when the last old file is gone.

use indicatif::HumanCount;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Counts of what the running processes removed.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct ProcessCounts {
    pub(super) events: u64,
    pub(super) dead_letters: u64,
    pub(super) deliveries: u64,
    pub(super) anomaly_records: u64,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct LakeCounts {
    pub(super) files_searched: u64,
    pub(super) partitions: u64,
    pub(super) files_replaced: u64,
    pub(super) files_written: u64,
    pub(super) rows_removed: u64,
    /// Files that are out of the table and still contain the rows.
    pub(super) files_waiting: u64,
    /// When the last of them is gone, provided that a vacuum runs after that.
    pub(super) old_files_gone_by: Option<Timestamp>,
    /// Commits of the Delta log contain the smallest and largest ids of replaced files; when they are gone.
    pub(super) old_commits_gone_by: Option<Timestamp>,
}

#[derive(Debug, Serialize)]
pub(super) struct Receipt {
    pub(super) device_id: Option<String>,
    pub(super) user_id: Option<String>,
    pub(super) app_id: Option<String>,
    pub(super) requested_at: Timestamp,
    pub(super) finished_at: Timestamp,
    /// `None` if the processes were left out.
    pub(super) processes: Option<ProcessCounts>,
    pub(super) lake: LakeCounts,
    pub(super) is_complete: bool,
    /// What may still contain data of the person, with the reason.
    pub(super) left: Vec<String>,
}

pub(super) fn text(receipt: &Receipt) -> String {
    let Receipt { lake, processes, .. } = receipt;
    let whose = match (&receipt.device_id, &receipt.user_id) {
        (Some(device), _) => format!("device {device}"),
        (None, user) => format!("user {}", user.as_deref().unwrap_or_default()),
    };
    let place = receipt.app_id.as_ref().map_or_else(|| "all apps".to_owned(), |app| format!("app {app}"));
    let mut text = format!(
        "erased               {whose} in {place}\nrequested            {}\nfinished             {}\nlake                 {} rows of {} files removed, in {} partitions; {} \
         files searched\n",
        receipt.requested_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        receipt.finished_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        HumanCount(lake.rows_removed),
        HumanCount(lake.files_replaced),
        HumanCount(lake.partitions),
        HumanCount(lake.files_searched),
    );
    match processes {
        None => text.push_str("bus and store        not asked\n"),
        Some(removed) => text.push_str(&format!(
            "bus                  {} events removed\ndead letters         {}\ndeliveries           {}\nanomaly records      {}\n",
            HumanCount(removed.events),
            HumanCount(removed.dead_letters),
            HumanCount(removed.deliveries),
            HumanCount(removed.anomaly_records)
        )),
    }
    let date = |at: Option<Timestamp>| {
        at.map_or_else(|| "never".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
    };
    text.push_str(&match lake.files_waiting {
        0 => "old files            gone\n".to_owned(),
        files => format!(
            "old files            {} stay for readers of older versions; a vacuum after {} removes the last\n",
            HumanCount(files),
            date(lake.old_files_gone_by)
        ),
    });
    if lake.files_replaced > 0 {
        text.push_str(&format!(
            "old commits          name ids at the bounds of replaced files; they go with the checkpoint after {}\n",
            date(lake.old_commits_gone_by)
        ));
    }
    text.push_str(if receipt.is_complete { "complete\n" } else { "not complete\n" });
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receipt_says_what_was_removed_and_when_the_rest_goes() {
        let at: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let lake = LakeCounts {
            rows_removed: 1_234,
            files_waiting: 2,
            files_replaced: 2,
            old_files_gone_by: Some(at),
            old_commits_gone_by: Some(at),
            ..LakeCounts::default()
        };
        let mut receipt = Receipt {
            device_id: Some("d".into()),
            user_id: None,
            app_id: None,
            requested_at: at,
            finished_at: at,
            processes: None,
            lake,
            is_complete: true,
            left: Vec::new(),
        };
        let shown = text(&receipt);
        for part in [
            "device d in all apps",
            "1,234 rows of 2 files",
            "not asked",
            "a vacuum after 2026-03-01T12:00:00Z",
            "\ncomplete\n",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        receipt.processes = Some(ProcessCounts { events: 7, ..ProcessCounts::default() });
        receipt.is_complete = false;
        let shown = text(&receipt);
        assert!(shown.contains("7 events removed") && shown.ends_with("not complete\n"), "{shown}");
    }
}
