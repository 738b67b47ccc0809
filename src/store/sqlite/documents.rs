//! Rules and anomaly configs: documents with a unique name that call webhooks.
//!
//! Invariant: `webhook_uses` holds exactly the webhooks that stored documents name, by id.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::names::{find, refuse_taken};
use super::row::{timestamp, uuid};
use super::{anomalies, webhooks};
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::documents::{Actions, Document, DocumentFaults, Faults};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

impl Engine {
    pub(in crate::store) async fn create_document<D: Document>(&self, new: D) -> Result<D::Stored, StoreError> {
        let auditor = self.auditor();
        self.write(Wake::Changes, "create document", move |connection| {
            let stored = create(connection, new)?;
            auditor.record(connection, || Change::created(&stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn document<D: Document>(&self, key: &str) -> Result<Option<D::Stored>, StoreError> {
        let key = key.to_owned();
        self.read("read document", move |connection| by_key::<D>(connection, &key)).await
    }

    pub(in crate::store) async fn documents<D: Document>(
        &self,
        page: PageRequest,
    ) -> Result<Page<D::Stored>, StoreError> {
        let after = cursor::after::<[u8; 16]>(D::LIST, &page)?;
        let context = "list documents";
        self.read(context, move |connection| {
            let sql = format!("{} WHERE d.id > ?1 ORDER BY d.id LIMIT ?2", select::<D>());
            let mut statement = connection.prepare_cached(&sql).map_err(failed(context))?;
            let first = after.as_ref().map_or(&[][..], |id| &id[..]);
            let rows = statement.query_map(params![first, page.limit as i64 + 1], stored::<D>);
            let rows = rows.and_then(Iterator::collect).map_err(failed(context))?;
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
        let (key, auditor) = (key.to_owned(), self.auditor());
        self.write(Wake::Changes, "replace document", move |connection| {
            let before = auditor.before(|| by_key::<D>(connection, &key))?;
            let stored = replace(connection, &key, new, as_of)?;
            auditor.record(connection, || Change::replaced(before.as_ref(), &stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn delete_document<D: Document>(&self, key: &str) -> Result<bool, StoreError> {
        let (key, auditor) = (key.to_owned(), self.auditor());
        let context = "delete document";
        self.write(Wake::Changes, context, move |connection| {
            let Some(id) = find(connection, D::TABLE, &key)? else { return Ok(false) };
            let before = auditor.before(|| get::<D>(connection, id))?;
            let sql = format!("DELETE FROM {} WHERE id = ?1", D::TABLE);
            connection
                .execute(&sql, [id.into_bytes()])
                .and_then(|_| use_webhooks(connection, id, &[]))
                .and_then(|()| anomalies::delete_states(connection, id))
                .and_then(|_| delete_faults(connection, id))
                .map_err(failed(context))?;
            auditor.record(connection, || Change::deleted(id, before.as_ref()))?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        let context = "add faults";
        self.write(Wake::None, context, move |connection| {
            let mut statement = connection
                .prepare_cached(
                    "INSERT INTO faults (document_id, count, last_at, last_error)
                     SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM rules WHERE id = ?1 AND updated_at = ?5)
                         OR EXISTS (SELECT 1 FROM anomaly_configs WHERE id = ?1 AND updated_at = ?5)
                     ON CONFLICT (document_id) DO UPDATE SET count = count + excluded.count,
                         last_at = excluded.last_at, last_error = excluded.last_error",
                )
                .map_err(failed(context))?;
            for DocumentFaults { id, as_of, faults } in &faults {
                let last_at = faults.last_at.map(Timestamp::as_millisecond);
                let row =
                    params![id.into_bytes(), faults.count as i64, last_at, faults.last_error, as_of.as_millisecond()];
                statement.execute(row).map_err(failed(context))?;
            }
            Ok(())
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

fn delete_faults(connection: &Connection, document: Uuid) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM faults WHERE document_id = ?1", [document.into_bytes()]).map(|_| ())
}

pub(super) fn create<D: Document>(connection: &Connection, mut new: D) -> Result<D::Stored, StoreError> {
    let context = "create document";
    refuse_taken(connection, D::TABLE, new.name(), None)?;
    let webhooks = resolve(connection, new.actions_mut())?;
    let (id, now) = (Uuid::now_v7(), now_ms());
    let sql =
        format!("INSERT INTO {} (id, name, document, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)", D::TABLE);
    let document = serde_json::to_string(&new).map_err(damaged).map_err(failed(context))?;
    connection
        .execute(&sql, params![id.into_bytes(), new.name(), document, now])
        .and_then(|_| use_webhooks(connection, id, &webhooks))
        .map_err(failed(context))?;
    let created = timestamp(now).map_err(failed(context))?;
    Ok(new.stored(id, Faults::default(), created, created))
}

pub(super) fn get<D: Document>(connection: &Connection, id: Uuid) -> Result<Option<D::Stored>, StoreError> {
    let sql = format!("{} WHERE d.id = ?1", select::<D>());
    connection
        .query_row(&sql, [id.into_bytes()], stored::<D>)
        .map(|(_, stored)| stored)
        .optional()
        .map_err(failed("read document"))
}

fn by_key<D: Document>(connection: &Connection, key: &str) -> Result<Option<D::Stored>, StoreError> {
    match find(connection, D::TABLE, key)? {
        Some(id) => get::<D>(connection, id),
        None => Ok(None),
    }
}

pub(super) fn replace<D: Document>(
    connection: &Connection,
    key: &str,
    mut new: D,
    as_of: Option<Timestamp>,
) -> Result<D::Stored, StoreError> {
    let context = "replace document";
    let id = find(connection, D::TABLE, key)?.ok_or_else(|| StoreError::new(StoreErrorKind::NotFound, context))?;
    refuse_taken(connection, D::TABLE, new.name(), Some(id))?;
    let webhooks = resolve(connection, new.actions_mut())?;
    let document = serde_json::to_string(&new).map_err(damaged).map_err(failed(context))?;
    let sql = format!(
        "UPDATE {} SET name = ?2, document = ?3, updated_at = max(?4, updated_at + 1)
         WHERE id = ?1 AND updated_at = coalesce(?5, updated_at) RETURNING created_at, updated_at",
        D::TABLE
    );
    let as_of = as_of.map(Timestamp::as_millisecond);
    let times = |row: &Row<'_>| Ok((timestamp(row.get(0)?)?, timestamp(row.get(1)?)?));
    let replaced = connection
        .query_row(&sql, params![id.into_bytes(), new.name(), document, now_ms(), as_of], times)
        .optional()
        .map_err(failed(context))?;
    let (created, updated) = replaced.ok_or_else(|| StoreError::new(StoreErrorKind::Changed, context))?;
    use_webhooks(connection, id, &webhooks).and_then(|()| delete_faults(connection, id)).map_err(failed(context))?;
    Ok(new.stored(id, Faults::default(), created, updated))
}

/// Replaces names by ids in place and removes duplicates.
fn resolve(connection: &Connection, actions: &mut Actions) -> Result<Vec<Uuid>, StoreError> {
    let (mut ids, mut unknown) = (Vec::with_capacity(actions.webhooks.len()), Vec::new());
    for (index, key) in actions.webhooks.iter().enumerate() {
        match find(connection, webhooks::TABLE, key)? {
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

fn use_webhooks(connection: &Connection, user: Uuid, webhooks: &[Uuid]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM webhook_uses WHERE user_id = ?1", [user.into_bytes()])?;
    for webhook in webhooks {
        connection.execute(
            "INSERT INTO webhook_uses (webhook_id, user_id) VALUES (?1, ?2)",
            [webhook.into_bytes(), user.into_bytes()],
        )?;
    }
    Ok(())
}

fn stored<D: Document>(row: &Row<'_>) -> rusqlite::Result<([u8; 16], D::Stored)> {
    let id: [u8; 16] = row.get(0)?;
    let document: D = serde_json::from_str(row.get_ref(1)?.as_str().map_err(damaged)?).map_err(damaged)?;
    let faults = Faults {
        count: row.get::<_, Option<i64>>(4)?.unwrap_or(0) as u64,
        last_at: row.get::<_, Option<i64>>(5)?.map(timestamp).transpose()?,
        last_error: row.get(6)?,
    };
    Ok((id, document.stored(uuid(id), faults, timestamp(row.get(2)?)?, timestamp(row.get(3)?)?)))
}
