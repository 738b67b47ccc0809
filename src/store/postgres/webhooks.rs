//! Webhooks; their secrets are sealed in the database.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::client::Client;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::{damaged, failed};
use super::names::{find, name_taken, refuse_taken};
use super::row::timestamp;
use super::wake::Wake;
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::delivery::AbandonedDeliveries;
use crate::store::documents::{Auth, NewWebhook, Webhook};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};
use crate::store::secrets::wrong_key;

pub(super) const TABLE: &str = "webhooks";
const LIST: u8 = b'w';
const COLUMNS: &str = "id, name, url, method, enabled, timeout_ms, headers, auth_type, auth_config, disabled_reason, \
     created_at, updated_at, hidden, int64_as_string, deliveries_given_up";
/// Sealed values are bound to these names and the webhook's id.
const SEALED_FIELD: &str = "auth_config";
const HIDDEN_FIELD: &str = "hidden";

impl Engine {
    pub(in crate::store) async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook, StoreError> {
        let context = "create webhook";
        self.transact(context, async |tx| {
            let webhook = self.create_webhook_in(&tx, new.clone()).await?;
            self.record_change(&tx, || Change::created(&webhook)).await?;
            Ok(Commit(webhook, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn webhook(&self, key: &str) -> Result<Option<Webhook>, StoreError> {
        let context = "read webhook";
        self.run(context, async |client| match find(&client, TABLE, key, "").await? {
            Some(id) => self.webhook_in(&client, id).await,
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn webhooks(&self, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        let context = "list webhooks";
        let after = cursor::after::<[u8; 16]>(LIST, &page)?.map(Uuid::from_bytes);
        self.run(context, async |client| {
            let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE $1::uuid IS NULL OR id > $1 ORDER BY id LIMIT $2");
            let rows = client.query(&sql, &[&after, &(page.limit as i64 + 1)]).await.map_err(failed(context))?;
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
        self.transact(context, async |tx| {
            let before = match find(&tx, TABLE, key, "FOR UPDATE").await? {
                Some(id) => self.audited_before(&tx, id).await?,
                None => None,
            };
            let webhook = self.replace_webhook_in(&tx, key, new.clone(), as_of).await?;
            self.record_change(&tx, || Change::replaced(before.as_ref(), &webhook)).await?;
            // Enabling a webhook makes its backlog due.
            Ok(Commit(webhook, Wake::Both))
        })
        .await
    }

    pub(in crate::store) async fn delete_webhook(&self, key: &str) -> Result<bool, StoreError> {
        let context = "delete webhook";
        self.transact(context, async |tx| {
            // Waits for transactions that are about to insert a delivery to it or to use it.
            let Some(id) = find(&tx, TABLE, key, "FOR UPDATE").await? else {
                return Ok(Rollback(false));
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
            let before = self.audited_before(&tx, id).await?;
            self.record_change(&tx, || Change::deleted(id, before.as_ref())).await?;
            tx.execute("DELETE FROM webhooks WHERE id = $1", &[&id]).await.map_err(failed(context))?;
            Ok(Commit(true, Wake::Changes))
        })
        .await
    }

    pub(in crate::store) async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        let context = "disable webhook";
        self.transact(context, async |tx| {
            let sql = "UPDATE webhooks SET enabled = false, disabled_reason = $2,
                           updated_at = greatest(causality_now_ms(), updated_at + 1),
                           deliveries_given_up = CASE WHEN enabled THEN 0 ELSE deliveries_given_up END
                       WHERE id = $1";
            let changed = tx.execute(sql, &[&id, &reason]).await.map_err(failed(context))?;
            match changed {
                0 => Err(StoreError::new(StoreErrorKind::NotFound, context)),
                _ => Ok(Commit((), Wake::Changes)),
            }
        })
        .await
    }

    pub(in crate::store) async fn abandoned_deliveries(&self) -> Result<Vec<AbandonedDeliveries>, StoreError> {
        let context = "count given up deliveries";
        self.run(context, async |client| {
            let sql = "SELECT name, deliveries_given_up FROM webhooks WHERE NOT enabled AND deliveries_given_up > 0
                       ORDER BY name";
            let rows = client.query(sql, &[]).await.map_err(failed(context))?;
            let abandoned =
                |row: &Row| AbandonedDeliveries { webhook: row.get(0), deliveries: row.get::<_, i64>(1) as u64 };
            Ok(rows.iter().map(abandoned).collect())
        })
        .await
    }

    fn seal(&self, id: Uuid, field: &str, clear: &impl serde::Serialize) -> Result<Vec<u8>, StoreError> {
        let context = "write webhook";
        let Some(sealer) = &self.0.sealer else {
            let detail = "a webhook with a secret (in auth_config, a header or the URL) needs secrets_key, the same in \
                          every process";
            return Err(StoreError::caused(StoreErrorKind::Refused, context, detail));
        };
        sealer.seal(id, field, serde_json::to_vec(clear).map_err(|error| damaged(context, error))?)
    }

    pub(super) async fn create_webhook_in(&self, client: &Client, mut new: NewWebhook) -> Result<Webhook, StoreError> {
        refuse_taken(client, TABLE, &new.name, None).await?;
        new.restore_masked_secrets(None)?;
        let created = timestamp(now(client).await?)?;
        let id = Uuid::now_v7();
        let webhook = Webhook {
            id,
            document: new,
            disabled_reason: None,
            deliveries_given_up: 0,
            created_at: created,
            updated_at: created,
        };
        self.put(client, &webhook).await?;
        Ok(webhook)
    }

    pub(super) async fn replace_webhook_in(
        &self,
        client: &Client,
        key: &str,
        mut new: NewWebhook,
        as_of: Option<Timestamp>,
    ) -> Result<Webhook, StoreError> {
        let context = "replace webhook";
        let not_found = || StoreError::new(StoreErrorKind::NotFound, context);
        let id = find(client, TABLE, key, "FOR UPDATE").await?.ok_or_else(not_found)?;
        refuse_taken(client, TABLE, &new.name, Some(id)).await?;
        // A webhook sealed with a lost key can still be overwritten as a whole.
        if new.has_masked_secrets() {
            let old = self.webhook_in(client, id).await?.ok_or_else(not_found)?;
            new.restore_masked_secrets(Some(&old.document))?;
        }
        let sql = "SELECT disabled_reason, created_at, updated_at, greatest(causality_now_ms(), updated_at + 1),
                       enabled, deliveries_given_up
                   FROM webhooks WHERE id = $1";
        let row = client.query_one(sql, &[&id]).await.map_err(failed(context))?;
        if as_of.is_some_and(|as_of| as_of.as_millisecond() != row.get::<_, i64>(2)) {
            return Err(StoreError::new(StoreErrorKind::Changed, context));
        }
        let reason: Option<String> = row.get(0);
        let webhook = Webhook {
            id,
            disabled_reason: reason.filter(|_| !new.enabled),
            // Counted from the time it was last disabled.
            deliveries_given_up: if row.get(4) && !new.enabled { 0 } else { row.get::<_, i64>(5) as u64 },
            document: new,
            created_at: timestamp(row.get(1))?,
            updated_at: timestamp(row.get(3))?,
        };
        self.put(client, &webhook).await?;
        Ok(webhook)
    }

    async fn put(&self, client: &Client, webhook: &Webhook) -> Result<(), StoreError> {
        let context = "write webhook";
        let document = &webhook.document;
        let sealed = match &document.auth {
            Auth::None => None,
            auth => Some(self.seal(webhook.id, SEALED_FIELD, auth)?),
        };
        let hidden = document.sealed_parts().map(|hidden| self.seal(webhook.id, HIDDEN_FIELD, &hidden)).transpose()?;
        let headers = serde_json::to_string(&document.masked_headers()).map_err(|error| damaged(context, error))?;
        let timeout_ms = i64::try_from(document.timeout_ms).unwrap_or(i64::MAX);
        let (created, updated) = (webhook.created_at.as_millisecond(), webhook.updated_at.as_millisecond());
        client
            .execute(
                "INSERT INTO webhooks (id, name, url, method, enabled, timeout_ms, headers, auth_type,
                     auth_config, disabled_reason, created_at, updated_at, hidden, int64_as_string,
                     deliveries_given_up)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
                 ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url, method = excluded.method,
                     enabled = excluded.enabled, timeout_ms = excluded.timeout_ms, headers = excluded.headers,
                     auth_type = excluded.auth_type, auth_config = excluded.auth_config,
                     disabled_reason = excluded.disabled_reason, updated_at = excluded.updated_at,
                     hidden = excluded.hidden, int64_as_string = excluded.int64_as_string,
                     deliveries_given_up = excluded.deliveries_given_up",
                &[
                    &webhook.id,
                    &document.name,
                    &document.masked_url(),
                    &document.method,
                    &document.enabled,
                    &timeout_ms,
                    &headers,
                    &document.auth.kind(),
                    &sealed,
                    &webhook.disabled_reason,
                    &created,
                    &updated,
                    &hidden,
                    &document.int64_as_string,
                    &(webhook.deliveries_given_up as i64),
                ],
            )
            .await
            .map_err(name_taken(context))?;
        Ok(())
    }

    /// The previous version for the audit record; `None` if changes are not recorded.
    async fn audited_before(&self, client: &Client, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        if !self.is_audited() {
            return Ok(None);
        }
        readable(self.webhook_in(client, id).await)
    }

    pub(super) async fn webhook_in(&self, client: &Client, id: Uuid) -> Result<Option<Webhook>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = $1");
        let row = client.query_opt(&sql, &[&id]).await.map_err(failed("read webhook"))?;
        row.map(|row| self.unseal(&row)).transpose()
    }

    fn unseal(&self, row: &Row) -> Result<Webhook, StoreError> {
        let context = "read webhook";
        let mut webhook = clear(row)?;
        let (id, document) = (webhook.id, &mut webhook.document);
        let open = |field: &str, sealed: Vec<u8>, name: &str| {
            let sealer = self.0.sealer.as_ref().ok_or_else(|| {
                let detail = format!("webhook {name} has a secret, and secrets_key is not set");
                StoreError::caused(StoreErrorKind::Refused, context, detail)
            })?;
            sealer.unseal(id, field, sealed, name)
        };
        if let Some(sealed) = row.get::<_, Option<Vec<u8>>>(8) {
            let config = open(SEALED_FIELD, sealed, &document.name)?;
            document.auth = serde_json::from_slice(&config).map_err(|error| damaged(context, error))?;
        }
        if let Some(sealed) = row.get::<_, Option<Vec<u8>>>(12) {
            let hidden = open(HIDDEN_FIELD, sealed, &document.name)?;
            document.restore_sealed(serde_json::from_slice(&hidden).map_err(|error| damaged(context, error))?);
        }
        Ok(webhook)
    }
}

/// A webhook sealed with a lost key can still be overwritten and deleted.
pub(super) fn readable(read: Result<Option<Webhook>, StoreError>) -> Result<Option<Webhook>, StoreError> {
    match read {
        Err(error) if matches!(error.kind, StoreErrorKind::Corrupt | StoreErrorKind::Refused) => Ok(None),
        read => read,
    }
}

/// A row without its secrets.
fn clear(row: &Row) -> Result<Webhook, StoreError> {
    let document = NewWebhook {
        name: row.get(1),
        url: row.get(2),
        method: row.get(3),
        enabled: row.get(4),
        timeout_ms: row.get::<_, i64>(5) as u64,
        headers: serde_json::from_str(row.get(6)).map_err(|error| damaged("read webhook", error))?,
        int64_as_string: row.get(13),
        auth: Auth::None,
    };
    Ok(Webhook {
        id: row.get(0),
        document,
        disabled_reason: row.get(9),
        deliveries_given_up: row.get::<_, i64>(14) as u64,
        created_at: timestamp(row.get(10))?,
        updated_at: timestamp(row.get(11))?,
    })
}

/// Fails if stored secrets were sealed with another key, or if there are some but no key. Stores a value that later
/// processes check their key with.
pub(super) async fn check_key(engine: &Engine, replaced: bool) -> Result<(), StoreError> {
    let context = "check secrets key";
    engine
        .transact(context, async |tx| {
            let sql = format!(
                "SELECT {COLUMNS} FROM webhooks WHERE auth_config IS NOT NULL OR hidden IS NOT NULL
                 ORDER BY id DESC LIMIT 1"
            );
            let any_secret = tx.query_opt(&sql, &[]).await.map_err(failed(context))?;
            let Some(sealer) = &engine.0.sealer else {
                let unsealed = any_secret.map(|row| engine.unseal(&row)).transpose();
                return unsealed.map(|_| Rollback(()));
            };
            // Databases of versions without a check value have sealed secrets to test instead. Of two processes that
            // start together, one writes the value and the other is checked with it.
            let fits = any_secret.is_none_or(|row| engine.unseal(&row).is_ok());
            if fits || replaced {
                let on_conflict = if replaced { "UPDATE SET sealed = excluded.sealed" } else { "NOTHING" };
                let sql =
                    format!("INSERT INTO secrets_check (id, sealed) VALUES (1, $1) ON CONFLICT (id) DO {on_conflict}");
                tx.execute(&sql, &[&sealer.check_value()?]).await.map_err(failed(context))?;
            }
            let check = tx.query_opt("SELECT sealed FROM secrets_check", &[]).await.map_err(failed(context))?;
            match check {
                Some(check) if sealer.opens(check.get(0)) => {
                    if !fits {
                        tracing::warn!(
                            "secrets_key was replaced: webhooks with secrets cannot be called until they are written again"
                        );
                    }
                    Ok(Commit((), Wake::None))
                }
                _ => Err(wrong_key()),
            }
        })
        .await
}

/// Seals secrets that older versions stored in clear text. Without a key they stay, with a warning in the log.
pub(super) async fn seal_clear_secrets(engine: &Engine) -> Result<(), StoreError> {
    let context = "seal webhook secrets";
    engine
        .transact(context, async |tx| {
            let sql = format!("SELECT {COLUMNS} FROM webhooks ORDER BY id");
            for row in tx.query(&sql, &[]).await.map_err(failed(context))? {
                let Webhook { id, document, .. } = clear(&row)?;
                if !document.has_clear_secrets() {
                    continue;
                }
                if engine.0.sealer.is_none() {
                    tracing::warn!(
                        webhook = document.name,
                        "a header or the URL of the webhook holds a secret that is stored in clear: set secrets_key"
                    );
                    continue;
                }
                let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = $1 FOR NO KEY UPDATE");
                let row = tx.query_opt(&sql, &[&id]).await.map_err(failed(context))?;
                // Webhooks sealed with a lost key must be written again anyway.
                let Some(Ok(webhook)) = row.map(|row| engine.unseal(&row)) else { continue };
                engine.put(&tx, &webhook).await?;
            }
            Ok(Commit((), Wake::None))
        })
        .await
}

async fn now(client: &Client) -> Result<i64, StoreError> {
    let row = client.query_one("SELECT causality_now_ms()", &[]).await.map_err(failed("read clock"))?;
    Ok(row.get(0))
}
