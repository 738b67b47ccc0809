//! The store: documents and credentials that operators manage (rules, webhooks, anomaly configs, keys, tokens), and the
//! reaction's results (deliveries, anomaly events and states, the outbox).
//!
//! Invariants: a method is one use case and one transaction; the effects of a batch of events and the sequences it
//! consumed are committed together or not at all; secrets are encrypted at rest. Knows nothing of how rules are
//! evaluated.

// The port's types.
mod access;
mod audit;
mod delivery;
mod documents;
mod effects;
mod erasure;
mod error;
mod page;
mod settings;
mod status;

// Shared by both engines.
mod cursor;
mod secrets;

mod postgres;
mod sqlite;

mod port;

#[cfg(test)]
mod conformance;

pub use access::{
    AdminRole, AdminToken, ApiKey, FoundToken, HashedKey, KEYS_MAX, KEYS_PAGE, KeyHash, KeyLimits, NewAdminToken,
    NewApiKey, Revocations, TOKEN_PREFIX, TOKENS_MAX, TokenHash, hash_token, is_token, key_hash,
};
pub(crate) use audit::Audited;
pub use audit::{AuditEntry, AuditFilter, AuditKind, AuditOutcome, AuditRecord, Caller, Change};
pub use delivery::{
    AbandonedDeliveries, BacklogLimits, ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, DeliveryStatus,
    NewDelivery, RETRIES_MAX, RetryFilter,
};
pub(crate) use documents::Document;
pub use documents::{
    Actions, AnomalyConfig, AnomalyEvent, AnomalyState, Applied, AppliedSet, ApplyOutcome, Auth, Condition, Detection,
    DocumentFaults, DocumentSet, Faults, NewAnomalyConfig, NewRule, NewWebhook, OWN_MEMBERS, Operator, Rule, Webhook,
    WebhookDocument,
};
pub use effects::{Cause, Effects, OutboxMessage, RecordOutcome};
pub use erasure::ErasedRecords;
pub use error::{SetFault, StoreError, StoreErrorKind};
pub use page::{Page, PageRequest};
pub use port::{Store, migrate_postgres};
pub use settings::{PostgresSettings, SqliteSettings, SslMode};
pub use status::{Migrated, StoreStatus};
