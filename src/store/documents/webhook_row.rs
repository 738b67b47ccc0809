//! A webhook as a row: its secrets are sealed, and its columns in clear text show them masked.

use jiff::Timestamp;

use super::document::Document;
use super::row::{Cell, Row, damaged};
use super::set::{Applied, AppliedSet, DocumentSet};
use super::webhook::{Auth, NewWebhook, Webhook};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::Sealer;

/// Sealed values are bound to these names and the webhook's id.
const AUTH: &str = "auth_config";
const HIDDEN: &str = "hidden";

impl Document for NewWebhook {
    type Stored = Webhook;
    const TABLE: &'static str = "webhooks";
    const COLUMNS: &'static [&'static str] = &[
        "url",
        "method",
        "enabled",
        "timeout_ms",
        "headers",
        "auth_type",
        AUTH,
        "disabled_reason",
        HIDDEN,
        "int64_as_string",
        "deliveries_given_up",
    ];
    const LIST: u8 = b'w';
    const PLURAL: &'static str = "webhooks";
    // Enabling a webhook makes its backlog due.
    const HOLDS_DELIVERIES: bool = true;

    fn name(&self) -> &str {
        &self.name
    }

    fn stored(self, row: &Row) -> Result<Webhook, StoreError> {
        // Counted from the time it was last disabled.
        let is_newly_disabled = row.bool("enabled")? && !self.enabled;
        Ok(Webhook {
            id: row.id,
            disabled_reason: row.optional_text("disabled_reason").filter(|_| !self.enabled),
            deliveries_given_up: if is_newly_disabled { 0 } else { row.integer("deliveries_given_up")? as u64 },
            document: self,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }

    fn written(stored: &Webhook) -> &Self {
        &stored.document
    }

    fn updated_at(stored: &Webhook) -> Timestamp {
        stored.updated_at
    }

    fn in_set(set: &mut DocumentSet) -> &mut Vec<Self> {
        &mut set.webhooks
    }

    fn in_applied(applied: &mut AppliedSet) -> &mut Vec<Applied<Webhook>> {
        &mut applied.webhooks
    }

    fn has_masked_secrets(&self) -> bool {
        self.has_masks()
    }

    fn restore_masked_secrets(&mut self, stored: Option<&Self>) -> Result<(), StoreError> {
        self.restore_masks(stored)
    }

    fn cells(stored: &Webhook, sealer: Option<&Sealer>) -> Result<Vec<Cell>, StoreError> {
        let document = &stored.document;
        let seal = |field: &str, clear: serde_json::Result<Vec<u8>>| {
            let sealer = sealer.ok_or_else(|| {
                let detail = "a webhook with a secret (in auth_config, a header or the URL) needs secrets_key, the same in \
                              every process";
                StoreError::caused(StoreErrorKind::Refused, "write webhook", detail)
            })?;
            sealer.seal(stored.id, field, clear.map_err(damaged)?)
        };
        let auth = match &document.auth {
            Auth::None => None,
            auth => Some(seal(AUTH, serde_json::to_vec(auth))?),
        };
        let hidden = document.sealed_parts().map(|hidden| seal(HIDDEN, serde_json::to_vec(&hidden))).transpose()?;
        Ok(vec![
            Cell::Text(document.masked_url()),
            Cell::Text(document.method.clone()),
            Cell::Bool(document.enabled),
            Cell::Integer(i64::try_from(document.timeout_ms).unwrap_or(i64::MAX)),
            Cell::json(&document.masked_headers())?,
            Cell::Text(document.auth.kind().to_owned()),
            auth.into(),
            stored.disabled_reason.clone().into(),
            hidden.into(),
            Cell::Bool(document.int64_as_string),
            Cell::Integer(stored.deliveries_given_up as i64),
        ])
    }

    fn read(row: &Row, sealer: Option<&Sealer>) -> Result<Webhook, StoreError> {
        let mut document = Self::in_clear(row)?;
        let open = |field: &str, sealed: Vec<u8>| {
            let sealer = sealer.ok_or_else(|| {
                let detail = format!("webhook {} has a secret, and secrets_key is not set", row.name);
                StoreError::caused(StoreErrorKind::Refused, "read webhook", detail)
            })?;
            sealer.unseal(row.id, field, sealed, &row.name)
        };
        if let Some(sealed) = row.bytes(AUTH) {
            document.auth = serde_json::from_slice(&open(AUTH, sealed)?).map_err(damaged)?;
        }
        if let Some(sealed) = row.bytes(HIDDEN) {
            document.restore_sealed(serde_json::from_slice(&open(HIDDEN, sealed)?).map_err(damaged)?);
        }
        document.stored(row)
    }
}

impl NewWebhook {
    /// The columns in clear text: without its auth, and with masks in place of secrets.
    pub(in crate::store) fn in_clear(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            name: row.name.clone(),
            url: row.text("url")?.to_owned(),
            method: row.text("method")?.to_owned(),
            enabled: row.bool("enabled")?,
            timeout_ms: row.integer("timeout_ms")? as u64,
            headers: row.json("headers")?,
            int64_as_string: row.bool("int64_as_string")?,
            auth: Auth::None,
        })
    }
}
