//! Removes expired partitions while the sink runs.
//!
//! Invariant: every removal is in the audit log of the store, if the process has one. A record that could not be written is
//! retried by later passes while the process lives. Any number of processes may do this on one lake.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::fatal;
use crate::base::backoff::random_unit;
use crate::base::supervisor::Stage;
use crate::metrics;
use crate::store::{AuditEntry, AuditKind, AuditOutcome, Store};
use crate::warehouse::{
    CompactionSettings, Expired, ExpiryOutcome, OldPartition, OldPartitions, RetentionSettings, Warehouse,
    WarehouseError, WarehouseErrorKind,
};

/// The number of failed passes after which readiness warns.
const FAILURES_MIN: u32 = 2;
/// The most records that wait for a store that does not answer. The process log has the others.
const RECORDS_MAX: usize = 1_000;
/// The actor in the audit log.
const ACTOR: &str = "warehouse_retention";

/// The readiness warning. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct RetentionStatus(Arc<Mutex<Option<String>>>);

impl RetentionStatus {
    pub(super) fn trouble(&self) -> Option<String> {
        self.0.lock().clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.0.lock() = trouble;
    }
}

/// Removes expired partitions of one lake. Cheap to clone.
#[derive(Clone)]
pub(super) struct Expirer {
    pub(super) warehouse: Warehouse,
    pub(super) settings: RetentionSettings,
    /// The pause between passes.
    pub(super) every: Duration,
    /// How to vacuum files that are kept for older versions, unless compaction does it.
    pub(super) vacuum: Option<(CompactionSettings, Duration)>,
    /// Without a store, only the process log records removals.
    pub(super) store: Option<Store>,
    pub(super) status: RetentionStatus,
}

/// The result of a pass over all partitions.
struct Pass {
    /// The last failure.
    failed: Option<String>,
    /// Another process works on one of them, or was killed while it did.
    busy: bool,
    /// More partitions are left than one pass takes.
    goes_on: bool,
}

/// Consecutive failed passes.
#[derive(Default)]
struct Failures {
    count: u32,
    why: String,
}

impl Failures {
    fn note(&mut self, failed: Option<String>, busy: bool) {
        match failed {
            Some(why) => *self = Self { count: self.count + 1, why },
            // A failed pass may have left its lease behind.
            None if busy => {}
            None => *self = Self::default(),
        }
    }

    fn warning(&self) -> Option<String> {
        let text = || format!("warehouse_retention: what is too old is not all removed: {}", self.why);
        (self.count >= FAILURES_MIN).then(text)
    }
}

/// Removed partitions, by app. Each app becomes one audit record.
#[derive(Default)]
pub struct Removals(Vec<Removed>);

/// The partitions of one app that were removed.
struct Removed {
    app_id: String,
    partitions: u64,
    files: u64,
    bytes: u64,
    /// The hours, as in the names of their directories.
    oldest: String,
    newest: String,
}

impl Expirer {
    pub(super) fn start(self, stage: &Stage) {
        stage.supervise("retention", move |stop| {
            let expirer = self.clone();
            async move {
                expirer.run(stop).await;
                Ok(())
            }
        });
    }

    async fn run(self, stop: CancellationToken) {
        let (mut failures, mut records) = (Failures::default(), Vec::new());
        // Processes that were started together do not look together.
        let mut wait = self.every.mul_f64(random_unit());
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = self.every;
            let (failed, busy) = match self.pass(&stop, &mut records).await {
                // As a rule, that the files from before the log are still being added to it.
                Err(error) if error.kind == WarehouseErrorKind::Refused => {
                    debug!(%error, "nothing is removed yet");
                    (Some(error.to_string()), false)
                }
                Err(error) => {
                    exit_on_fsync(&error);
                    warn!(%error, "the lake could not be looked through for what is older than its retention, trying again later");
                    (Some(error.to_string()), false)
                }
                Ok(Pass { failed, busy, goes_on }) => {
                    if goes_on {
                        wait = Duration::ZERO;
                    }
                    (failed, busy)
                }
            };
            let unrecorded = self.record(&mut records).await;
            failures.note(failed.or(unrecorded), busy);
            self.status.set(failures.warning());
        }
    }

    async fn pass(&self, stop: &CancellationToken, records: &mut Vec<AuditEntry>) -> Result<Pass, WarehouseError> {
        let going_on = stop.clone();
        let found = self.warehouse.old_partitions(&self.settings, None, move |_| !going_on.is_cancelled()).await?;
        let OldPartitions { partitions, more, .. } = found;
        let (mut failed, mut removals, mut busy) = (None, Removals::default(), false);
        for old in partitions.iter().take_while(|_| !stop.is_cancelled()) {
            match self.warehouse.expire(old, &self.settings).await {
                Ok(ExpiryOutcome::Done(done)) => {
                    metrics::retention_removed(done.files, done.bytes);
                    removals.add(old, &done);
                }
                Ok(ExpiryOutcome::Busy) => {
                    busy = true;
                    debug!(partition = %old.partition, "somebody else works on a partition that is too old")
                }
                Ok(ExpiryOutcome::Nothing) => {}
                Err(error) => {
                    exit_on_fsync(&error);
                    metrics::retention_failed();
                    warn!(%error, partition = %old.partition, "partition could not be removed, trying again later");
                    failed = Some(format!("{}: {error}", old.partition));
                }
            }
        }
        let some = !removals.0.is_empty();
        records.extend(removals.records(ACTOR).filter(|_| self.store.is_some()));
        records.truncate(RECORDS_MAX);
        if let Some((settings, retention)) = &self.vacuum {
            let going_on = stop.clone();
            let done = self.warehouse.vacuum(settings, *retention, move |_| !going_on.is_cancelled()).await?;
            metrics::vacuum_removed(done.files + done.orphans, done.bytes);
        }
        Ok(Pass { goes_on: more && some && failed.is_none(), failed, busy })
    }

    /// Writes the audit records. Returns the reason if some could not be written; they keep waiting.
    async fn record(&self, records: &mut Vec<AuditEntry>) -> Option<String> {
        let store = self.store.as_ref()?;
        while let Some(record) = records.last() {
            if let Err(error) = store.add_audit(record.clone()).await {
                warn!(%error, "the audit record of what was removed could not be written, trying again later");
                return Some(format!("the audit record could not be written: {error}"));
            }
            records.pop();
        }
        None
    }
}

