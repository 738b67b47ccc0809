//! What rules and anomaly configs failed at, until the store has it.
//!
//! Invariant: bounded by the number of documents in force. A fault says what of the document failed, never a
//! value of an event.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use tracing::warn;
use uuid::Uuid;

use super::rules::rule::Fault;
use crate::metrics;
use crate::store::{DocumentFaults, Faults};

/// Documents that have a metric of their own; those beyond share one.
const NAMED_MAX: usize = 100;
/// What they share.
const OTHERS: &str = "(others)";

/// The document that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed<'d> {
    pub(super) kind: &'static str,
    pub(super) id: Uuid,
    pub(super) name: &'d str,
    /// When the document was last changed.
    pub(super) as_of: Timestamp,
}

/// Counts since they were last taken.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// By id, with the time of the document that failed: what replaced it has not.
    open: HashMap<Uuid, (Timestamp, Faults)>,
    /// Those whose first fault was logged: the document tells of the others.
    logged: HashSet<Uuid>,
    named: HashSet<String>,
}

impl Ledger {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn note(&mut self, failed: Failed<'_>, fault: &Fault, now: Timestamp) {
        let Failed { kind, id, name, as_of } = failed;
        let reason = match fault {
            Fault::Budget => "budget",
            Fault::Failed(_) => "failed",
        };
        if self.named.len() < NAMED_MAX && !self.named.contains(name) {
            self.named.insert(name.to_owned());
        }
        let label = self.named.get(name).map_or(OTHERS, String::as_str);
        metrics::reaction_fault(kind, label, reason);
        let (of, entry) = self.open.entry(id).or_default();
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

    /// Forgets what concerns documents that are not in force any more.
    pub(super) fn keep(&mut self, is_in_force: impl Fn(&Uuid) -> bool) {
        self.open.retain(|id, _| is_in_force(id));
        self.logged.retain(|id| is_in_force(id));
    }

    pub(super) fn take(&mut self) -> Vec<DocumentFaults> {
        self.open.drain().map(|(id, (as_of, faults))| DocumentFaults { id, as_of, faults }).collect()
    }
}
