//! A set of documents in one transaction.

use rusqlite::Connection;

use super::engine::{Engine, Wake};
use super::error::failed;
use super::{documents, names, webhooks};
use crate::store::documents::{
    Applied, AppliedSet, ApplyOutcome, Document, DocumentSet, NewWebhook, SetResults, Webhook, changes_of,
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

fn apply_all(connection: &Connection, sealer: &Sealer, set: DocumentSet) -> Result<AppliedSet, StoreError> {
    let mut collected = SetResults::default();
    for (index, new) in set.webhooks.into_iter().enumerate() {
        collected.webhook(index, in_savepoint(connection, || apply_webhook(connection, sealer, new)))?;
    }
    for (index, new) in set.rules.into_iter().enumerate() {
        collected.rule(index, in_savepoint(connection, || apply_document(connection, new)))?;
    }
    for (index, new) in set.anomalies.into_iter().enumerate() {
        collected.anomaly(index, in_savepoint(connection, || apply_document(connection, new)))?;
    }
    collected.finish()
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

fn apply_webhook(connection: &Connection, sealer: &Sealer, new: NewWebhook) -> Result<Applied<Webhook>, StoreError> {
    let name = new.name.clone();
    let Some(id) = names::find(connection, webhooks::TABLE, &name)? else {
        return Ok(Applied::created(webhooks::create(connection, sealer, new)?));
    };
    let before = webhooks::readable(webhooks::get(connection, sealer, id))?;
    let after = webhooks::replace(connection, sealer, &name, new, None)?;
    Ok(Applied::replaced(before, after))
}

fn apply_document<D: Document>(connection: &Connection, new: D) -> Result<Applied<D::Stored>, StoreError> {
    let name = new.name().to_owned();
    let Some(id) = names::find(connection, D::TABLE, &name)? else {
        return Ok(Applied::created(documents::create(connection, new)?));
    };
    let before = documents::get::<D>(connection, id)?;
    Ok(Applied::replaced(before, documents::replace(connection, &name, new, None)?))
}

fn savepoint(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    connection.execute_batch(sql).map_err(failed(CONTEXT))
}
