//! Tokens of the admin API. Only the SHA-256 of a token is kept.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::engine::Ending::Commit;
use super::engine::Engine;
use super::error::{damaged, failed};
use super::names::{find, name_taken};
use super::row::timestamp;
use super::wake::Wake;
use crate::store::access::{AdminRole, AdminToken, FoundToken, NewAdminToken, TOKENS_MAX, TokenHash, generate_token};
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

const TABLE: &str = "admin_tokens";
const LIST: u8 = b't';
const COLUMNS: &str = "id, name, role, expires_at, last_used_at, created_at";

impl Engine {
    pub(in crate::store) async fn create_admin_token(
        &self,
        new: NewAdminToken,
    ) -> Result<(AdminToken, String), StoreError> {
        let context = "create admin token";
        let (token, hash) = generate_token()?;
        self.transact(context, async |tx| {
            let sql = format!(
                "INSERT INTO admin_tokens (id, name, role, hash, expires_at, created_at)
                 SELECT $1, $2, $3, $4, $5, causality_now_ms()
                 WHERE (SELECT count(*) FROM admin_tokens) < {TOKENS_MAX} RETURNING {COLUMNS}"
            );
            let (id, role, expires) = (Uuid::now_v7(), new.role.text(), new.expires_at.map(Timestamp::as_millisecond));
            let row = tx.query_opt(&sql, &[&id, &new.name, &role, &&hash[..], &expires]).await;
            let too_many = || StoreError::new(StoreErrorKind::TooManyTokens, context);
            let stored = admin_token(&row.map_err(name_taken(context))?.ok_or_else(too_many)?)?;
            self.record_change(&tx, || Change::created(&stored)).await?;
            Ok(Commit((stored, token.clone()), Wake::None))
        })
        .await
    }

    pub(in crate::store) async fn admin_tokens(&self, page: PageRequest) -> Result<Page<AdminToken>, StoreError> {
        let context = "list admin tokens";
        let after = cursor::after::<[u8; 16]>(LIST, &page)?.map(Uuid::from_bytes);
        self.run(context, async |client| {
            let sql =
                format!("SELECT {COLUMNS} FROM admin_tokens WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2");
            let rows = client.query(&sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
            let rows: Result<Vec<_>, _> =
                rows.iter().map(|row| admin_token(row).map(|token| (token.id.into_bytes(), token))).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }

    pub(in crate::store) async fn admin_token(&self, key: &str) -> Result<Option<AdminToken>, StoreError> {
        let context = "read admin token";
        self.run(context, async |client| {
            let mut found = None;
            if let Some(id) = find(&client, TABLE, key, "").await? {
                let sql = format!("SELECT {COLUMNS} FROM admin_tokens WHERE id = $1");
                found = client.query_opt(&sql, &[&id]).await.map_err(failed(context))?;
            }
            found.map(|row| admin_token(&row)).transpose()
        })
        .await
    }

    pub(in crate::store) async fn revoke_admin_token(&self, key: &str) -> Result<bool, StoreError> {
        let context = "revoke admin token";
        self.transact(context, async |tx| {
            let id = find(&tx, TABLE, key, "FOR UPDATE").await?;
            let sql = format!("DELETE FROM admin_tokens WHERE id = $1 RETURNING {COLUMNS}");
            let row = tx.query_opt(&sql, &[&id]).await.map_err(failed(context))?;
            if let Some(row) = &row {
                let before = admin_token(row)?;
                self.record_change(&tx, || Change::deleted(before.id, Some(&before))).await?;
            }
            Ok(Commit(row.is_some(), Wake::None))
        })
        .await
    }

    pub(in crate::store) async fn admin_token_by_hash(
        &self,
        hash: TokenHash,
    ) -> Result<Option<FoundToken>, StoreError> {
        let context = "find admin token";
        self.run(context, async |client| {
            let sql = format!(
                "SELECT {COLUMNS}, coalesce(expires_at <= causality_now_ms(), false) FROM admin_tokens WHERE hash = $1"
            );
            let statement = client.prepare_cached(&sql).await.map_err(failed(context))?;
            let row = client.query_opt(&statement, &[&&hash[..]]).await.map_err(failed(context))?;
            row.map(|row| Ok(FoundToken { token: admin_token(&row)?, expired: row.get(6) })).transpose()
        })
        .await
    }

    pub(in crate::store) async fn record_token_use(&self, id: Uuid) -> Result<(), StoreError> {
        let context = "note use of admin token";
        self.run(context, async |client| {
            let sql = "UPDATE admin_tokens SET last_used_at = greatest(minute, created_at)
                       FROM (SELECT causality_now_ms() / 60000 * 60000 AS minute) now
                       WHERE id = $1 AND coalesce(last_used_at, 0) < minute";
            client.execute(sql, &[&id]).await.map_err(failed(context))?;
            Ok(())
        })
        .await
    }
}

fn admin_token(row: &Row) -> Result<AdminToken, StoreError> {
    let time = |column: usize| row.get::<_, Option<i64>>(column).map(timestamp).transpose();
    let role = AdminRole::parse(row.get(2));
    Ok(AdminToken {
        id: row.get(0),
        name: row.get(1),
        role: role.ok_or_else(|| damaged("read admin token", "unknown role of a token"))?,
        expires_at: time(3)?,
        last_used_at: time(4)?,
        created_at: timestamp(row.get(5))?,
    })
}
