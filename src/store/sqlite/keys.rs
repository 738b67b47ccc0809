//! API keys. Only the SHA-256 of a key is kept.

use rusqlite::{OptionalExtension, Row, params};
use uuid::Uuid;

use super::{Engine, Wake, documents, failed, now_ms, timestamp, uuid};
use crate::store::{ApiKey, NewApiKey, Page, PageRequest, StoreError, cursor, key};

const TABLE: &str = "api_keys";
const LIST: u8 = b'k';

impl Engine {
    pub(in crate::store) async fn create_key(&self, new: NewApiKey) -> Result<(ApiKey, String), StoreError> {
        let context = "create key";
        let (key, hash) = key::generate()?;
        let stored = self
            .write(Wake::Changes, context, move |connection| {
                documents::refuse_taken(connection, TABLE, &new.name, None)?;
                let (id, now) = (Uuid::now_v7(), now_ms());
                connection
                    .execute(
                        "INSERT INTO api_keys (id, app_id, name, hash, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![id.into_bytes(), new.app_id, new.name, hash, now],
                    )
                    .map_err(failed(context))?;
                let created_at = timestamp(now).map_err(failed(context))?;
                Ok(ApiKey { id, app_id: new.app_id, name: new.name, created_at })
            })
            .await?;
        Ok((stored, key))
    }

    pub(in crate::store) async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let after = cursor::after::<[u8; 16]>(LIST, &page)?;
        let context = "list keys";
        self.read(context, move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT id, app_id, name, created_at FROM api_keys WHERE id > ?1 ORDER BY id LIMIT ?2")
                .map_err(failed(context))?;
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
        self.read("read key", move |connection| {
            let Some(id) = documents::find(connection, TABLE, &key)? else { return Ok(None) };
            connection
                .query_row(
                    "SELECT id, app_id, name, created_at FROM api_keys WHERE id = ?1",
                    [id.into_bytes()],
                    api_key,
                )
                .optional()
                .map_err(failed("read key"))
        })
        .await
    }

    pub(in crate::store) async fn revoke_key(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.write(Wake::Changes, "revoke key", move |connection| {
            let Some(id) = documents::find(connection, TABLE, &key)? else { return Ok(false) };
            connection
                .execute("DELETE FROM api_keys WHERE id = ?1", [id.into_bytes()])
                .map_err(failed("revoke key"))?;
            Ok(true)
        })
        .await
    }
}

fn api_key(row: &Row<'_>) -> rusqlite::Result<ApiKey> {
    Ok(ApiKey { id: uuid(row.get(0)?), app_id: row.get(1)?, name: row.get(2)?, created_at: timestamp(row.get(3)?)? })
}
