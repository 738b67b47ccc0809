//! API keys. Only the SHA-256 of a key is kept.

use tokio_postgres::Row;
use uuid::Uuid;

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::{damaged, failed};
use super::names::{find, name_taken};
use super::row::timestamp;
use super::wake::Wake;
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
        self.transact(context, async |tx| {
            let sql = "UPDATE api_keys_state SET version = version + 1, keys = keys + 1 WHERE keys < $1
                       RETURNING version";
            let raised = tx.query_opt(sql, &[&(KEYS_MAX as i64)]).await.map_err(failed(context))?;
            let version: i64 = raised.ok_or_else(|| StoreError::new(StoreErrorKind::TooManyKeys, context))?.get(0);
            let id = Uuid::now_v7();
            let sql =
                "INSERT INTO api_keys (id, app_id, name, hash, created_at, expires_at, requests_per_second, burst,
                           version)
                       VALUES ($1, $2, $3, $4, causality_now_ms(), $5, $6, $7, $8)
                       RETURNING id, app_id, name, created_at, expires_at, requests_per_second, burst, last_used_at";
            let expires_at = new.expires_at.map(|at| at.as_millisecond());
            let (rps, burst) = (new.requests_per_second.map(i64::from), new.burst.map(i64::from));
            let row = tx
                .query_one(sql, &[&id, &new.app_id, &new.name, &&hash[..], &expires_at, &rps, &burst, &version])
                .await
                .map_err(name_taken(context))?;
            let stored = api_key(&row)?;
            self.record_change(&tx, || Change::created(&stored)).await?;
            Ok(Commit((stored, key.clone()), Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let context = "list keys";
        let after = cursor::after::<[u8; 16]>(LIST, &page)?.map(Uuid::from_bytes);
        self.run(context, async |client| {
            let sql = "SELECT id, app_id, name, created_at, expires_at, requests_per_second, burst, last_used_at
                       FROM api_keys WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2";
            let rows = client.query(sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
            let rows: Result<Vec<_>, _> =
                rows.iter().map(|row| api_key(row).map(|key| (key.id.into_bytes(), key))).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }

    pub(in crate::store) async fn key(&self, key: &str) -> Result<Option<ApiKey>, StoreError> {
        let context = "read key";
        self.run(context, async |client| match find(&client, TABLE, key, "").await? {
            Some(id) => get(&client, id).await,
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn revoke_key(&self, key: &str) -> Result<bool, StoreError> {
        let context = "revoke key";
        self.transact(context, async |tx| {
            // Updated before the key itself, as on creation, so that the two do not deadlock.
            let raise = "UPDATE api_keys_state SET version = version + 1, keys = keys - 1 RETURNING version";
            let version: i64 = tx.query_one(raise, &[]).await.map_err(failed(context))?.get(0);
            let Some(id) = find(&tx, TABLE, key, "FOR UPDATE").await? else {
                return Ok(Rollback(false));
            };
            if self.is_audited() {
                let before = get(&tx, id).await?;
                self.record_change(&tx, || Change::deleted(id, before.as_ref())).await?;
            }
            let delete = "WITH gone AS (DELETE FROM api_keys WHERE id = $1 RETURNING hash)
                          INSERT INTO revoked_keys (version, hash) SELECT $2, hash FROM gone";
            tx.execute(delete, &[&id, &version]).await.map_err(failed(context))?;
            let delete = "DELETE FROM revoked_keys WHERE version <= $1";
            tx.execute(delete, &[&(version - REVOCATIONS_KEPT)]).await.map_err(failed(context))?;
            Ok(Commit(true, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn revocations(&self, since: u64) -> Result<Revocations, StoreError> {
        let context = "read revoked keys";
        self.run(context, async |client| {
            // One statement, so that both are from the same snapshot.
            let sql = "SELECT s.version, causality_now_ms(), r.hash
                       FROM api_keys_state s LEFT JOIN revoked_keys r ON r.version > $1";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let since_version = i64::try_from(since).unwrap_or(i64::MAX);
            let rows = client.query(&statement, &[&since_version]).await.map_err(failed(context))?;
            let first = rows.first().ok_or_else(|| damaged(context, "api_keys_state is empty"))?;
            let revoked: Result<Vec<_>, _> =
                rows.iter().filter_map(|row| row.get::<_, Option<&[u8]>>(2)).map(hash).collect();
            Ok(Revocations::of(since, first.get(0), revoked?, first.get(1)))
        })
        .await
    }

    pub(in crate::store) async fn keys_after(&self, version: u64) -> Result<Vec<HashedKey>, StoreError> {
        let context = "read keys";
        self.run(context, async |client| {
            let sql = "SELECT id, app_id, hash, expires_at, requests_per_second, burst, version FROM api_keys
                       WHERE version > $1 ORDER BY version LIMIT $2";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            let after = i64::try_from(version).unwrap_or(i64::MAX);
            let rows = client.query(&statement, &[&after, &(KEYS_PAGE as i64)]).await.map_err(failed(context))?;
            rows.iter().map(hashed_key).collect()
        })
        .await
    }

    pub(in crate::store) async fn record_key_use(&self, used: &[(Uuid, i64)]) -> Result<(), StoreError> {
        let context = "note use of keys";
        let (ids, minutes): (Vec<Uuid>, Vec<i64>) = used.iter().copied().unzip();
        self.run(context, async |client| {
            // A locked row is being updated by another gateway, or revoked.
            let sql = "WITH used AS (SELECT * FROM unnest($1::uuid[], $2::bigint[]) AS u (id, at)),
                            free AS (SELECT k.id, used.at FROM api_keys k JOIN used USING (id)
                                     WHERE coalesce(k.last_used_at, 0) < used.at FOR NO KEY UPDATE OF k SKIP LOCKED)
                       UPDATE api_keys SET last_used_at = greatest(free.at, created_at) FROM free WHERE free.id = api_keys.id";
            let statement = client.prepare_cached(sql).await.map_err(failed(context))?;
            client.execute(&statement, &[&ids, &minutes]).await.map_err(failed(context))?;
            Ok(())
        })
        .await
    }
}

async fn get(client: &Client, id: Uuid) -> Result<Option<ApiKey>, StoreError> {
    let sql = "SELECT id, app_id, name, created_at, expires_at, requests_per_second, burst, last_used_at
               FROM api_keys WHERE id = $1";
    let row = client.query_opt(sql, &[&id]).await.map_err(failed("read key"))?;
    row.map(|row| api_key(&row)).transpose()
}

fn api_key(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey {
        id: row.get(0),
        app_id: row.get(1),
        name: row.get(2),
        created_at: timestamp(row.get(3))?,
        expires_at: row.get::<_, Option<i64>>(4).map(timestamp).transpose()?,
        limits: limits(row, 5)?,
        last_used_at: row.get::<_, Option<i64>>(7).map(timestamp).transpose()?,
    })
}

fn hashed_key(row: &Row) -> Result<HashedKey, StoreError> {
    Ok(HashedKey {
        id: row.get(0),
        app_id: row.get(1),
        hash: hash(row.get(2))?,
        expires_at_ms: row.get(3),
        limits: limits(row, 4)?,
        version: row.get::<_, i64>(6).cast_unsigned(),
    })
}

fn limits(row: &Row, column: usize) -> Result<KeyLimits, StoreError> {
    let limit = |column| -> Result<Option<u32>, StoreError> {
        let limit = row.get::<_, Option<i64>>(column).map(u32::try_from).transpose();
        limit.map_err(|error| damaged("read key", error))
    };
    Ok(KeyLimits { requests_per_second: limit(column)?, burst: limit(column + 1)? })
}

fn hash(bytes: &[u8]) -> Result<KeyHash, StoreError> {
    bytes.try_into().map_err(|error| damaged("read key", error))
}
