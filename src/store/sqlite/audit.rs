//! The audit log.

use std::sync::Arc;

use rusqlite::types::ToSql;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde_json::Value;
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::row::{query_newest, timestamp};
use crate::store::audit::{
    AuditEntry, AuditFilter, AuditOutcome, AuditRecord, Caller, Change, DELETE_ROWS_MAX, RECORDS_MAX,
};
use crate::store::cursor;
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'u';

/// Records changes in their transactions if there is a caller.
pub(super) struct Auditor(Option<Arc<Caller>>);

impl Auditor {
    pub(super) fn record(&self, connection: &Connection, change: impl FnOnce() -> Change) -> Result<(), StoreError> {
        match &self.0 {
            None => Ok(()),
            Some(caller) => insert(connection, &change().entry(caller, AuditOutcome::Done)).map(drop),
        }
    }

    /// Reads the previous version, only if changes are recorded.
    pub(super) fn before<T>(
        &self,
        read: impl FnOnce() -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        if self.0.is_some() { read() } else { Ok(None) }
    }
}

impl Engine {
    pub(in crate::store) fn on_behalf_of(&self, caller: Option<Arc<Caller>>) -> Self {
        Self(self.0.clone(), caller)
    }

    pub(in crate::store) fn caller(&self) -> Option<Arc<Caller>> {
        self.1.clone()
    }

    pub(super) fn auditor(&self) -> Auditor {
        Auditor(self.1.clone())
    }

    pub(in crate::store) async fn add_audit(&self, entry: AuditEntry) -> Result<i64, StoreError> {
        self.write(Wake::None, "record change", move |connection| insert(connection, &entry)).await
    }

    pub(in crate::store) async fn finish_audit(
        &self,
        id: i64,
        outcome: AuditOutcome,
        after: Option<Value>,
    ) -> Result<(), StoreError> {
        let context = "record outcome of change";
        self.write(Wake::None, context, move |connection| {
            let sql = "SELECT document FROM audit WHERE seq = ?1";
            let found = connection.query_row(sql, [id], |row| entry(row, 0)).optional().map_err(failed(context))?;
            // It may have been deleted.
            let Some(found) = found else { return Ok(()) };
            let settled = AuditEntry { outcome, after: after.or(found.after), ..found };
            let document = serde_json::to_string(&settled).map_err(damaged).map_err(failed(context))?;
            let sql = "UPDATE audit SET document = ?2 WHERE seq = ?1";
            connection.execute(sql, params![id, document]).map(drop).map_err(failed(context))
        })
        .await
    }

    pub(in crate::store) async fn audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRecord>, StoreError> {
        let before = cursor::after::<i64>(LIST, &page)?;
        let context = "list audit records";
        self.read(context, move |connection| {
            let mut wheres: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
            match filter.actor.as_deref().map(|actor| (actor, Uuid::try_parse(actor))) {
                None => {}
                Some((_, Ok(id))) => wheres.push(("actor_id = ?", Box::new(id.into_bytes()))),
                Some((name, Err(_))) => wheres.push(("actor = ?", Box::new(name.to_owned()))),
            }
            if let Some(kind) = filter.kind {
                wheres.push(("kind = ?", Box::new(kind.text())));
            }
            if let Some(since_ms) = filter.since_ms {
                wheres.push(("at >= ?", Box::new(since_ms)));
            }
            if let Some(before) = before {
                wheres.push(("seq < ?", Box::new(before)));
            }
            let select = "SELECT seq, at, document FROM audit";
            let rows = query_newest(connection, select, wheres, page.limit + 1, record);
            Ok(cursor::page(LIST, &page, rows.map_err(failed(context))?))
        })
        .await
    }

    pub(in crate::store) async fn prune_audit(&self, age_ms: i64) -> Result<u64, StoreError> {
        let context = "forget audit records";
        let mut deleted = 0;
        loop {
            let count = self
                .write(Wake::None, context, move |connection| {
                    let sql = "DELETE FROM audit WHERE seq IN (
                        SELECT seq FROM audit WHERE at < ?1
                            OR seq <= (SELECT coalesce(max(seq), 0) FROM audit) - ?2 LIMIT ?3)";
                    let before = now_ms().saturating_sub(age_ms);
                    connection.execute(sql, [before, RECORDS_MAX, DELETE_ROWS_MAX]).map_err(failed(context))
                })
                .await?;
            deleted += count as u64;
            if count == 0 {
                return Ok(deleted);
            }
        }
    }
}

fn insert(connection: &Connection, entry: &AuditEntry) -> Result<i64, StoreError> {
    let context = "record change";
    let document = serde_json::to_string(entry).map_err(damaged).map_err(failed(context))?;
    let mut statement = connection
        .prepare_cached("INSERT INTO audit (at, actor, actor_id, kind, document) VALUES (?1, ?2, ?3, ?4, ?5)")
        .map_err(failed(context))?;
    let row = params![now_ms(), entry.actor, entry.actor_id.map(Uuid::into_bytes), entry.kind.text(), document];
    statement.insert(row).map_err(failed(context))
}

fn entry(row: &Row<'_>, column: usize) -> rusqlite::Result<AuditEntry> {
    serde_json::from_str(row.get_ref(column)?.as_str().map_err(damaged)?).map_err(damaged)
}

fn record(row: &Row<'_>) -> rusqlite::Result<(i64, AuditRecord)> {
    let id = row.get(0)?;
    Ok((id, AuditRecord { id, at: timestamp(row.get(1)?)?, entry: entry(row, 2)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{caller, first_page, rule};
    use crate::store::{NewRule, SqliteSettings, Store};

    #[tokio::test]
    async fn a_change_that_cannot_be_audited_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let settings = SqliteSettings { dir: dir.path().to_owned(), secrets_key: None, secrets_key_replaced: false };
        let store = Store::open_sqlite(settings).unwrap();
        let ops = store.on_behalf_of(caller("ops"));
        ops.create(rule("before", &[])).await.unwrap();
        let connection = Connection::open(dir.path().join("store.db")).unwrap();
        connection.execute_batch("ALTER TABLE audit RENAME TO gone").unwrap();
        ops.create(rule("big", &[])).await.unwrap_err();
        ops.delete::<NewRule>("before").await.unwrap_err();
        ops.create_key(serde_json::from_str(r#"{"app_id": "shop", "name": "ios"}"#).unwrap()).await.unwrap_err();
        assert!(
            store.find::<NewRule>("big").await.unwrap().is_none()
                && store.find::<NewRule>("before").await.unwrap().is_some()
        );
        assert!(store.keys(first_page(9)).await.unwrap().items.is_empty());
        connection.execute_batch("ALTER TABLE gone RENAME TO audit").unwrap();
        ops.create(rule("big", &[])).await.unwrap();
        store.close().await;
    }
}
