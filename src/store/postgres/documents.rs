//! Rules and anomaly configs: documents with a unique name that call webhooks.
//!
//! Invariant: `webhook_uses` holds exactly the webhooks that stored documents name, by id.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::Client;
use super::engine::Ending::Commit;
use super::engine::Engine;
use super::error::{damaged, failed};
use super::names::{find, name_taken, refuse_taken};
use super::row::timestamp;
use super::wake::Wake;
use super::webhooks;
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::documents::{Actions, Document, DocumentFaults, Faults};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

impl Engine {
    pub(in crate::store) async fn create_document<D: Document>(&self, new: D) -> Result<D::Stored, StoreError> {
        let context = "create document";
        self.transact(context, async |tx| {
            let stored = create_in(&tx, new.clone()).await?;
            self.record_change(&tx, || Change::created(&stored)).await?;
            Ok(Commit(stored, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn document<D: Document>(&self, key: &str) -> Result<Option<D::Stored>, StoreError> {
        let context = "read document";
        self.run(context, async |client| match find(&client, D::TABLE, key, "").await? {
            Some(id) => get_in::<D>(&client, id).await,
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn documents<D: Document>(
        &self,
        page: PageRequest,
    ) -> Result<Page<D::Stored>, StoreError> {
        let context = "list documents";
        let after = cursor::after::<[u8; 16]>(D::LIST, &page)?.map(Uuid::from_bytes);
        self.run(context, async |client| {
            let sql = format!("{} WHERE $1::uuid IS NULL OR d.id > $1 ORDER BY d.id LIMIT $2", select::<D>());
            let rows = client.query(&sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
            let rows = rows.iter().map(stored::<D>).collect::<Result<Vec<_>, _>>()?;
            Ok(cursor::page(D::LIST, &page, rows))
        })
        .await
    }

    pub(in crate::store) async fn replace_document<D: Document>(
        &self,
        key: &str,
        new: D,
        as_of: Option<Timestamp>,
    ) -> Result<D::Stored, StoreError> {
        let context = "replace document";
        self.transact(context, async |tx| {
            let before = match self.is_audited() {
                true => locked::<D>(&tx, key).await?,
                false => None,
            };
            let stored = replace_in(&tx, key, new.clone(), as_of).await?;
            self.record_change(&tx, || Change::replaced(before.as_ref(), &stored)).await?;
            Ok(Commit(stored, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn delete_document<D: Document>(&self, key: &str) -> Result<bool, StoreError> {
        let context = "delete document";
        self.transact(context, async |tx| {
            let id = find(&tx, D::TABLE, key, "FOR UPDATE").await?;
            if let Some(id) = id {
                let before = if self.is_audited() { get_in::<D>(&tx, id).await? } else { None };
                self.record_change(&tx, || Change::deleted(id, before.as_ref())).await?;
                let sql = format!("DELETE FROM {} WHERE id = $1", D::TABLE);
                tx.execute(&sql, &[&id]).await.map_err(failed(context))?;
                use_webhooks(&tx, id, &[]).await?;
                delete_faults(&tx, id).await?;
                tx.execute("DELETE FROM anomaly_states WHERE config_id = $1", &[&id]).await.map_err(failed(context))?;
            }
            Ok(Commit(id.is_some(), if id.is_some() { Wake::Changes } else { Wake::None }))
        })
        .await
    }

    pub(in crate::store) async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        let context = "add faults";
        let mut faults = faults;
        // Always in the same order, so that two processes do not deadlock.
        faults.sort_by_key(|of| of.id);
        let faults = &faults;
        self.transact(context, async |tx| {
            let sql = "INSERT INTO faults AS f (document_id, count, last_at, last_error)
                       SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT 1 FROM rules WHERE id = $1 AND updated_at = $5)
                           OR EXISTS (SELECT 1 FROM anomaly_configs WHERE id = $1 AND updated_at = $5)
                       ON CONFLICT (document_id) DO UPDATE SET count = f.count + excluded.count,
                           last_at = excluded.last_at, last_error = excluded.last_error";
            for DocumentFaults { id, as_of, faults } in faults {
                let last_at = faults.last_at.map(Timestamp::as_millisecond);
                let (count, as_of) = (faults.count as i64, as_of.as_millisecond());
                tx.execute(sql, &[id, &count, &last_at, &faults.last_error, &as_of]).await.map_err(failed(context))?;
            }
            Ok(Commit((), Wake::None))
        })
        .await
    }
}

fn select<D: Document>() -> String {
    format!(
        "SELECT d.id, d.document, d.created_at, d.updated_at, f.count, f.last_at, f.last_error
         FROM {} d LEFT JOIN faults f ON f.document_id = d.id",
        D::TABLE
    )
}

async fn delete_faults(client: &Client, document: Uuid) -> Result<(), StoreError> {
    let sql = "DELETE FROM faults WHERE document_id = $1";
    client.execute(sql, &[&document]).await.map(|_| ()).map_err(failed("forget faults"))
}

pub(super) async fn create_in<D: Document>(client: &Client, mut new: D) -> Result<D::Stored, StoreError> {
    let context = "create document";
    refuse_taken(client, D::TABLE, new.name(), None).await?;
    let webhooks = resolve(client, new.actions_mut()).await?;
    let id = Uuid::now_v7();
    let document = serde_json::to_string(&new).map_err(|error| damaged(context, error))?;
    let sql = format!(
        "INSERT INTO {} (id, name, document, created_at, updated_at)
         SELECT $1, $2, $3, now, now FROM causality_now_ms() now RETURNING created_at",
        D::TABLE
    );
    let row = client.query_one(&sql, &[&id, &new.name(), &document]).await.map_err(name_taken(context))?;
    use_webhooks(client, id, &webhooks).await?;
    let created = timestamp(row.get(0))?;
    Ok(new.stored(id, Faults::default(), created, created))
}

pub(super) async fn get_in<D: Document>(client: &Client, id: Uuid) -> Result<Option<D::Stored>, StoreError> {
    let sql = format!("{} WHERE d.id = $1", select::<D>());
    let row = client.query_opt(&sql, &[&id]).await.map_err(failed("read document"))?;
    Ok(row.map(|row| stored::<D>(&row)).transpose()?.map(|(_, stored)| stored))
}

/// Reads the document that is about to be replaced and locks it.
async fn locked<D: Document>(client: &Client, key: &str) -> Result<Option<D::Stored>, StoreError> {
    match find(client, D::TABLE, key, "FOR UPDATE").await? {
        Some(id) => get_in::<D>(client, id).await,
        None => Ok(None),
    }
}

pub(super) async fn replace_in<D: Document>(
    client: &Client,
    key: &str,
    mut new: D,
    as_of: Option<Timestamp>,
) -> Result<D::Stored, StoreError> {
    let context = "replace document";
    let id = find(client, D::TABLE, key, "FOR UPDATE").await?;
    let id = id.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, context))?;
    refuse_taken(client, D::TABLE, new.name(), Some(id)).await?;
    let webhooks = resolve(client, new.actions_mut()).await?;
    let document = serde_json::to_string(&new).map_err(|error| damaged(context, error))?;
    let sql = format!(
        "UPDATE {} SET name = $2, document = $3, updated_at = greatest(causality_now_ms(), updated_at + 1)
         WHERE id = $1 AND updated_at = coalesce($4, updated_at) RETURNING created_at, updated_at",
        D::TABLE
    );
    let as_of = as_of.map(Timestamp::as_millisecond);
    let row = client.query_opt(&sql, &[&id, &new.name(), &document, &as_of]).await.map_err(name_taken(context))?;
    let row = row.ok_or_else(|| StoreError::new(StoreErrorKind::Changed, context))?;
    use_webhooks(client, id, &webhooks).await?;
    delete_faults(client, id).await?;
    Ok(new.stored(id, Faults::default(), timestamp(row.get(0))?, timestamp(row.get(1))?))
}

/// Replaces names by ids in place and removes duplicates. The webhooks are locked until the commit.
async fn resolve(client: &Client, actions: &mut Actions) -> Result<Vec<Uuid>, StoreError> {
    let (mut ids, mut unknown) = (Vec::with_capacity(actions.webhooks.len()), Vec::new());
    for (index, key) in actions.webhooks.iter().enumerate() {
        match find(client, webhooks::TABLE, key, "FOR KEY SHARE").await? {
            None => unknown.push(index),
            Some(id) if ids.contains(&id) => {}
            Some(id) => ids.push(id),
        }
    }
    if !unknown.is_empty() {
        return Err(StoreError::new(StoreErrorKind::UnknownWebhooks { indexes: unknown }, "find webhook"));
    }
    actions.webhooks = ids.iter().map(Uuid::to_string).collect();
    Ok(ids)
}

async fn use_webhooks(client: &Client, user: Uuid, webhooks: &[Uuid]) -> Result<(), StoreError> {
    let context = "note used webhooks";
    client.execute("DELETE FROM webhook_uses WHERE user_id = $1", &[&user]).await.map_err(failed(context))?;
    if !webhooks.is_empty() {
        let sql = "INSERT INTO webhook_uses (webhook_id, user_id) SELECT unnest($1::uuid[]), $2";
        client.execute(sql, &[&webhooks, &user]).await.map_err(failed(context))?;
    }
    Ok(())
}

fn stored<D: Document>(row: &Row) -> Result<([u8; 16], D::Stored), StoreError> {
    let id: Uuid = row.get(0);
    let document: D = serde_json::from_str(row.get(1)).map_err(|error| damaged("read document", error))?;
    let faults = Faults {
        count: row.get::<_, Option<i64>>(4).unwrap_or(0) as u64,
        last_at: row.get::<_, Option<i64>>(5).map(timestamp).transpose()?,
        last_error: row.get(6),
    };
    Ok((id.into_bytes(), document.stored(id, faults, timestamp(row.get(2))?, timestamp(row.get(3))?)))
}
