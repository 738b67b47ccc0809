//! A set of documents in one transaction.

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::failed;
use super::wake::Wake;
use super::{documents, names, webhooks};
use crate::store::documents::{
    Applied, AppliedSet, ApplyOutcome, Document, DocumentSet, NewWebhook, SetResults, Webhook, changes_of,
};
use crate::store::error::{StoreError, StoreErrorKind};

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
        let mut collected = SetResults::default();
        for (index, new) in set.webhooks.iter().enumerate() {
            let applied = in_savepoint(client, self.apply_webhook(client, new.clone())).await;
            collected.webhook(index, applied)?;
        }
        for (index, new) in set.rules.iter().enumerate() {
            collected.rule(index, in_savepoint(client, apply_document(client, new.clone())).await)?;
        }
        for (index, new) in set.anomalies.iter().enumerate() {
            collected.anomaly(index, in_savepoint(client, apply_document(client, new.clone())).await)?;
        }
        Ok(collected)
    }

    async fn apply_webhook(&self, client: &Client, new: NewWebhook) -> Result<Applied<Webhook>, StoreError> {
        let name = new.name.clone();
        let Some(id) = names::find(client, webhooks::TABLE, &name, "FOR UPDATE").await? else {
            return Ok(Applied::created(self.create_webhook_in(client, new).await?));
        };
        let before = match self.webhook_in(client, id).await {
            // Secrets sealed with a lost key can still be overwritten.
            Err(error) if error.kind == StoreErrorKind::Corrupt => None,
            before => before?,
        };
        Ok(Applied::replaced(before, self.replace_webhook_in(client, &name, new, None).await?))
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

async fn apply_document<D: Document>(client: &Client, new: D) -> Result<Applied<D::Stored>, StoreError> {
    let name = new.name().to_owned();
    let Some(id) = names::find(client, D::TABLE, &name, "FOR UPDATE").await? else {
        return Ok(Applied::created(documents::create_in(client, new).await?));
    };
    let before = documents::get_in::<D>(client, id).await?;
    Ok(Applied::replaced(before, documents::replace_in(client, &name, new, None).await?))
}
