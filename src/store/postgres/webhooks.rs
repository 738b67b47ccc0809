//! Webhooks, whose auth configs are sealed in the database.

use jiff::Timestamp;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::documents::{find, name_taken, refuse_taken};
use super::{Engine, Wake, damaged, failed, timestamp};
use crate::store::{Auth, NewWebhook, Page, PageRequest, StoreError, StoreErrorKind, Webhook, cursor};

pub(super) const TABLE: &str = "webhooks";
const LIST: u8 = b'w';
const COLUMNS: &str = "id, name, url, method, enabled, timeout_ms, headers, auth_type, auth_config, disabled_reason, \
     created_at, updated_at";
/// The field that a sealed value is bound to, with the webhook's id.
const SEALED_FIELD: &str = "auth_config";

impl Engine {
    pub(in crate::store) async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook, StoreError> {
        let context = "create webhook";
        self.call(context, async {
            let mut new = new;
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            refuse_taken(&*tx, TABLE, &new.name, None).await?;
            keep_secrets(&mut new.auth, None)?;
            let created = timestamp(now(&*tx).await?)?;
            let id = Uuid::now_v7();
            let webhook =
                Webhook { id, document: new, disabled_reason: None, created_at: created, updated_at: created };
            self.put(&*tx, &webhook).await?;
            self.commit(tx, Wake::Changes, context).await?;
            client.whole = true;
            Ok(webhook)
        })
        .await
    }

