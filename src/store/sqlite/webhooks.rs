//! Webhooks; their secrets are sealed in the file.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};
use uuid::Uuid;

use super::clock::now_ms;
use super::engine::{Engine, Wake};
use super::error::{damaged, failed};
use super::row::{timestamp, uuid};
use super::{deliveries, names};
use crate::store::audit::Change;
use crate::store::cursor;
use crate::store::delivery::AbandonedDeliveries;
use crate::store::documents::{Auth, NewWebhook, Webhook};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::page::{Page, PageRequest};
use crate::store::secrets::{Sealer, wrong_key};

pub(super) const TABLE: &str = "webhooks";
const LIST: u8 = b'w';
const COLUMNS: &str = "id, name, url, method, enabled, timeout_ms, headers, auth_type, auth_config, disabled_reason, \
     created_at, updated_at, hidden, int64_as_string, deliveries_given_up";
/// Sealed values are bound to these names and the webhook's id.
const SEALED_FIELD: &str = "auth_config";
const HIDDEN_FIELD: &str = "hidden";

impl Engine {
    pub(in crate::store) async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook, StoreError> {
        let (sealer, auditor) = (self.0.sealer.clone(), self.auditor());
        self.write(Wake::Changes, "create webhook", move |connection| {
            let stored = create(connection, &sealer, new)?;
            auditor.record(connection, || Change::created(&stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn webhook(&self, key: &str) -> Result<Option<Webhook>, StoreError> {
        let (key, sealer) = (key.to_owned(), self.0.sealer.clone());
        self.read("read webhook", move |connection| match names::find(connection, TABLE, &key)? {
            Some(id) => get(connection, &sealer, id),
            None => Ok(None),
        })
        .await
    }

    pub(in crate::store) async fn webhooks(&self, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        let after = cursor::after::<[u8; 16]>(LIST, &page)?;
        let sealer = self.0.sealer.clone();
        let context = "list webhooks";
        self.read(context, move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id > ?1 ORDER BY id LIMIT ?2");
            let mut statement = connection.prepare_cached(&sql).map_err(failed(context))?;
            let first = after.as_ref().map_or(&[][..], |id| &id[..]);
            let rows = statement.query_map(params![first, page.limit as i64 + 1], webhook).map_err(failed(context))?;
            let mut webhooks = Vec::new();
            for row in rows {
                let webhook = unseal(&sealer, row.map_err(failed(context))?)?;
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
        let (key, sealer, auditor) = (key.to_owned(), self.0.sealer.clone(), self.auditor());
        // Enabling a webhook makes its backlog due.
        self.write(Wake::Both, "replace webhook", move |connection| {
            let before = auditor.before(|| match names::find(connection, TABLE, &key)? {
                Some(id) => readable(get(connection, &sealer, id)),
                None => Ok(None),
            })?;
            let stored = replace(connection, &sealer, &key, new, as_of)?;
            auditor.record(connection, || Change::replaced(before.as_ref(), &stored))?;
            Ok(stored)
        })
        .await
    }

    pub(in crate::store) async fn delete_webhook(&self, key: &str) -> Result<bool, StoreError> {
        let (key, sealer, auditor) = (key.to_owned(), self.0.sealer.clone(), self.auditor());
        let context = "delete webhook";
        self.write(Wake::Changes, context, move |connection| {
            let Some(id) = names::find(connection, TABLE, &key)? else { return Ok(false) };
            let users = users(connection, id).map_err(failed(context))?;
            if !users.is_empty() {
                return Err(StoreError::new(StoreErrorKind::InUse(users), context));
            }
            let before = auditor.before(|| readable(get(connection, &sealer, id)))?;
            deliveries::cancel_open_deliveries(connection, id, now_ms())
                .and_then(|_| connection.execute("DELETE FROM webhooks WHERE id = ?1", [id.into_bytes()]))
                .map_err(failed(context))?;
            auditor.record(connection, || Change::deleted(id, before.as_ref()))?;
            Ok(true)
        })
        .await
    }

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

/// A webhook sealed with a lost key can still be overwritten and deleted.
pub(super) fn readable(read: Result<Option<Webhook>, StoreError>) -> Result<Option<Webhook>, StoreError> {
    match read {
        Err(error) if error.kind == StoreErrorKind::Corrupt => Ok(None),
        read => read,
    }
}

pub(super) fn create(connection: &Connection, sealer: &Sealer, mut new: NewWebhook) -> Result<Webhook, StoreError> {
    names::refuse_taken(connection, TABLE, &new.name, None)?;
    new.restore_masked_secrets(None)?;
    let (id, now) = (Uuid::now_v7(), now_ms());
    let created = timestamp(now).map_err(failed("create webhook"))?;
    let webhook = Webhook {
        id,
        document: new,
        disabled_reason: None,
        deliveries_given_up: 0,
        created_at: created,
        updated_at: created,
    };
    put(connection, sealer, &webhook)?;
    Ok(webhook)
}

pub(super) fn replace(
    connection: &Connection,
    sealer: &Sealer,
    key: &str,
    mut new: NewWebhook,
    as_of: Option<Timestamp>,
) -> Result<Webhook, StoreError> {
    let context = "replace webhook";
    let not_found = || StoreError::new(StoreErrorKind::NotFound, context);
    let id = names::find(connection, TABLE, key)?.ok_or_else(not_found)?;
    names::refuse_taken(connection, TABLE, &new.name, Some(id))?;
    // A webhook sealed with a lost key can still be overwritten as a whole.
    if new.has_masked_secrets() {
        let old = get(connection, sealer, id)?.ok_or_else(not_found)?;
        new.restore_masked_secrets(Some(&old.document))?;
    }
    let sql = "SELECT disabled_reason, created_at, updated_at, enabled, deliveries_given_up FROM webhooks
               WHERE id = ?1";
    let (reason, created, written, was_enabled, given_up) = connection
        .query_row(sql, [id.into_bytes()], |row| {
            let reason: Option<String> = row.get(0)?;
            let (created, written) = (timestamp(row.get(1)?)?, timestamp(row.get(2)?)?);
            Ok((reason, created, written, row.get::<_, bool>(3)?, row.get::<_, i64>(4)? as u64))
        })
        .map_err(failed(context))?;
    if as_of.is_some_and(|as_of| as_of != written) {
        return Err(StoreError::new(StoreErrorKind::Changed, context));
    }
    let updated_ms = now_ms().max(written.as_millisecond() + 1);
    let webhook = Webhook {
        id,
        disabled_reason: reason.filter(|_| !new.enabled),
        // Counted from the time it was last disabled.
        deliveries_given_up: if was_enabled && !new.enabled { 0 } else { given_up },
        document: new,
        created_at: created,
        updated_at: timestamp(updated_ms).map_err(failed(context))?,
    };
    put(connection, sealer, &webhook)?;
    Ok(webhook)
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
            let sql = format!(
                "SELECT {COLUMNS} FROM webhooks WHERE auth_config IS NOT NULL OR hidden IS NOT NULL
                 ORDER BY id DESC LIMIT 1"
            );
            let row = connection.query_row(&sql, [], webhook).map_err(failed(context))?;
            unseal(sealer, row).is_ok()
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
    let rows = {
        let mut statement = connection.prepare(&format!("SELECT {COLUMNS} FROM webhooks")).map_err(failed(context))?;
        let rows = statement.query_map([], webhook).map_err(failed(context))?;
        rows.collect::<Result<Vec<_>, _>>().map_err(failed(context))?
    };
    let in_clear = rows.into_iter().filter(|(webhook, ..)| webhook.document.has_clear_secrets());
    // Webhooks sealed with a lost key must be written again anyway.
    let webhooks: Vec<_> = in_clear.filter_map(|row| unseal(sealer, row).ok()).collect();
    if webhooks.is_empty() {
        return Ok(());
    }
    connection.pragma_update(None, "secure_delete", true).map_err(failed(context))?;
    for webhook in &webhooks {
        put(connection, sealer, webhook)?;
    }
    connection.pragma_update(None, "secure_delete", false).map_err(failed(context))?;
    // The log still holds pages with the old rows.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(failed(context))
}

fn users(connection: &Connection, webhook: Uuid) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare_cached(
        "SELECT 'rule ' || r.name FROM webhook_uses u JOIN rules r ON r.id = u.user_id WHERE u.webhook_id = ?1
         UNION ALL
         SELECT 'anomaly ' || a.name FROM webhook_uses u JOIN anomaly_configs a ON a.id = u.user_id
         WHERE u.webhook_id = ?1",
    )?;
    statement.query_map([webhook.into_bytes()], |row| row.get(0))?.collect()
}

fn seal_parts(sealer: &Sealer, webhook: &Webhook) -> Result<Option<Vec<u8>>, StoreError> {
    let Some(hidden) = webhook.document.sealed_parts() else { return Ok(None) };
    let hidden = serde_json::to_vec(&hidden).map_err(damaged).map_err(failed("seal webhook secrets"))?;
    sealer.seal(webhook.id, HIDDEN_FIELD, hidden).map(Some)
}

fn put(connection: &Connection, sealer: &Sealer, webhook: &Webhook) -> Result<(), StoreError> {
    let context = "write webhook";
    let document = &webhook.document;
    let sealed = match &document.auth {
        Auth::None => None,
        auth => {
            let config = serde_json::to_vec(auth).map_err(damaged).map_err(failed(context))?;
            Some(sealer.seal(webhook.id, SEALED_FIELD, config)?)
        }
    };
    let hidden = seal_parts(sealer, webhook)?;
    let headers = serde_json::to_string(&document.masked_headers()).map_err(damaged).map_err(failed(context))?;
    connection
        .execute(
            "INSERT INTO webhooks (id, name, url, method, enabled, timeout_ms, headers, auth_type,
                 auth_config, disabled_reason, created_at, updated_at, hidden, int64_as_string, deliveries_given_up)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, url = excluded.url, method = excluded.method,
                 enabled = excluded.enabled, timeout_ms = excluded.timeout_ms, headers = excluded.headers,
                 auth_type = excluded.auth_type, auth_config = excluded.auth_config,
                 disabled_reason = excluded.disabled_reason, updated_at = excluded.updated_at,
                 hidden = excluded.hidden, int64_as_string = excluded.int64_as_string,
                 deliveries_given_up = excluded.deliveries_given_up",
            params![
                webhook.id.into_bytes(),
                document.name,
                document.masked_url(),
                document.method,
                document.enabled,
                i64::try_from(document.timeout_ms).unwrap_or(i64::MAX),
                headers,
                document.auth.kind(),
                sealed,
                webhook.disabled_reason,
                webhook.created_at.as_millisecond(),
                webhook.updated_at.as_millisecond(),
                hidden,
                document.int64_as_string,
                webhook.deliveries_given_up as i64,
            ],
        )
        .map_err(failed(context))?;
    Ok(())
}

pub(super) fn get(connection: &Connection, sealer: &Sealer, id: Uuid) -> Result<Option<Webhook>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = ?1");
    let mut statement = connection.prepare_cached(&sql).map_err(failed("read webhook"))?;
    let row = statement.query_row([id.into_bytes()], webhook).optional().map_err(failed("read webhook"))?;
    row.map(|row| unseal(sealer, row)).transpose()
}

/// A row without its secrets, the sealed auth, and the other sealed parts.
type SealedRow = (Webhook, Option<Vec<u8>>, Option<Vec<u8>>);

fn webhook(row: &Row<'_>) -> rusqlite::Result<SealedRow> {
    let document = NewWebhook {
        name: row.get(1)?,
        url: row.get(2)?,
        method: row.get(3)?,
        enabled: row.get(4)?,
        timeout_ms: row.get::<_, i64>(5)? as u64,
        headers: serde_json::from_str(row.get_ref(6)?.as_str().map_err(damaged)?).map_err(damaged)?,
        int64_as_string: row.get(13)?,
        auth: Auth::None,
    };
    let webhook = Webhook {
        id: uuid(row.get(0)?),
        document,
        disabled_reason: row.get(9)?,
        deliveries_given_up: row.get::<_, i64>(14)? as u64,
        created_at: timestamp(row.get(10)?)?,
        updated_at: timestamp(row.get(11)?)?,
    };
    Ok((webhook, row.get(8)?, row.get(12)?))
}

fn unseal(sealer: &Sealer, (mut webhook, auth, hidden): SealedRow) -> Result<Webhook, StoreError> {
    let context = "read sealed webhook secret";
    if let Some(sealed) = auth {
        let config = sealer.unseal(webhook.id, SEALED_FIELD, sealed, &webhook.document.name)?;
        webhook.document.auth = serde_json::from_slice(&config).map_err(damaged).map_err(failed(context))?;
    }
    if let Some(sealed) = hidden {
        let hidden = sealer.unseal(webhook.id, HIDDEN_FIELD, sealed, &webhook.document.name)?;
        webhook.document.restore_sealed(serde_json::from_slice(&hidden).map_err(damaged).map_err(failed(context))?);
    }
    Ok(webhook)
}
