//! Erasure from the bus and the store, done by the running processes, step by step through the admin API.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::progress::unbounded_bar;
use super::receipt::{LakeCounts, ProcessCounts, Receipt};
use crate::cli::Failure;
use crate::cli::client::{AdminArgs, AdminClient};
use crate::cli::failure::ExitStatus;

/// Pause between two requests that ask whether the person's events have reached the lake.
const POLL_PAUSE: Duration = Duration::from_millis(500);

/// The response to one step.
#[derive(Debug, Deserialize)]
struct Step {
    scanned_through: u64,
    through_sequence: u64,
    is_scanned: bool,
    is_settled: bool,
    #[serde(flatten)]
    removed: ProcessCounts,
}

/// Asks the running processes to erase, step by step.
pub(super) struct ErasureClient {
    client: AdminClient,
    /// The next request.
    document: Value,
    removed: ProcessCounts,
}

impl ErasureClient {
    pub(super) fn new(admin: &AdminArgs, document: Value) -> Result<Self, Failure> {
        let client = AdminClient::new(admin)?;
        Ok(Self { client, document, removed: ProcessCounts::default() })
    }

    /// Requests one step.
    async fn ask(&mut self) -> Result<Step, Failure> {
        let answer =
            self.client.post("erasures", Some(&self.document)).await.map_err(|failure| match failure.status {
                ExitStatus::Unreachable => {
                    failure.followed_by("--lake-only erases from the lake alone, once nothing runs any more")
                }
                _ => failure,
            })?;
        let step: Step = serde_json::from_value(answer).map_err(|error| {
            Failure::failed(format!("the server's answer is no erasure ({error}); is it another version?"))
        })?;
        self.removed.events += step.removed.events;
        self.removed.dead_letters += step.removed.dead_letters;
        self.removed.deliveries += step.removed.deliveries;
        self.removed.anomaly_records += step.removed.anomaly_records;
        self.document["after_sequence"] = step.scanned_through.into();
        self.document["through_sequence"] = step.through_sequence.into();
        Ok(step)
    }

    /// Repeats until everything has been searched and nothing is on its way to the lake any more, or `patience` is
    /// over.
    pub(super) async fn erase_all(&mut self, patience: Duration, left: &mut Vec<String>) -> Result<(), Failure> {
        let bar = unbounded_bar("{elapsed:>4} [{bar:32}] {msg}");
        let began = Instant::now();
        loop {
            let step = self.ask().await?;
            bar.set_length(step.through_sequence);
            bar.set_position(step.scanned_through);
            bar.set_message(if step.is_scanned {
                "waits for what is on its way into the lake"
            } else {
                "events of the bus"
            });
            if step.is_scanned && step.is_settled {
                break;
            }
            if began.elapsed() >= patience {
                left.push(format!(
                    "events up to number {} of the bus: after {} s some are still on their way (see /ready); do this \
                     again when they have arrived",
                    step.through_sequence,
                    patience.as_secs()
                ));
                break;
            }
            // A step that erased nothing waits for a message in flight.
            if step.removed.events == 0 {
                tokio::time::sleep(POLL_PAUSE).await;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Sends the result of the lake for the audit record. Returns the totals of the processes.
    pub(super) async fn report_lake(mut self, receipt: &Receipt) -> Result<ProcessCounts, Failure> {
        let LakeCounts { rows_removed, files_replaced, files_waiting, old_files_gone_by, .. } = &receipt.lake;
        self.document["lake"] = json!({"rows_removed": rows_removed, "files_replaced": files_replaced,
            "files_waiting": files_waiting, "old_files_gone_by": old_files_gone_by, "is_complete": receipt.is_complete});
        self.ask().await?;
        Ok(self.removed)
    }
}
