//! What the operators wrote (rules, webhooks, anomaly configs, keys) and what the
//! reaction did about it (deliveries, anomaly events and state, the outbox).
//!
//! Invariants: a method is one use case and one transaction; the effects of a batch of
//! events and the sequences it consumed are committed together or not at all; secrets
//! are encrypted at rest. Knows nothing of how rules are evaluated.

mod anomaly;
mod audit;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod conformance_admin;
#[cfg(test)]
mod conformance_erasure;
#[cfg(test)]
mod conformance_keys;
#[cfg(test)]
mod conformance_set;
mod cursor;
mod delivery;
mod document;
mod effects;
mod erasure;
mod error;
mod hidden;
mod key;
mod masking;
mod page;
mod postgres;
mod rule;
mod secret_text;
mod secrets;
mod set;
mod sqlite;
mod token;
mod webhook;

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use crate::metrics;

pub use anomaly::{AnomalyConfig, AnomalyEvent, AnomalyState, Detection, NewAnomalyConfig};
pub use audit::{AuditEntry, AuditFilter, AuditKind, AuditOutcome, AuditRecord, Caller, Change};
pub use delivery::{
    ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, DeliveryStatus, GivenUp, NewDelivery, OutboxMessage,
    OwedBounds, RETRIES_MAX, RetryFilter,
};
pub use document::OWN_MEMBERS;
pub use effects::{Cause, Effects, Recorded};
pub use erasure::ErasedRecords;
pub use error::{StoreError, StoreErrorKind};
pub use key::{ApiKey, HashedKey, KEYS_MAX, KEYS_PAGE, KeyHash, KeyLimits, NewApiKey, Revocations, key_hash};
pub use page::{Page, PageRequest};
pub use rule::{Actions, Condition, DocumentFaults, Faults, NewRule, Operator, Rule};
pub use set::{Applied, AppliedSet, ApplyOutcome, DocumentSet, SetFault};
pub use token::{
    AdminRole, AdminToken, FoundToken, NewAdminToken, TOKEN_PREFIX, TOKENS_MAX, TokenHash, hash_token, is_token,
};
pub use webhook::{Auth, NewWebhook, Webhook, WebhookDocument};

/// The store, over the engine that the configuration chose. Cheap to clone.
#[derive(Clone)]
pub struct Store(Inner);

#[derive(Clone)]
enum Inner {
    Sqlite(sqlite::Engine),
    Postgres(postgres::Engine),
}

/// How the SQLite engine keeps its file.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The directory that holds `store.db` and, unless `secrets_key` is given, `secrets.key` (mode 0600).
    pub dir: PathBuf,
    /// 32 bytes as base64 or hex that encrypt webhook secrets (AES-256-GCM).
    pub secrets_key: Option<String>,
    /// Take another key than the one that the stored secrets were encrypted with; else the start is refused.
    pub secrets_key_replaced: bool,
}

/// How the PostgreSQL engine reaches its database.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://...`; the fields below fill in what it leaves out.
    pub url: Option<String>,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    pub database: String,
    pub ssl_mode: SslMode,
    /// A PEM file with the certificate authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    pub connections_max: usize,
    pub idle_connections_max: usize,
    pub connection_lifetime_max: Duration,
    /// How long a connection, or the wait for one of the pool, may take.
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    /// 32 bytes as base64 or hex that encrypt webhook secrets. Several processes share the database, so none is made up:
    /// without it a webhook with a secret is refused.
    pub secrets_key: Option<String>,
    /// Take another key than the one that the stored secrets were encrypted with; else the start is refused.
    pub secrets_key_replaced: bool,
    /// Bring the schema up to date at the start; otherwise an older one is refused.
    pub migrate: bool,
}

/// `sslmode` as libpq defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// By libpq's name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "prefer" | "allow" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }
}

/// Brings the schema of a PostgreSQL database to the version of this binary.
pub async fn migrate_postgres(settings: PostgresSettings) -> Result<Migrated, StoreError> {
    postgres::migrate(settings).await
}

/// The schema versions before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub from: u32,
    pub to: u32,
}

impl Store {
    /// Opens the SQLite engine, migrates it and starts its writer thread.
    pub fn open_sqlite(settings: SqliteSettings) -> Result<Self, StoreError> {
        Ok(Self(Inner::Sqlite(sqlite::Engine::open(settings)?)))
    }

