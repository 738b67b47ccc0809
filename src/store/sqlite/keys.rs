//! API keys. Only the SHA-256 of a key is kept.

use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::failed;
use super::names;
use super::row::{timestamp, uuid};
use crate::store::access::{
    ApiKey, HashedKey, KEYS_MAX, KEYS_PAGE, KeyHash, KeyLimits, NewApiKey, REVOCATIONS_KEPT, Revocations, generate_key,
};
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};

const TABLE: &str = "api_keys";
const LIST: u8 = b'k';

impl Engine {
    pub(in crate::store) async fn create_key(&self, new: NewApiKey) -> Result<(ApiKey, String), StoreError> {
        let context = "create key";
        let (key, hash) = generate_key()?;
        let auditor = self.auditor();
        let stored = self
            .write(Wake::Changes, context, move |connection| {
                names::refuse_taken(connection, TABLE, &new.name, None)?;
                let raise = "UPDATE api_keys_state SET version = version + 1, keys = keys + 1 WHERE keys < ?1
                             RETURNING version";
                let version = connection.query_row(raise, [KEYS_MAX as i64], |row| row.get::<_, i64>(0)).optional();
                let too_many = || StoreError::new(StoreErrorKind::TooManyKeys, context);
                let version = version.map_err(failed(context))?.ok_or_else(too_many)?;
                let (id, now, limits) = (Uuid::now_v7(), now_ms(), new.limits());
                let insert =
                    "INSERT INTO api_keys (id, app_id, name, hash, created_at, expires_at, requests_per_second,
                                  burst, version)
                              VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                let expires_at_ms = new.expires_at.map(|at| at.as_millisecond());
                connection
                    .execute(
                        insert,
                        params![
                            id.into_bytes(),
                            new.app_id,
                            new.name,
                            hash,
                            now,
                            expires_at_ms,
                            limits.requests_per_second,
                            limits.burst,
                            version
                        ],
                    )
                    .map_err(failed(context))?;
                let stored = ApiKey {
                    id,
                    app_id: new.app_id,
                    name: new.name,
                    // As it will be read back.
                    expires_at: expires_at_ms.map(timestamp).transpose().map_err(failed(context))?,
                    limits,
                    last_used_at: None,
                    created_at: timestamp(now).map_err(failed(context))?,
                };
                auditor.record(connection, || Change::created(&stored))?;
                Ok(stored)
            })
            .await?;
        Ok((stored, key))
    }

    pub(in crate::store) async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let after = cursor::after::<[u8; 16]>(LIST, &page)?;
        let context = "list keys";
        self.read(context, move |connection| {
            let sql = "SELECT id, app_id, name, created_at, expires_at, requests_per_second, burst, last_used_at
                       FROM api_keys WHERE id > ?1 ORDER BY id LIMIT ?2";
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            let first = after.as_ref().map_or(&[][..], |id| &id[..]);
            let rows = statement.query_map(params![first, page.limit as i64 + 1], |row| {
                api_key(row).map(|key| (key.id.into_bytes(), key))
            });
            let rows = rows.and_then(Iterator::collect).map_err(failed(context))?;
            Ok(cursor::page(LIST, &page, rows))
        })
        .await
    }

    pub(in crate::store) async fn key(&self, key: &str) -> Result<Option<ApiKey>, StoreError> {
        let key = key.to_owned();
        self.read("read key", move |connection| match names::find(connection, TABLE, &key)? {
            Some(id) => get(connection, id),
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn revoke_key(&self, key: &str) -> Result<bool, StoreError> {
        let (key, auditor, context) = (key.to_owned(), self.auditor(), "revoke key");
        self.write(Wake::Changes, context, move |connection| {
            let Some(id) = names::find(connection, TABLE, &key)? else { return Ok(false) };
            let before = auditor.before(|| get(connection, id))?;
            auditor.record(connection, || Change::deleted(id, before.as_ref()))?;
            let run = || {
                let raise = "UPDATE api_keys_state SET version = version + 1, keys = keys - 1 RETURNING version";
                let version: i64 = connection.query_row(raise, [], |row| row.get(0))?;
                let note = "INSERT INTO revoked_keys (version, hash) SELECT ?1, hash FROM api_keys WHERE id = ?2";
                connection.execute(note, params![version, id.into_bytes()])?;
                connection.execute("DELETE FROM api_keys WHERE id = ?1", [id.into_bytes()])?;
                connection
                    .execute("DELETE FROM revoked_keys WHERE version <= ?1", [version - REVOCATIONS_KEPT])
                    .map(|_| true)
            };
            run().map_err(failed(context))
        })
        .await
    }

    pub(in crate::store) async fn revocations(&self, since: u64) -> Result<Revocations, StoreError> {
        let context = "read revoked keys";
        self.read(context, move |connection| {
            let read = || {
                // One statement, so that both are from the same snapshot.
                let sql = "SELECT s.version, r.hash FROM api_keys_state s LEFT JOIN revoked_keys r ON r.version > ?1";
                let mut statement = connection.prepare_cached(sql)?;
                let mut rows = statement.query([i64::try_from(since).unwrap_or(i64::MAX)])?;
                let (mut version, mut revoked) = (0, Vec::new());
                while let Some(row) = rows.next()? {
                    version = row.get(0)?;
                    revoked.extend(row.get::<_, Option<KeyHash>>(1)?);
                }
                Ok(Revocations::of(since, version, revoked, now_ms()))
            };
            read().map_err(failed(context))
        })
        .await
    }

    pub(in crate::store) async fn keys_after(&self, version: u64) -> Result<Vec<HashedKey>, StoreError> {
        let context = "read keys";
        self.read(context, move |connection| {
            let sql = "SELECT id, app_id, hash, expires_at, requests_per_second, burst, version FROM api_keys
                       WHERE version > ?1 ORDER BY version LIMIT ?2";
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            let after = i64::try_from(version).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![after, KEYS_PAGE as i64], hashed_key);
            rows.and_then(Iterator::collect).map_err(failed(context))
        })
        .await
    }

    pub(in crate::store) async fn record_key_use(&self, used: &[(Uuid, i64)]) -> Result<(), StoreError> {
        let (used, context) = (used.to_vec(), "note use of keys");
        self.write(Wake::None, context, move |connection| {
            let sql = "UPDATE api_keys SET last_used_at = max(?2, created_at)
                       WHERE id = ?1 AND coalesce(last_used_at, 0) < ?2";
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            for (id, minute_ms) in used {
                statement.execute(params![id.into_bytes(), minute_ms]).map_err(failed(context))?;
            }
            Ok(())
        })
        .await
    }
}

fn get(connection: &Connection, id: Uuid) -> Result<Option<ApiKey>, StoreError> {
    let sql = "SELECT id, app_id, name, created_at, expires_at, requests_per_second, burst, last_used_at
               FROM api_keys WHERE id = ?1";
    connection.query_row(sql, [id.into_bytes()], api_key).optional().map_err(failed("read key"))
}

fn api_key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey {
        id: uuid(row.get(0)?),
        app_id: row.get(1)?,
        name: row.get(2)?,
        created_at: timestamp(row.get(3)?)?,
        expires_at: row.get::<_, Option<i64>>(4)?.map(timestamp).transpose()?,
        limits: KeyLimits { requests_per_second: row.get(5)?, burst: row.get(6)? },
        last_used_at: row.get::<_, Option<i64>>(7)?.map(timestamp).transpose()?,
    })
}

fn hashed_key(row: &Row<'_>) -> rusqlite::Result<HashedKey> {
    Ok(HashedKey {
        id: uuid(row.get(0)?),
        app_id: row.get(1)?,
        hash: row.get(2)?,
        expires_at_ms: row.get(3)?,
        limits: KeyLimits { requests_per_second: row.get(4)?, burst: row.get(5)? },
        version: row.get::<_, i64>(6)?.cast_unsigned(),
    })
}
