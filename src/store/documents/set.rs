//! A set of documents that is applied atomically.
//!
//! Invariant: a document is matched by its name and applied after those that it names, so a set may hold a webhook and
//! the rules that use it. A document that already equals the stored one is left alone.

use schemars::JsonSchema;
use serde::Serialize;

use super::anomaly::{AnomalyConfig, NewAnomalyConfig};
use super::rule::{NewRule, Rule};
use super::webhook::{NewWebhook, Webhook};
use crate::store::audit::{Audited, Change};
use crate::store::error::{SetFault, StoreError, StoreErrorKind};

const WEBHOOKS: &str = "webhooks";
const RULES: &str = "rules";
const ANOMALIES: &str = "anomalies";

/// The documents to store; names are unique within each list.
#[derive(Clone, Default)]
pub struct DocumentSet {
    pub webhooks: Vec<NewWebhook>,
    pub rules: Vec<NewRule>,
    pub anomalies: Vec<NewAnomalyConfig>,
}

/// The outcome of each document, in the order of the set; of a dry run, the outcome it would have.
#[derive(Debug, Default)]
pub struct AppliedSet {
    pub webhooks: Vec<Applied<Webhook>>,
    pub rules: Vec<Applied<Rule>>,
    pub anomalies: Vec<Applied<AnomalyConfig>>,
}

#[derive(Debug)]
pub struct Applied<T> {
    pub before: Option<T>,
    pub after: T,
    pub outcome: ApplyOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    Created,
    Updated,
    Unchanged,
}

/// A stored document that can be compared with its previous version.
pub trait Comparable: Clone {
    /// Whether the written documents are equal.
    fn same_document(&self, before: &Self) -> bool;
}

impl<T> Applied<T>
where
    T: Comparable,
{
    pub(in crate::store) fn created(after: T) -> Self {
        Self { before: None, after, outcome: ApplyOutcome::Created }
    }

    /// `before` is `None` if it could not be read.
    pub(in crate::store) fn replaced(before: Option<T>, after: T) -> Self {
        match before {
            Some(before) if after.same_document(&before) => {
                Self { after: before.clone(), before: Some(before), outcome: ApplyOutcome::Unchanged }
            }
            before => Self { before, after, outcome: ApplyOutcome::Updated },
        }
    }
}

impl Comparable for Webhook {
    fn same_document(&self, before: &Self) -> bool {
        self.document == before.document
    }
}

impl Comparable for Rule {
    fn same_document(&self, before: &Self) -> bool {
        self.document == before.document
    }
}

impl Comparable for AnomalyConfig {
    fn same_document(&self, before: &Self) -> bool {
        self.document == before.document
    }
}

impl AppliedSet {
    /// Whether anything was stored.
    pub(in crate::store) fn changed(&self) -> bool {
        let outcomes = self.webhooks.iter().map(|applied| applied.outcome);
        let outcomes = outcomes.chain(self.rules.iter().map(|applied| applied.outcome));
        let mut outcomes = outcomes.chain(self.anomalies.iter().map(|applied| applied.outcome));
        outcomes.any(|outcome| outcome != ApplyOutcome::Unchanged)
    }
}

impl StoreErrorKind {
    /// Whether the error is due to the document, so that the rest of its set can still be checked.
    pub(in crate::store) fn is_document_error(&self) -> bool {
        !matches!(
            self,
            Self::InvalidCursor
                | Self::Refused
                | Self::Full
                | Self::Unavailable
                | Self::Corrupt
                | Self::Fsync
                | Self::Closed
        )
    }
}

/// The outcomes of a set, collected document by document.
#[derive(Default)]
pub(in crate::store) struct SetResults {
    pub(in crate::store) applied: AppliedSet,
    faults: Vec<SetFault>,
}

impl SetResults {
    pub(in crate::store) fn webhook(
        &mut self,
        index: usize,
        done: Result<Applied<Webhook>, StoreError>,
    ) -> Result<(), StoreError> {
        let applied = self.record(WEBHOOKS, index, done)?;
        self.applied.webhooks.extend(applied);
        Ok(())
    }

    pub(in crate::store) fn rule(
        &mut self,
        index: usize,
        done: Result<Applied<Rule>, StoreError>,
    ) -> Result<(), StoreError> {
        let applied = self.record(RULES, index, done)?;
        self.applied.rules.extend(applied);
        Ok(())
    }

    pub(in crate::store) fn anomaly(
        &mut self,
        index: usize,
        done: Result<Applied<AnomalyConfig>, StoreError>,
    ) -> Result<(), StoreError> {
        let applied = self.record(ANOMALIES, index, done)?;
        self.applied.anomalies.extend(applied);
        Ok(())
    }

    /// Collects an error due to the document; any other error fails the whole set.
    fn record<T>(
        &mut self,
        list: &'static str,
        index: usize,
        done: Result<Applied<T>, StoreError>,
    ) -> Result<Option<Applied<T>>, StoreError> {
        match done {
            Ok(applied) => Ok(Some(applied)),
            Err(error) if error.kind.is_document_error() => {
                self.faults.push(SetFault { list, index, kind: error.kind });
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    pub(in crate::store) fn finish(self) -> Result<AppliedSet, StoreError> {
        match self.faults.is_empty() {
            true => Ok(self.applied),
            false => Err(StoreError::new(StoreErrorKind::Set(self.faults), "apply documents")),
        }
    }
}

/// The changes that a set made, for the audit log.
pub(in crate::store) fn changes_of(applied: &AppliedSet) -> Vec<Change> {
    fn of<T: Audited>(applied: &Applied<T>) -> Option<Change> {
        let change = match applied.outcome {
            ApplyOutcome::Unchanged => return None,
            ApplyOutcome::Created => Change::created(&applied.after),
            ApplyOutcome::Updated => Change::replaced(applied.before.as_ref(), &applied.after),
        };
        Some(change)
    }
    let webhooks = applied.webhooks.iter().filter_map(of);
    let rules = applied.rules.iter().filter_map(of);
    webhooks.chain(rules).chain(applied.anomalies.iter().filter_map(of)).collect()
}
