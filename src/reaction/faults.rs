//! Counts the faults of rules and anomaly configs until they are written to the store.
//!
//! Invariant: bounded by the number of documents in force. A fault describes the part of the document that failed,
//! never a value of an event.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

use super::rules::rule::RuleFault;
use crate::metrics::{self, LabelNames};
use crate::store::{DocumentFaults, Faults};

/// The document that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FailedDocument<'d> {
    pub(super) kind: &'static str,
    pub(super) id: Uuid,
    pub(super) name: &'d str,
    /// When the document was last changed.
    pub(super) as_of: Timestamp,
}

/// Fault counts since they were last taken.
#[derive(Debug, Default)]
pub(super) struct FaultCounts {
    /// By id, with the change time of the failed document: its successor starts from zero.
    counts: HashMap<Uuid, (Timestamp, Faults)>,
    /// Documents whose first fault was logged; later ones are shown on the document only.
    logged: HashSet<Uuid>,
    names: LabelNames,
}

impl FaultCounts {
    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(super) fn record(&mut self, failed: FailedDocument<'_>, fault: &RuleFault, now: Timestamp) {
        let FailedDocument { kind, id, name, as_of } = failed;
        let reason = match fault {
            RuleFault::Budget => "budget",
            RuleFault::Failed(_) => "failed",
        };
        metrics::reaction_fault(kind, self.names.label(name), reason);
        let (of, entry) = self.counts.entry(id).or_default();
        if std::mem::replace(of, as_of) != as_of {
            *entry = Faults::default();
        }
        entry.count += 1;
        entry.last_at = Some(now);
        if entry.last_error.as_deref() != Some(fault.describe()) {
            entry.last_error = Some(fault.describe().to_owned());
        }
        if self.logged.insert(id) {
            warn!(%id, name, error = fault.describe(), "{kind} failed on an event, which counts as no match; later faults are counted");
        }
    }

    /// Drops documents that are no longer in force.
    pub(super) fn retain(&mut self, is_in_force: impl Fn(&Uuid) -> bool) {
        self.counts.retain(|id, _| is_in_force(id));
        self.logged.retain(|id| is_in_force(id));
    }

    pub(super) fn take(&mut self) -> Vec<DocumentFaults> {
        self.counts.drain().map(|(id, (as_of, faults))| DocumentFaults { id, as_of, faults }).collect()
    }
}
