//! A set of documents in one transaction.

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::failed;
use super::wake::Wake;
use super::{documents, names};
use crate::store::documents::{
    Applied, AppliedSet, ApplyOutcome, Document, DocumentSet, NewAnomalyConfig, NewRule, NewWebhook, SetResults,
    changes_of,
};
use crate::store::error::StoreError;

const CONTEXT: &str = "apply documents";

impl Engine {
    pub(in crate::store) async fn apply(&self, set: DocumentSet, rehearsal: bool) -> Result<AppliedSet, StoreError> {
        let set = &set;
        self.transact(CONTEXT, async |tx| {
            let applied = self.apply_all(&tx, set).await?.finish();
            match applied {
                Ok(applied) if applied.changed() && !rehearsal => {
                    for change in changes_of(&applied) {
                        self.record_change(&tx, || change).await?;
                    }
                    Ok(Commit(applied, Wake::Both))
                }
                applied => applied.map(Rollback),
            }
        })
        .await
    }

    async fn apply_all(&self, client: &Client, set: &DocumentSet) -> Result<SetResults, StoreError> {
        let (mut set, mut results) = (set.clone(), SetResults::default());
        self.apply_list::<NewWebhook>(client, &mut set, &mut results).await?;
        self.apply_list::<NewRule>(client, &mut set, &mut results).await?;
        self.apply_list::<NewAnomalyConfig>(client, &mut set, &mut results).await?;
        Ok(results)
    }

    async fn apply_list<D: Document>(
        &self,
        client: &Client,
        set: &mut DocumentSet,
        results: &mut SetResults,
    ) -> Result<(), StoreError> {
        for (index, new) in std::mem::take(D::in_set(set)).into_iter().enumerate() {
            results.record::<D>(index, in_savepoint(client, self.apply_document(client, new)).await)?;
        }
        Ok(())
    }

    async fn apply_document<D: Document>(&self, client: &Client, new: D) -> Result<Applied<D::Stored>, StoreError> {
        let name = new.name().to_owned();
        let Some(id) = names::find(client, D::TABLE, &name, "FOR UPDATE").await? else {
            return Ok(D::applied(None, self.create_on(client, new).await?, ApplyOutcome::Created));
        };
        let before = documents::readable(self.get_on::<D>(client, id).await)?;
        Ok(D::applied(before, self.replace_on(client, &name, new, None).await?, ApplyOutcome::Updated))
    }
}

/// Rolls back the writes of a faulty or unchanged document.
async fn in_savepoint<T>(
    client: &Client,
    apply: impl Future<Output = Result<Applied<T>, StoreError>>,
) -> Result<Applied<T>, StoreError> {
    let savepoint = async |sql| client.batch_execute(sql).await.map_err(failed(CONTEXT));
    savepoint("SAVEPOINT one_document").await?;
    let applied = apply.await;
    match &applied {
        Ok(applied) if applied.outcome != ApplyOutcome::Unchanged => {}
        Err(error) if !error.kind.is_document_error() => return applied,
        _ => savepoint("ROLLBACK TO one_document").await?,
    }
    savepoint("RELEASE one_document").await?;
    applied
}
