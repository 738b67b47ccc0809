//! What only webhooks need: disabling, and the key that their secrets are sealed with.

use rusqlite::{Connection, OptionalExtension, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::documents::{put, rows};
use super::engine::{Engine, Wake};
use super::error::failed;
use crate::store::delivery::AbandonedDeliveries;
use crate::store::documents::{Document, NewWebhook};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::{Sealer, wrong_key};

impl Engine {
    pub(in crate::store) async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        let reason = reason.to_owned();
        let context = "disable webhook";
        self.write(Wake::Changes, context, move |connection| {
            let changed = connection
                .execute(
                    "UPDATE webhooks SET enabled = false, disabled_reason = ?2, updated_at = max(?3, updated_at + 1),
                         deliveries_given_up = CASE WHEN enabled THEN 0 ELSE deliveries_given_up END
                     WHERE id = ?1",
                    params![id.into_bytes(), reason, now_ms()],
                )
                .map_err(failed(context))?;
            if changed == 0 { Err(StoreError::new(StoreErrorKind::NotFound, context)) } else { Ok(()) }
        })
        .await
    }

    pub(in crate::store) async fn abandoned_deliveries(&self) -> Result<Vec<AbandonedDeliveries>, StoreError> {
        let context = "count given up deliveries";
        self.read(context, move |connection| {
            let sql = "SELECT name, deliveries_given_up FROM webhooks WHERE NOT enabled AND deliveries_given_up > 0
                       ORDER BY name";
            let mut statement = connection.prepare_cached(sql).map_err(failed(context))?;
            let rows = statement.query_map([], |row| {
                Ok(AbandonedDeliveries { webhook: row.get(0)?, deliveries: row.get::<_, i64>(1)? as u64 })
            });
            rows.and_then(Iterator::collect).map_err(failed(context))
        })
        .await
    }
}

/// The number of webhooks with sealed values.
pub(super) fn count_sealed(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM webhooks WHERE auth_config IS NOT NULL OR hidden IS NOT NULL";
    connection
        .query_row(sql, [], |row| row.get::<_, i64>(0))
        .map(|count| count as u64)
        .map_err(failed("count sealed secrets"))
}

/// Fails if the `sealed` values were sealed with another key. Stores a value that later starts check their key with.
pub(super) fn check_key(
    connection: &Connection,
    sealer: &Sealer,
    sealed: u64,
    replaced: bool,
) -> Result<(), StoreError> {
    let context = "check secrets key";
    let check: Option<Vec<u8>> = connection
        .query_row("SELECT sealed FROM secrets_check", [], |row| row.get(0))
        .optional()
        .map_err(failed(context))?;
    let fits = match check {
        Some(check) if sealer.opens(check.clone()) => return Ok(()),
        Some(_) => sealed == 0,
        None if sealed == 0 => true,
        // Files of versions without a check value have sealed secrets to test instead.
        None => {
            let last = "WHERE d.auth_config IS NOT NULL OR d.hidden IS NOT NULL ORDER BY d.id DESC LIMIT 1";
            let last = rows::<NewWebhook>(connection, last, [])?.pop();
            last.is_some_and(|row| NewWebhook::read(&row, Some(sealer)).is_ok())
        }
    };
    if !fits && !replaced {
        return Err(wrong_key());
    }
    if !fits {
        tracing::warn!("secrets_key was replaced: webhooks with secrets cannot be called until they are written again");
    }
    connection
        .execute("INSERT OR REPLACE INTO secrets_check (id, sealed) VALUES (1, ?1)", [sealer.check_value()?])
        .map_err(failed(context))?;
    Ok(())
}

/// Seals secrets that older versions stored in clear text, and has SQLite overwrite them.
pub(super) fn seal_clear_secrets(connection: &Connection, sealer: &Sealer) -> Result<(), StoreError> {
    let context = "seal webhook secrets";
    let mut webhooks = Vec::new();
    for row in rows::<NewWebhook>(connection, "", [])? {
        // Webhooks sealed with a lost key must be written again anyway.
        if NewWebhook::in_clear(&row)?.has_clear_secrets()
            && let Ok(webhook) = NewWebhook::read(&row, Some(sealer))
        {
            webhooks.push((row, webhook));
        }
    }
    if webhooks.is_empty() {
        return Ok(());
    }
    connection.pragma_update(None, "secure_delete", true).map_err(failed(context))?;
    for (row, webhook) in &webhooks {
        put::<NewWebhook>(connection, sealer, row, webhook)?;
    }
    connection.pragma_update(None, "secure_delete", false).map_err(failed(context))?;
    // The log still holds pages with the old rows.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed(context))
}
