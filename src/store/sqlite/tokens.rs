//! Tokens of the admin API. Only the SHA-256 of a token is kept.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::names;
use super::row::{timestamp, uuid};
use crate::store::access::{
    AdminRole, AdminToken, FoundToken, NewAdminToken, TOKENS_MAX, TokenHash, generate_token, minute_of,
};
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
        let auditor = self.auditor();
        let stored = self
            .write(Wake::None, context, move |connection| {
                names::refuse_taken(connection, TABLE, &new.name, None)?;
                let sql = format!(
                    "INSERT INTO admin_tokens (id, name, role, hash, expires_at, created_at)
                     SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE (SELECT count(*) FROM admin_tokens) < {TOKENS_MAX}
                     RETURNING {COLUMNS}"
                );
                let expires = new.expires_at.map(jiff::Timestamp::as_millisecond);
                let row = params![Uuid::now_v7().into_bytes(), new.name, new.role.text(), &hash[..], expires, now_ms()];
                let stored = connection.query_row(&sql, row, admin_token).optional().map_err(failed(context))?;
                let stored = stored.ok_or_else(|| StoreError::new(StoreErrorKind::TooManyTokens, context))?;
                auditor.record(connection, || Change::created(&stored))?;
                Ok(stored)
            })
            .await?;
        Ok((stored, token))
    }

    pub(in crate::store) async fn admin_tokens(&self, page: PageRequest) -> Result<Page<AdminToken>, StoreError> {
        let after = cursor::after::<[u8; 16]>(LIST, &page)?;
        let context = "list admin tokens";
        self.read(context, move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM admin_tokens WHERE id > ?1 ORDER BY id LIMIT ?2");
            let mut statement = connection.prepare_cached(&sql).map_err(failed(context))?;
            let first = after.as_ref().map_or(&[][..], |id| &id[..]);
            let rows = statement.query_map(params![first, page.limit as i64 + 1], |row| {
                admin_token(row).map(|token| (token.id.into_bytes(), token))
            });
            let rows = rows.and_then(Iterator::collect).map_err(failed(context))?;
            Ok(cursor::page(LIST, &page, rows))
        })
        .await
    }

    pub(in crate::store) async fn admin_token(&self, key: &str) -> Result<Option<AdminToken>, StoreError> {
        let key = key.to_owned();
        self.read("read admin token", move |connection| match names::find(connection, TABLE, &key)? {
            Some(id) => get(connection, id),
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn revoke_admin_token(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        let auditor = self.auditor();
        let context = "revoke admin token";
        self.write(Wake::None, context, move |connection| {
            let Some(id) = names::find(connection, TABLE, &key)? else { return Ok(false) };
            let before = get(connection, id)?;
            connection.execute("DELETE FROM admin_tokens WHERE id = ?1", [id.into_bytes()]).map_err(failed(context))?;
            auditor.record(connection, || Change::deleted(id, before.as_ref()))?;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn admin_token_by_hash(
        &self,
        hash: TokenHash,
    ) -> Result<Option<FoundToken>, StoreError> {
        let context = "find admin token";
        self.read(context, move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM admin_tokens WHERE hash = ?1");
            let mut statement = connection.prepare_cached(&sql).map_err(failed(context))?;
            let token = statement.query_row([&hash[..]], admin_token).optional().map_err(failed(context))?;
            let now = now_ms();
            Ok(token.map(|token| {
                let expired = token.expires_at.is_some_and(|at| at.as_millisecond() <= now);
                FoundToken { token, expired }
            }))
        })
        .await
    }

    pub(in crate::store) async fn record_token_use(&self, id: Uuid) -> Result<(), StoreError> {
        let context = "note use of admin token";
        self.write(Wake::None, context, move |connection| {
            let sql = "UPDATE admin_tokens SET last_used_at = max(?2, created_at)
                       WHERE id = ?1 AND coalesce(last_used_at, 0) < ?2";
            connection.execute(sql, params![id.into_bytes(), minute_of(now_ms())]).map(drop).map_err(failed(context))
        })
        .await
    }
}

fn get(connection: &Connection, id: Uuid) -> Result<Option<AdminToken>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM admin_tokens WHERE id = ?1");
    let row = connection.query_row(&sql, [id.into_bytes()], admin_token);
    row.optional().map_err(failed("read admin token"))
}

fn admin_token(row: &Row<'_>) -> rusqlite::Result<AdminToken> {
    let role = row.get_ref(2)?.as_str().map_err(damaged)?;
    let time = |column: usize| row.get::<_, Option<i64>>(column)?.map(timestamp).transpose();
    Ok(AdminToken {
        id: uuid(row.get(0)?),
        name: row.get(1)?,
        role: AdminRole::parse(role).ok_or_else(|| damaged("unknown role of a token"))?,
        expires_at: time(3)?,
        last_used_at: time(4)?,
        created_at: timestamp(row.get(5)?)?,
    })
}
