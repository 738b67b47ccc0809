//! The outcomes of a set, collected document by document, and the changes that it made.

use super::document::Document;
use super::set::{Applied, AppliedSet, ApplyOutcome};
use crate::store::audit::{Audited, Change};
use crate::store::error::{SetFault, StoreError, StoreErrorKind};

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

/// The outcomes of a set so far.
#[derive(Default)]
pub(in crate::store) struct SetResults {
    pub(in crate::store) applied: AppliedSet,
    faults: Vec<SetFault>,
}

impl SetResults {
    /// Collects an error due to the document; any other error fails the whole set.
    pub(in crate::store) fn record<D: Document>(
        &mut self,
        index: usize,
        done: Result<Applied<D::Stored>, StoreError>,
    ) -> Result<(), StoreError> {
        match done {
            Ok(applied) => D::in_applied(&mut self.applied).push(applied),
            Err(error) if error.kind.is_document_error() => {
                self.faults.push(SetFault { list: D::PLURAL, index, kind: error.kind });
            }
            Err(error) => return Err(error),
        }
        Ok(())
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
