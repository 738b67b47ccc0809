//! API keys. Only the SHA-256 of a key is kept.

use tokio_postgres::Row;
use uuid::Uuid;

use super::documents::{find, name_taken};
use super::{Engine, Wake, failed, timestamp};
use crate::store::{ApiKey, NewApiKey, Page, PageRequest, StoreError, cursor, key};

const TABLE: &str = "api_keys";
const LIST: u8 = b'k';

impl Engine {
    pub(in crate::store) async fn create_key(&self, new: NewApiKey) -> Result<(ApiKey, String), StoreError> {
        let context = "create key";
        let (key, hash) = key::generate()?;
        self.call(context, async {
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            let id = Uuid::now_v7();
            let sql = "INSERT INTO api_keys (id, app_id, name, hash, created_at)
                       VALUES ($1, $2, $3, $4, causality_now_ms()) RETURNING id, app_id, name, created_at";
            let row = tx.query_one(sql, &[&id, &new.app_id, &new.name, &hash]).await.map_err(name_taken(context))?;
            self.commit(tx, Wake::Changes, context).await?;
            client.whole = true;
            Ok((api_key(&row)?, key))
        })
        .await
    }

    pub(in crate::store) async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let context = "list keys";
        let after = cursor::after::<[u8; 16]>(LIST, &page)?.map(Uuid::from_bytes);
        self.call(context, async {
            let mut client = self.client(context).await?;
            let sql = "SELECT id, app_id, name, created_at FROM api_keys WHERE $1::uuid IS NULL OR id > $1
                       ORDER BY id LIMIT $2";
            let rows = client.query(sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
            client.whole = true;
            let rows: Result<Vec<_>, _> =
                rows.iter().map(|row| api_key(row).map(|key| (key.id.into_bytes(), key))).collect();
            Ok(cursor::page(LIST, &page, rows?))
        })
        .await
    }

    pub(in crate::store) async fn key(&self, key: &str) -> Result<Option<ApiKey>, StoreError> {
        let context = "read key";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let mut found = None;
            if let Some(id) = find(&**client, TABLE, key, "").await? {
                let sql = "SELECT id, app_id, name, created_at FROM api_keys WHERE id = $1";
                found = client.query_opt(sql, &[&id]).await.map_err(failed(context))?;
            }
            client.whole = true;
            found.map(|row| api_key(&row)).transpose()
        })
        .await
    }

    pub(in crate::store) async fn revoke_key(&self, key: &str) -> Result<bool, StoreError> {
        let context = "revoke key";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            let id = find(&*tx, TABLE, key, "FOR UPDATE").await?;
            tx.execute("DELETE FROM api_keys WHERE id = $1", &[&id]).await.map_err(failed(context))?;
            self.commit(tx, if id.is_some() { Wake::Changes } else { Wake::Nobody }, context).await?;
            client.whole = true;
            Ok(id.is_some())
        })
        .await
    }
}

fn api_key(row: &Row) -> Result<ApiKey, StoreError> {
    Ok(ApiKey { id: row.get(0), app_id: row.get(1), name: row.get(2), created_at: timestamp(row.get(3))? })
}
