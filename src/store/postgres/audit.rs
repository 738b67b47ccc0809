//! The audit log.

use std::sync::Arc;

use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::Client;
use super::engine::Engine;
use super::error::{damaged, failed};
use super::row::{is_storable, timestamp};
use crate::store::audit::{
    AuditEntry, AuditFilter, AuditKind, AuditOutcome, AuditRecord, Caller, Change, DELETE_ROWS_MAX, RECORDS_MAX,
};
use crate::store::cursor;
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

const LIST: u8 = b'u';

impl Engine {
    pub(in crate::store) fn on_behalf_of(&self, caller: Option<Arc<Caller>>) -> Self {
        Self(self.0.clone(), caller)
    }

    pub(in crate::store) fn caller(&self) -> Option<Arc<Caller>> {
        self.1.clone()
    }

    /// Records a change in its transaction if there is a caller.
    pub(super) async fn record_change(
        &self,
        client: &Client,
        change: impl FnOnce() -> Change,
    ) -> Result<(), StoreError> {
        match &self.1 {
            None => Ok(()),
            Some(caller) => insert(client, &change().entry(caller, AuditOutcome::Done)).await.map(drop),
        }
    }

    /// Whether changes are recorded.
    pub(super) fn is_audited(&self) -> bool {
        self.1.is_some()
    }

    pub(in crate::store) async fn add_audit(&self, entry: AuditEntry) -> Result<i64, StoreError> {
        self.run("record change", async |client| insert(&client, &entry).await).await
    }

    pub(in crate::store) async fn finish_audit(
        &self,
        id: i64,
        outcome: AuditOutcome,
        after: Option<Value>,
    ) -> Result<(), StoreError> {
        let context = "record outcome of change";
        self.run(context, async |client| {
            let sql = "SELECT document FROM audit WHERE seq = $1";
            // The record may have been deleted. No other process writes to it.
            if let Some(row) = client.query_opt(sql, &[&id]).await.map_err(failed(context))? {
                let found = entry(&row, 0)?;
                let settled = AuditEntry { outcome, after: after.clone().or(found.after), ..found };
                let document = serde_json::to_string(&settled).map_err(|error| damaged(context, error))?;
                let sql = "UPDATE audit SET document = $2 WHERE seq = $1";
                client.execute(sql, &[&id, &document]).await.map_err(failed(context))?;
            }
            Ok(())
        })
        .await
    }

    pub(in crate::store) async fn audit(
        &self,
        filter: AuditFilter,
        page: PageRequest,
    ) -> Result<Page<AuditRecord>, StoreError> {
        let context = "list audit records";
        let before = cursor::after::<i64>(LIST, &page)?;
        if !filter.actor.as_deref().is_none_or(is_storable) {
            return Ok(cursor::page(LIST, &page, Vec::<(i64, AuditRecord)>::new()));
        }
        let actor_id = filter.actor.as_deref().and_then(|actor| Uuid::try_parse(actor).ok());
        let actor = filter.actor.filter(|_| actor_id.is_none());
        let kind = filter.kind.map(AuditKind::text);
        self.run(context, async |client| {
            let sql = "SELECT seq, at, document FROM audit
                       WHERE ($1::text IS NULL OR actor = $1) AND ($2::uuid IS NULL OR actor_id = $2)
                           AND ($3::text IS NULL OR kind = $3) AND ($4::bigint IS NULL OR at >= $4)
                           AND ($5::bigint IS NULL OR seq < $5)
                       ORDER BY seq DESC LIMIT $6";
            let limit = page.limit as i64 + 1;
            let rows = client.query(sql, &[&actor, &actor_id, &kind, &filter.since_ms, &before, &limit]).await;
            let rows = rows.map_err(failed(context))?;
            let rows: Result<Vec<_>, StoreError> = rows.iter().map(record).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }

    pub(in crate::store) async fn prune_audit(&self, age_ms: i64) -> Result<u64, StoreError> {
        let context = "forget audit records";
        let sql = "DELETE FROM audit WHERE seq IN (
            SELECT seq FROM audit WHERE at < causality_now_ms() - $1
                OR seq <= (SELECT coalesce(max(seq), 0) FROM audit) - $2
            LIMIT $3 FOR UPDATE SKIP LOCKED)";
        let mut deleted = 0;
        loop {
            let count = self
                .run(context, async |client| {
                    let count = client.execute(sql, &[&age_ms, &RECORDS_MAX, &DELETE_ROWS_MAX]).await;
                    let count = count.map_err(failed(context))?;
                    Ok(count)
                })
                .await?;
            deleted += count;
            if count == 0 {
                return Ok(deleted);
            }
        }
    }
}

async fn insert(client: &Client, entry: &AuditEntry) -> Result<i64, StoreError> {
    let context = "record change";
    let document = serde_json::to_string(entry).map_err(|error| damaged(context, error))?;
    let sql = "INSERT INTO audit (at, actor, actor_id, kind, document)
               VALUES (causality_now_ms(), $1, $2, $3, $4) RETURNING seq";
    let row = client.query_one(sql, &[&entry.actor, &entry.actor_id, &entry.kind.text(), &document]).await;
    Ok(row.map_err(failed(context))?.get(0))
}

fn entry(row: &Row, column: usize) -> Result<AuditEntry, StoreError> {
    serde_json::from_str(row.get(column)).map_err(|error| damaged("read audit record", error))
}

fn record(row: &Row) -> Result<(i64, AuditRecord), StoreError> {
    let id = row.get(0);
    Ok((id, AuditRecord { id, at: timestamp(row.get(1))?, entry: entry(row, 2)? }))
}

#[cfg(test)]
mod tests {
    use crate::store::conformance::{caller, first_page, rule};
    use crate::store::postgres::tests::{cluster, settings};
    use crate::store::{NewRule, Store};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_change_that_cannot_be_audited_is_not_made() {
        let server = cluster();
        let database = server.database();
        let store = Store::connect_postgres(settings(&server, &database)).await.unwrap();
        let ops = store.on_behalf_of(caller("ops"));
        ops.create(rule("before", &[])).await.unwrap();
        server.sql(&database, "ALTER TABLE audit RENAME TO gone");
        ops.create(rule("big", &[])).await.unwrap_err();
        ops.delete::<NewRule>("before").await.unwrap_err();
        ops.create_key(serde_json::from_str(r#"{"app_id": "shop", "name": "ios"}"#).unwrap()).await.unwrap_err();
        assert!(
            store.find::<NewRule>("big").await.unwrap().is_none()
                && store.find::<NewRule>("before").await.unwrap().is_some()
        );
        assert!(store.keys(first_page(9)).await.unwrap().items.is_empty());
        server.sql(&database, "ALTER TABLE gone RENAME TO audit");
        ops.create(rule("big", &[])).await.unwrap();
        store.close().await;
    }
}
