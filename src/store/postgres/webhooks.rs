//! What only webhooks need: disabling, and the key that their secrets are sealed with.

use tokio_postgres::Row;
use uuid::Uuid;

use super::documents::rows;
use super::engine::Ending::{Commit, Rollback};
use super::engine::Engine;
use super::error::failed;
use super::wake::Wake;
use crate::store::delivery::AbandonedDeliveries;
use crate::store::documents::NewWebhook;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::wrong_key;

impl Engine {
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
}

/// Fails if stored secrets were sealed with another key, or if there are some but no key. Stores a value that later
/// processes check their key with.
pub(super) async fn check_key(engine: &Engine, replaced: bool) -> Result<(), StoreError> {
    let context = "check secrets key";
    engine
        .transact(context, async |tx| {
            let last = "WHERE d.auth_config IS NOT NULL OR d.hidden IS NOT NULL ORDER BY d.id DESC LIMIT 1";
            let any_secret = rows::<NewWebhook>(&tx, last, &[]).await?.pop();
            let Some(sealer) = &engine.0.sealer else {
                let unsealed = any_secret.map(|row| engine.read_row::<NewWebhook>(&row)).transpose();
                return unsealed.map(|_| Rollback(()));
            };
            // Databases of versions without a check value have sealed secrets to test instead. Of two processes that
            // start together, one writes the value and the other is checked with it.
            let fits = any_secret.is_none_or(|row| engine.read_row::<NewWebhook>(&row).is_ok());
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
    engine
        .transact("seal webhook secrets", async |tx| {
            for row in rows::<NewWebhook>(&tx, "ORDER BY d.id", &[]).await? {
                let document = NewWebhook::in_clear(&row)?;
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
                let locked = rows::<NewWebhook>(&tx, "WHERE d.id = $1 FOR NO KEY UPDATE OF d", &[&row.id]).await?.pop();
                let Some(row) = locked else { continue };
                // Webhooks sealed with a lost key must be written again anyway.
                let Ok(webhook) = engine.read_row::<NewWebhook>(&row) else { continue };
                engine.put::<NewWebhook>(&tx, &row, &webhook).await?;
            }
            Ok(Commit((), Wake::None))
        })
        .await
}
