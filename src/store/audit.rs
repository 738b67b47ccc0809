//! The audit log: who changed what through the admin API.
//!
//! Invariants: a change and its record are one transaction; a change that the store does not make itself (dead letters
//! of the bus) is recorded before it is made. No record holds a secret: values are written as the API shows them.

use std::net::IpAddr;

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

/// The largest value that is recorded in full, in bytes of JSON. A record has two: before and after.
const VALUE_BYTES_MAX: usize = 32 * 1024;
/// Records that are kept; the oldest beyond them are deleted.
pub(super) const RECORDS_MAX: i64 = 1_000_000;
/// Records deleted in one transaction, so that others do not wait long for it.
pub(super) const DELETE_ROWS_MAX: i64 = 1_000;

/// The subject of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    Webhook,
    Rule,
    Anomaly,
    Key,
    Token,
    Delivery,
    DeadLetter,
    /// The erasure of a person's data.
    Erasure,
    Access,
    Retention,
}

impl AuditKind {
    pub const ALL: [Self; 10] = [
        Self::Webhook,
        Self::Rule,
        Self::Anomaly,
        Self::Key,
        Self::Token,
        Self::Delivery,
        Self::DeadLetter,
        Self::Erasure,
        Self::Access,
        Self::Retention,
    ];

    /// As written and stored.
    pub fn text(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Rule => "rule",
            Self::Anomaly => "anomaly",
            Self::Key => "key",
            Self::Token => "token",
            Self::Delivery => "delivery",
            Self::DeadLetter => "dead_letter",
            Self::Erasure => "erasure",
            Self::Access => "access",
            Self::Retention => "retention",
        }
    }
}

/// The caller on whose behalf changes are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Of a token of the store.
    pub token_id: Option<Uuid>,
    /// The token's name, or a fixed word where no token is needed.
    pub name: String,
    pub address: Option<IpAddr>,
    /// The HTTP method of the request.
    pub method: String,
    /// The request's id, as in the log.
    pub request_id: Option<String>,
}

/// The outcome of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditOutcome {
    Done,
    /// It was about to be made; whether it was is unknown.
    Started,
    Failed,
    /// A count of attempts that were refused.
    Refused,
}

/// An entry of the log as it is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AuditEntry {
    /// The token's name, `ADMIN_TOKEN`, or `loopback` where no token is required.
    pub actor: String,
    /// The id of a token of the store.
    pub actor_id: Option<Uuid>,
    pub address: Option<IpAddr>,
    pub method: String,
    /// The request's `X-Request-ID`; null for refusals, which count many requests.
    #[serde(default)]
    pub request_id: Option<String>,
    /// `create`, `replace`, `delete`, `retry`, `replay`, `purge`, `erase`, `refuse` or `expire`.
    pub action: String,
    pub kind: AuditKind,
    pub object_id: Option<String>,
    pub name: Option<String>,
    pub outcome: AuditOutcome,
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// What the values do not show.
    pub note: Option<String>,
}

/// A stored entry of the log.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AuditRecord {
    pub id: i64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub entry: AuditEntry,
}

#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// A token's id, or the actor's name.
    pub actor: Option<String>,
    pub kind: Option<AuditKind>,
    pub since_ms: Option<i64>,
}

/// A change, described by the use case that makes it.
#[derive(Clone, Debug)]
pub struct Change {
    kind: AuditKind,
    action: &'static str,
    object_id: Option<String>,
    name: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    note: Option<String>,
}

/// A document that is stored under an id and a name.
pub(crate) trait Audited: Serialize {
    const KIND: AuditKind;

    fn id(&self) -> Uuid;
    fn name(&self) -> &str;

    /// Whether secrets differ although both read back as the mask.
    fn has_other_secrets(&self, _before: &Self) -> bool {
        false
    }
}

impl Change {
    pub fn of(kind: AuditKind, action: &'static str) -> Self {
        Self { kind, action, object_id: None, name: None, before: None, after: None, note: None }
    }

    pub fn with_id(mut self, id: impl ToString) -> Self {
        self.object_id = Some(id.to_string());
        self
    }

    pub fn with_before(mut self, before: Value) -> Self {
        self.before = Some(bounded(before));
        self
    }

    pub fn with_after(mut self, after: Value) -> Self {
        self.after = Some(bounded(after));
        self
    }

    fn named<T: Audited>(action: &'static str, of: &T) -> Self {
        Self { name: Some(of.name().to_owned()), ..Self::of(T::KIND, action).with_id(of.id()) }
    }

    pub(super) fn created<T: Audited>(after: &T) -> Self {
        Self::named("create", after).with_after(shown(after))
    }

    /// `before` is `None` if it could not be read.
    pub(super) fn replaced<T: Audited>(before: Option<&T>, after: &T) -> Self {
        let mut change = Self::named("replace", after).with_after(shown(after));
        if let Some(before) = before {
            change = change.with_before(shown(before));
            if after.has_other_secrets(before) {
                change.note = Some("secrets were changed".to_owned());
            }
        }
        change
    }

    /// `before` is `None` if it could not be read.
    pub(super) fn deleted<T: Audited>(id: Uuid, before: Option<&T>) -> Self {
        match before {
            Some(before) => Self::named("delete", before).with_before(shown(before)),
            None => Self::of(T::KIND, "delete").with_id(id),
        }
    }

    pub(super) fn entry(self, caller: &Caller, outcome: AuditOutcome) -> AuditEntry {
        AuditEntry {
            actor: caller.name.clone(),
            actor_id: caller.token_id,
            address: caller.address,
            method: caller.method.clone(),
            request_id: caller.request_id.clone(),
            action: self.action.to_owned(),
            kind: self.kind,
            object_id: self.object_id,
            name: self.name,
            outcome,
            before: self.before,
            after: self.after,
            note: self.note,
        }
    }
}

/// As the API shows it: the documents' own serialization masks secrets.
fn shown(document: &impl Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// Replaces a value that is too large for a record by its size and hash.
fn bounded(value: Value) -> Value {
    let text = value.to_string();
    if text.len() <= VALUE_BYTES_MAX {
        return value;
    }
    let hash = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    json!({"omitted_bytes": text.len(), "sha256": hash})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_one_spelling_and_old_records_are_readable() {
        for kind in AuditKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.text());
        }
        let before = json!({"actor": "ops", "actor_id": null, "address": null, "method": "POST", "action": "create",
            "kind": "dead_letter", "object_id": null, "name": null, "outcome": "done", "before": null, "after": null,
            "note": null});
        let entry: AuditEntry = serde_json::from_value(before).unwrap();
        assert_eq!((entry.kind, entry.request_id), (AuditKind::DeadLetter, None));
    }

    #[test]
    fn a_large_value_is_replaced_by_its_hash() {
        let small = json!({"a": "x".repeat(VALUE_BYTES_MAX - 8)});
        assert_eq!(bounded(small.clone()), small);
        let large = json!({"a": "x".repeat(VALUE_BYTES_MAX)});
        let told = bounded(large.clone());
        assert_eq!(told["omitted_bytes"], large.to_string().len());
        assert_eq!(told["sha256"].as_str().unwrap().len(), 64);
    }
}
