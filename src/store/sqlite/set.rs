//! A set of documents in one transaction.

use rusqlite::Connection;

use super::engine::{Engine, Wake};
use super::error::failed;
use super::{documents, names};
use crate::store::documents::{
    Applied, AppliedSet, ApplyOutcome, Document, DocumentSet, NewAnomalyConfig, NewRule, NewWebhook, SetResults,
    changes_of,
};
use crate::store::error::StoreError;
use crate::store::secrets::Sealer;

const CONTEXT: &str = "apply documents";

impl Engine {
    pub(in crate::store) async fn apply(&self, set: DocumentSet, rehearsal: bool) -> Result<AppliedSet, StoreError> {
        let (sealer, auditor) = (self.0.sealer.clone(), self.auditor());
        let run = move |connection: &Connection| {
            savepoint(connection, "SAVEPOINT whole_set")?;
            let applied = apply_all(connection, &sealer, set)?;
            if rehearsal {
                savepoint(connection, "ROLLBACK TO whole_set")?;
            } else {
                changes_of(&applied).into_iter().try_for_each(|change| auditor.record(connection, || change))?;
            }
            savepoint(connection, "RELEASE whole_set")?;
            Ok(applied)
        };
        let wake = move |applied: &AppliedSet| match !rehearsal && applied.changed() {
            true => Wake::Both,
            false => Wake::None,
        };
        self.write_waking(CONTEXT, run, wake).await
    }
}

fn apply_all(connection: &Connection, sealer: &Sealer, mut set: DocumentSet) -> Result<AppliedSet, StoreError> {
    let mut results = SetResults::default();
    apply_list::<NewWebhook>(connection, sealer, &mut set, &mut results)?;
    apply_list::<NewRule>(connection, sealer, &mut set, &mut results)?;
    apply_list::<NewAnomalyConfig>(connection, sealer, &mut set, &mut results)?;
    results.finish()
}

fn apply_list<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    set: &mut DocumentSet,
    results: &mut SetResults,
) -> Result<(), StoreError> {
    for (index, new) in std::mem::take(D::in_set(set)).into_iter().enumerate() {
        results.record::<D>(index, in_savepoint(connection, || apply_document(connection, sealer, new)))?;
    }
    Ok(())
}

/// Rolls back the writes of a faulty or unchanged document.
fn in_savepoint<T>(
    connection: &Connection,
    apply: impl FnOnce() -> Result<Applied<T>, StoreError>,
) -> Result<Applied<T>, StoreError> {
    savepoint(connection, "SAVEPOINT one_document")?;
    let applied = apply();
    match &applied {
        Ok(applied) if applied.outcome != ApplyOutcome::Unchanged => {}
        // The transaction may be gone; the caller stops.
        Err(error) if !error.kind.is_document_error() => return applied,
        _ => savepoint(connection, "ROLLBACK TO one_document")?,
    }
    savepoint(connection, "RELEASE one_document")?;
    applied
}

fn apply_document<D: Document>(
    connection: &Connection,
    sealer: &Sealer,
    new: D,
) -> Result<Applied<D::Stored>, StoreError> {
    let name = new.name().to_owned();
    let Some(id) = names::find(connection, D::TABLE, &name)? else {
        return Ok(D::applied(None, documents::create(connection, sealer, new)?, ApplyOutcome::Created));
    };
    let before = documents::readable(documents::get::<D>(connection, sealer, id))?;
    let after = documents::replace(connection, sealer, &name, new, None)?;
    Ok(D::applied(before, after, ApplyOutcome::Updated))
}

fn savepoint(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(failed(CONTEXT))
}