    pub(in crate::store) async fn webhook(&self, key: &str) -> Result<Option<Webhook>, StoreError> {
        let context = "read webhook";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let found = match find(&**client, TABLE, key, "").await? {
                Some(id) => self.get(&**client, id).await?,
                None => None,
            };
            client.whole = true;
            Ok(found)
        })
        .await
    }

    pub(in crate::store) async fn webhooks(&self, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        let context = "list webhooks";
        let after = cursor::after::<[u8; 16]>(LIST, &page)?.map(Uuid::from_bytes);
        self.call(context, async {
            let mut client = self.client(context).await?;
            let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2");
            let rows = client.query(&sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
            client.whole = true;
            let mut webhooks = Vec::with_capacity(rows.len());
            for row in &rows {
                let webhook = self.unseal(row)?;
                webhooks.push((webhook.id.into_bytes(), webhook));
            }
            Ok(cursor::page(LIST, &page, webhooks))
        })
        .await
    }

    pub(in crate::store) async fn replace_webhook(
        &self,
        key: &str,
        new: NewWebhook,
        as_of: Option<Timestamp>,
    ) -> Result<Webhook, StoreError> {
        let context = "replace webhook";
        self.call(context, async {
            let mut new = new;
            let not_found = || StoreError::new(StoreErrorKind::NotFound, context);
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            let id = find(&*tx, TABLE, key, "FOR UPDATE").await?.ok_or_else(not_found)?;
            refuse_taken(&*tx, TABLE, &new.name, Some(id)).await?;
            // What was sealed with a lost key can still be written over as a whole.
            if new.auth.keeps_secrets() {
                let old = self.get(&*tx, id).await?.ok_or_else(not_found)?;
                keep_secrets(&mut new.auth, Some(&old.document.auth))?;
            }
            let sql = "SELECT disabled_reason, created_at, updated_at, greatest(causality_now_ms(), updated_at + 1)
                       FROM webhooks WHERE id = $1";
            let row = tx.query_one(sql, &[&id]).await.map_err(failed(context))?;
            if as_of.is_some_and(|as_of| as_of.as_millisecond() != row.get::<_, i64>(2)) {
                tx.rollback().await.map_err(failed(context))?;
                client.whole = true;
                return Err(StoreError::new(StoreErrorKind::Changed, context));
            }
            let reason: Option<String> = row.get(0);
            let webhook = Webhook {
                id,
                disabled_reason: reason.filter(|_| !new.enabled),
                document: new,
                created_at: timestamp(row.get(1))?,
                updated_at: timestamp(row.get(3))?,
            };
            self.put(&*tx, &webhook).await?;
            // One that is enabled again makes due what it is owed.
            self.commit(tx, Wake::Both, context).await?;
            client.whole = true;
            Ok(webhook)
        })
        .await
    }

    pub(in crate::store) async fn delete_webhook(&self, key: &str) -> Result<bool, StoreError> {
        let context = "delete webhook";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            // Waits for those who are about to owe it something or to name it.
            let Some(id) = find(&*tx, TABLE, key, "FOR UPDATE").await? else {
                self.commit(tx, Wake::Nobody, context).await?;
                client.whole = true;
                return Ok(false);
            };
            let users = tx
                .query(
                "SELECT 'rule ' || r.name FROM webhook_uses u JOIN rules r ON r.id = u.user_id WHERE u.webhook_id = $1
                 UNION ALL
                 SELECT 'anomaly ' || a.name FROM webhook_uses u JOIN anomaly_configs a ON a.id = u.user_id
                 WHERE u.webhook_id = $1",
                &[&id],
                )
                .await
                .map_err(failed(context))?;
            let users: Vec<String> = users.iter().map(|row| row.get(0)).collect();
            if !users.is_empty() {
                tx.rollback().await.map_err(failed(context))?;
                client.whole = true;
                return Err(StoreError::new(StoreErrorKind::InUse(users), context));
            }
            tx.execute(
                "UPDATE deliveries SET status = 'cancelled', due_at = NULL, finished_at = causality_now_ms(),
                     last_error = 'webhook was deleted'
                 WHERE webhook_id = $1 AND due_at IS NOT NULL",
                &[&id],
            )
            .await
            .map_err(failed(context))?;
            tx.execute("DELETE FROM webhooks WHERE id = $1", &[&id]).await.map_err(failed(context))?;
            self.commit(tx, Wake::Changes, context).await?;
            client.whole = true;
            Ok(true)
        })
        .await
    }

    pub(in crate::store) async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        let context = "disable webhook";
        self.call(context, async {
            let mut client = self.client(context).await?;
            let tx = client.transaction().await.map_err(failed(context))?;
            let sql = "UPDATE webhooks SET enabled = false, disabled_reason = $2,
                           updated_at = greatest(causality_now_ms(), updated_at + 1)
                       WHERE id = $1";
            let changed = tx.execute(sql, &[&id, &reason]).await.map_err(failed(context))?;
            self.commit(tx, Wake::Changes, context).await?;
            client.whole = true;
            if changed == 0 { Err(StoreError::new(StoreErrorKind::NotFound, context)) } else { Ok(()) }
        })
        .await
    }

    async fn put(&self, client: &impl GenericClient, webhook: &Webhook) -> Result<(), StoreError> {
        let context = "write webhook";
        let document = &webhook.document;
        let sealed = match (&document.auth, &self.0.sealer) {
            (Auth::None, _) => None,
            (auth, Some(sealer)) => {
                let config = serde_json::to_vec(auth).map_err(|error| damaged(context, error))?;
                Some(sealer.seal(webhook.id, SEALED_FIELD, config)?)
            }
            (_, None) => {
                let detail = "a webhook with a secret needs secrets_key, the same in every process";
                return Err(StoreError::caused(StoreErrorKind::Refused, context, detail));
            }
        };
        let headers = serde_json::to_string(&document.headers).map_err(|error| damaged(context, error))?;
        let timeout_ms = i64::try_from(document.timeout_ms).unwrap_or(i64::MAX);
        let (created, updated) = (webhook.created_at.as_millisecond(), webhook.updated_at.as_millisecond());
        client
            .execute(
                "INSERT INTO webhooks (id, name, url, method, enabled, timeout_ms, headers, auth_type,
                     auth_config, disabled_reason, created_at, updated_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url, method = excluded.method,
                     enabled = excluded.enabled, timeout_ms = excluded.timeout_ms, headers = excluded.headers,
                     auth_type = excluded.auth_type, auth_config = excluded.auth_config,
                     disabled_reason = excluded.disabled_reason, updated_at = excluded.updated_at",
                &[
                    &webhook.id,
                    &document.name,
                    &document.url,
                    &document.method,
                    &document.enabled,
                    &timeout_ms,
                    &headers,
                    &document.auth.kind(),
                    &sealed,
                    &webhook.disabled_reason,
                    &created,
                    &updated,
                ],
            )
            .await
            .map_err(name_taken(context))?;
        Ok(())
    }

    async fn get(&self, client: &impl GenericClient, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = $1");
        let row = client.query_opt(&sql, &[&id]).await.map_err(failed("read webhook"))?;
        row.map(|row| self.unseal(&row)).transpose()
    }

    fn unseal(&self, row: &Row) -> Result<Webhook, StoreError> {
        let context = "read webhook";
        let mut document = NewWebhook {
            name: row.get(1),
            url: row.get(2),
            method: row.get(3),
            enabled: row.get(4),
            timeout_ms: row.get::<_, i64>(5) as u64,
            headers: serde_json::from_str(row.get(6)).map_err(|error| damaged(context, error))?,
            auth: Auth::None,
        };
        let id: Uuid = row.get(0);
        if let Some(sealed) = row.get::<_, Option<Vec<u8>>>(8) {
            let sealer = self.0.sealer.as_ref().ok_or_else(|| {
                let detail = format!("webhook {} has a secret, and secrets_key is not set", document.name);
                StoreError::caused(StoreErrorKind::Refused, context, detail)
            })?;
            let config = sealer.unseal(id, SEALED_FIELD, sealed, &document.name)?;
            document.auth = serde_json::from_slice(&config).map_err(|error| damaged(context, error))?;
        }
        Ok(Webhook {
            id,
            document,
            disabled_reason: row.get(9),
            created_at: timestamp(row.get(10))?,
            updated_at: timestamp(row.get(11))?,
        })
    }
}

/// Fails when a stored secret cannot be read with the key at hand, or without one.
pub(super) async fn check_key(engine: &Engine) -> Result<(), StoreError> {
    let context = "check secrets key";
    engine
        .call(context, async {
            let mut client = engine.client(context).await?;
            let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE auth_config IS NOT NULL ORDER BY id DESC LIMIT 1");
            let row = client.query_opt(&sql, &[]).await.map_err(failed(context))?;
            client.whole = true;
            match row.map(|row| engine.unseal(&row)).transpose() {
                Err(error) if error.kind == StoreErrorKind::Corrupt => Err(StoreError::caused(
                    StoreErrorKind::Refused,
                    context,
                    format!("{error}: secrets_key is not the one that the stored secrets were sealed with"),
                )),
                checked => checked.map(|_| ()),
            }
        })
        .await
}

async fn now(client: &impl GenericClient) -> Result<i64, StoreError> {
    let row = client.query_one("SELECT causality_now_ms()", &[]).await.map_err(failed("read clock"))?;
    Ok(row.get(0))
}

fn keep_secrets(auth: &mut Auth, old: Option<&Auth>) -> Result<(), StoreError> {
    auth.keep_secrets(old)
        .map_err(|field| StoreError::new(StoreErrorKind::NoSecretToKeep { field }, "keep webhook secret"))
}
