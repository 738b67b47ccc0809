//! The documents that operators write: webhooks, rules and anomaly configs, singly or as a set.

mod anomaly;
mod document;
mod row;
mod rule;
mod set;
mod set_results;
mod webhook;
mod webhook_row;
mod webhook_secrets;

pub use anomaly::{AnomalyConfig, AnomalyEvent, AnomalyState, Detection, NewAnomalyConfig};
pub(super) use anomaly::{EVENT_AHEAD_MS_MAX, EVENT_RETENTION_MS};
pub(crate) use document::Document;
pub use document::OWN_MEMBERS;
pub(super) use document::{add_faults, select_callers};
pub(super) use row::{Cell, Row};
pub use rule::{Actions, Condition, DocumentFaults, Faults, NewRule, Operator, Rule};
pub use set::{Applied, AppliedSet, ApplyOutcome, DocumentSet};
pub(super) use set_results::{SetResults, changes_of};
pub use webhook::{Auth, NewWebhook, Webhook, WebhookDocument};