    /// Connects to PostgreSQL and checks, or brings up to date, its schema.
    pub async fn connect_postgres(settings: PostgresSettings) -> Result<Self, StoreError> {
        Ok(Self(Inner::Postgres(postgres::Engine::connect(settings).await?)))
    }

    /// Changes with every committed change of a webhook, rule, anomaly config or key.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.changes(),
            Inner::Postgres(engine) => engine.changes(),
        }
    }

    /// Changes whenever deliveries or outbox messages may have become due.
    pub fn work(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.work(),
            Inner::Postgres(engine) => engine.work(),
        }
    }

    // --- documents: `key` is an id or a name; `as_of` as for webhooks ---

    pub async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_webhook(new).await,
            Inner::Postgres(engine) => engine.create_webhook(new).await,
        }
    }

    pub async fn webhook(&self, key: &str) -> Result<Option<Webhook>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.webhook(key).await,
            Inner::Postgres(engine) => engine.webhook(key).await,
        }
    }

    pub async fn webhooks(&self, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.webhooks(page).await,
            Inner::Postgres(engine) => engine.webhooks(page).await,
        }
    }

    /// `NotFound`, `NameTaken`. A secret of `"***"` keeps the one that is stored. `Changed` when `as_of` is not the
    /// stored document's `updated_at`, which every change raises: somebody else wrote it since it was read.
    pub async fn replace_webhook(
        &self,
        key: &str,
        new: NewWebhook,
        as_of: Option<Timestamp>,
    ) -> Result<Webhook, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_webhook(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_webhook(key, new, as_of).await,
        }
    }

    /// False when there is none. `InUse` when a rule or an anomaly config names it. Its open deliveries become `cancelled`.
    pub async fn delete_webhook(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_webhook(key).await,
            Inner::Postgres(engine) => engine.delete_webhook(key).await,
        }
    }

    /// Sets `enabled = false` (the endpoint answered 410).
    pub async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.disable_webhook(id, reason).await,
            Inner::Postgres(engine) => engine.disable_webhook(id, reason).await,
        }
    }

    /// `UnknownWebhooks` with the indexes into `actions.webhooks`; stores ids, whatever was given.
    pub async fn create_rule(&self, new: NewRule) -> Result<Rule, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_document(new).await,
            Inner::Postgres(engine) => engine.create_document(new).await,
        }
    }

    pub async fn rule(&self, key: &str) -> Result<Option<Rule>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.document::<NewRule>(key).await,
            Inner::Postgres(engine) => engine.document::<NewRule>(key).await,
        }
    }

    pub async fn rules(&self, page: PageRequest) -> Result<Page<Rule>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.documents::<NewRule>(page).await,
            Inner::Postgres(engine) => engine.documents::<NewRule>(page).await,
        }
    }

    pub async fn replace_rule(&self, key: &str, new: NewRule, as_of: Option<Timestamp>) -> Result<Rule, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_document(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_document(key, new, as_of).await,
        }
    }

    pub async fn delete_rule(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_document::<NewRule>(key).await,
            Inner::Postgres(engine) => engine.delete_document::<NewRule>(key).await,
        }
    }

    pub async fn create_anomaly_config(&self, new: NewAnomalyConfig) -> Result<AnomalyConfig, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_document(new).await,
            Inner::Postgres(engine) => engine.create_document(new).await,
        }
    }

    pub async fn anomaly_config(&self, key: &str) -> Result<Option<AnomalyConfig>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.document::<NewAnomalyConfig>(key).await,
            Inner::Postgres(engine) => engine.document::<NewAnomalyConfig>(key).await,
        }
    }

    pub async fn anomaly_configs(&self, page: PageRequest) -> Result<Page<AnomalyConfig>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.documents::<NewAnomalyConfig>(page).await,
            Inner::Postgres(engine) => engine.documents::<NewAnomalyConfig>(page).await,
        }
    }

    pub async fn replace_anomaly_config(
        &self,
        key: &str,
        new: NewAnomalyConfig,
        as_of: Option<Timestamp>,
    ) -> Result<AnomalyConfig, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_document(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_document(key, new, as_of).await,
        }
    }

    /// Also forgets its state.
    pub async fn delete_anomaly_config(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_document::<NewAnomalyConfig>(key).await,
            Inner::Postgres(engine) => engine.delete_document::<NewAnomalyConfig>(key).await,
        }
    }

    /// Creates or replaces each document of the set by its name, all of them or none. `Set` says what is wrong with
    /// which. A `rehearsal` stores nothing, and answers what would become of each.
    pub async fn apply(&self, set: DocumentSet, rehearsal: bool) -> Result<AppliedSet, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.apply(set, rehearsal).await,
            Inner::Postgres(engine) => engine.apply(set, rehearsal).await,
        }
    }

    /// The new key (64 hex characters) is in the answer and nowhere else.
    pub async fn create_key(&self, new: NewApiKey) -> Result<(ApiKey, String), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_key(new).await,
            Inner::Postgres(engine) => engine.create_key(new).await,
        }
    }

    pub async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.keys(page).await,
            Inner::Postgres(engine) => engine.keys(page).await,
        }
    }

    pub async fn key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.key(id).await,
            Inner::Postgres(engine) => engine.key(id).await,
        }
    }

    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.revoke_key(id).await,
            Inner::Postgres(engine) => engine.revoke_key(id).await,
        }
    }

    /// What was revoked since a version of the keys; bounded, see [`Revocations::complete`].
    pub async fn revocations(&self, since: u64) -> Result<Revocations, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.revocations(since).await,
            Inner::Postgres(engine) => engine.revocations(since).await,
        }
    }

    /// The keys that were created after a version and are still there, in that order: at most [`KEYS_PAGE`].
    pub async fn keys_after(&self, version: u64) -> Result<Vec<HashedKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.keys_after(version).await,
            Inner::Postgres(engine) => engine.keys_after(version).await,
        }
    }

    /// Notes in which minute (its start, in milliseconds) keys were last used, where that is later than what is known.
    pub async fn keys_used(&self, used: &[(Uuid, i64)]) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.keys_used(used).await,
            Inner::Postgres(engine) => engine.keys_used(used).await,
        }
    }

    // --- the reaction's work ---

    /// Which of these messages the consumer has already committed effects for, in order.
    pub async fn consumed(&self, consumer: &str, causes: &[Cause]) -> Result<Vec<Cause>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.consumed(consumer, causes).await,
            Inner::Postgres(engine) => engine.consumed(consumer, causes).await,
        }
    }

    /// Commits the effects of one batch; refuses all of them when those of any cause were committed before, or any window
    /// is no longer at the version that was read.
    pub async fn record_effects(&self, effects: Effects) -> Result<Recorded, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.record_effects(effects).await,
            Inner::Postgres(engine) => engine.record_effects(effects).await,
        }
    }

    /// Adds to the faults of rules and anomaly configs; of those that were changed or deleted meanwhile, nothing.
    pub async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.add_faults(faults).await,
            Inner::Postgres(engine) => engine.add_faults(faults).await,
        }
    }

    pub async fn anomaly_states(&self, configs: &[Uuid]) -> Result<Vec<AnomalyState>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.anomaly_states(configs).await,
            Inner::Postgres(engine) => engine.anomaly_states(configs).await,
        }
    }

    /// Deletes states untouched since then, and what outlived its retention: deliveries that ended (delivered 7 days,
    /// others 30) and anomaly events (90 days).
    pub async fn forget_stale(&self, before_ms: i64) -> Result<u64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.forget_stale(before_ms).await,
            Inner::Postgres(engine) => engine.forget_stale(before_ms).await,
        }
    }

    /// Whether other processes may use it, too.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Inner::Postgres(_))
    }

    /// Takes due deliveries of enabled webhooks as `in_progress` until the lease ends; a lease that ended makes a
    /// delivery due again. Each webhook's oldest come first, and every webhook has its first before any has its second.
    pub async fn claim_due_deliveries(&self, limits: ClaimLimits) -> Result<Vec<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.claim_due_deliveries(limits).await,
            Inner::Postgres(engine) => engine.claim_due_deliveries(limits).await,
        }
    }

    /// When the earliest pending delivery becomes due, or an in-progress one's lease ends, milliseconds since the epoch;
    /// of enabled webhooks that are not in `skip`.
    pub async fn next_due_ms(&self, skip: &[Uuid]) -> Result<Option<i64>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.next_due_ms(skip).await,
            Inner::Postgres(engine) => engine.next_due_ms(skip).await,
        }
    }

    /// Gives claimed deliveries back that were not sent: they are due at once, and their attempts are not counted.
    pub async fn release_deliveries(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.release_deliveries(ids).await,
            Inner::Postgres(engine) => engine.release_deliveries(ids).await,
        }
    }

    /// Gives up what waits too long or too much for webhooks that are disabled: what is too many is deleted, what is
    /// too old becomes `cancelled`; both count. Answers how many.
    pub async fn give_up_owed(&self, bounds: OwedBounds) -> Result<u64, StoreError> {
        let given_up = match &self.0 {
            Inner::Sqlite(engine) => engine.give_up_owed(bounds).await,
            Inner::Postgres(engine) => engine.give_up_owed(bounds).await,
        }?;
        metrics::store_given_up(given_up);
        Ok(given_up)
    }

    /// Disabled webhooks that have lost deliveries since they were disabled.
    pub async fn given_up(&self) -> Result<Vec<GivenUp>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.given_up().await,
            Inner::Postgres(engine) => engine.given_up().await,
        }
    }

    /// Records what became of attempts; group-committed.
    pub async fn finish_deliveries(&self, outcomes: Vec<DeliveryOutcome>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.finish_deliveries(outcomes).await,
            Inner::Postgres(engine) => engine.finish_deliveries(outcomes).await,
        }
    }

    pub async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delivery(id).await,
            Inner::Postgres(engine) => engine.delivery(id).await,
        }
    }

    /// Newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.deliveries(filter, page).await,
            Inner::Postgres(engine) => engine.deliveries(filter, page).await,
        }
    }

    /// Makes a failed, dead or cancelled delivery due now, its attempts counted anew. `NotFound`; `NotRetryable` otherwise.
    pub async fn retry_delivery(&self, id: Uuid) -> Result<Delivery, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_delivery(id).await,
            Inner::Postgres(engine) => engine.retry_delivery(id).await,
        }
    }

    /// Makes up to [`RETRIES_MAX`] of the failed and dead deliveries that match due now, the oldest first, their
    /// attempts counted anew; answers how many. Those whose webhook is gone are left alone.
    pub async fn retry_deliveries(&self, filter: RetryFilter) -> Result<u64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_deliveries(filter).await,
            Inner::Postgres(engine) => engine.retry_deliveries(filter).await,
        }
    }

    /// Forgets a delivery; one that is owed is not sent any more. False when there is none.
    pub async fn delete_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_delivery(id).await,
            Inner::Postgres(engine) => engine.delete_delivery(id).await,
        }
    }

    pub async fn outbox(&self, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.outbox(limit).await,
            Inner::Postgres(engine) => engine.outbox(limit).await,
        }
    }

    pub async fn forget_outbox(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.forget_outbox(ids).await,
            Inner::Postgres(engine) => engine.forget_outbox(ids).await,
        }
    }

    pub async fn anomaly_events(
        &self,
        config: Option<Uuid>,
        app_id: Option<&str>,
        since_ms: Option<i64>,
        page: PageRequest,
    ) -> Result<Page<AnomalyEvent>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.anomaly_events(config, app_id, since_ms, page).await,
            Inner::Postgres(engine) => engine.anomaly_events(config, app_id, since_ms, page).await,
        }
    }

    /// Fails when the store cannot be reached, or its files cannot be written or found.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.ping().await,
            Inner::Postgres(engine) => engine.ping().await,
        }
    }

    /// What an operator should know although everything works, under a name of its own.
    pub fn warning(&self) -> Option<(&'static str, Option<String>)> {
        match &self.0 {
            Inner::Sqlite(engine) => Some(engine.warning()),
            Inner::Postgres(_) => None,
        }
    }

    /// Counts by delivery status, for status and metrics.
    pub async fn status(&self) -> Result<StoreStatus, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.status().await,
            Inner::Postgres(engine) => engine.status().await,
        }
    }

    pub async fn close(&self) {
        match &self.0 {
            Inner::Sqlite(engine) => engine.close().await,
            Inner::Postgres(engine) => engine.close().await,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StoreStatus {
    pub engine: String,
    pub deliveries_pending: u64,
    pub deliveries_dead: u64,
    /// By webhooks since each was last disabled.
    pub deliveries_given_up: u64,
    pub webhooks: u64,
    pub rules: u64,
    pub anomaly_configs: u64,
}