fn exit_on_fsync(error: &WarehouseError) {
    if error.kind == WarehouseErrorKind::Fsync {
        fatal::exit_after_failed_fsync(error);
    }
}

impl Removals {
    /// Logs and counts a partition that was removed. Partitions of one app come together, oldest first.
    pub fn add(&mut self, old: &OldPartition, done: &Expired) {
        let (partition, Expired { files, bytes, left }) = (&old.partition, done);
        let left = (!left.is_empty()).then(|| left.join(", "));
        info!(%partition, files, bytes, left, "partition removed: it is older than its retention");
        if self.0.last().is_none_or(|last| last.app_id != partition.app_id) {
            self.0.push(Removed {
                app_id: partition.app_id.clone(),
                partitions: 0,
                files: 0,
                bytes: 0,
                oldest: partition.hour_text(),
                newest: String::new(),
            });
        }
        if let Some(removed) = self.0.last_mut() {
            removed.partitions += 1;
            removed.files += files;
            removed.bytes += bytes;
            removed.newest = partition.hour_text();
        }
    }

    /// The audit records, one per app.
    pub fn records(self, actor: &str) -> impl Iterator<Item = AuditEntry> {
        self.0.into_iter().map(move |removed| entry(removed, actor))
    }
}

fn entry(removed: Removed, actor: &str) -> AuditEntry {
    let Removed { app_id, partitions, files, bytes, oldest, newest } = removed;
    AuditEntry {
        actor: actor.to_owned(),
        actor_id: None,
        address: None,
        method: "-".to_owned(),
        request_id: None,
        action: "expire".to_owned(),
        kind: AuditKind::Retention,
        object_id: Some(app_id.clone()),
        name: None,
        outcome: AuditOutcome::Done,
        before: None,
        after: Some(json!({
            "app_id": app_id, "hours_from": oldest, "hours_to": newest, "partitions": partitions, "files": files, "bytes": bytes,
        })),
        note: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_are_told_when_two_passes_fail_that_only_a_lease_is_between() {
        let mut failures = Failures::default();
        let failed = |why: &str| Some(why.to_owned());
        for (failure, busy, told) in [
            (failed("one"), false, None),
            (None, true, None),
            (failed("two"), true, Some("two")),
            (None, true, Some("two")),
            (None, false, None),
            (failed("three"), false, None),
        ] {
            failures.note(failure, busy);
            assert_eq!(failures.warning().is_some(), told.is_some());
            assert!(failures.warning().unwrap_or_default().ends_with(told.unwrap_or_default()));
        }
    }

    #[test]
    fn a_record_has_the_hours_and_what_went() {
        let mut removals = Removals::default();
        for hour in [491_000, 491_001] {
            let partition = crate::warehouse::Partition { app_id: "shop".to_owned(), hour };
            let old = OldPartition { partition, files: 2, bytes: 10 };
            removals.add(&old, &Expired { files: 2, bytes: 10, left: Vec::new() });
        }
        let entry = removals.records(ACTOR).next().unwrap();
        assert_eq!((entry.kind, entry.object_id.as_deref()), (AuditKind::Retention, Some("shop")));
        let after = json!({
            "app_id": "shop", "hours_from": "2026-01-05T08Z", "hours_to": "2026-01-05T09Z", "partitions": 2, "files": 4,
            "bytes": 20,
        });
        assert_eq!(entry.after, Some(after));
    }
}
