//! A set of documents that is applied atomically.
//!
//! Invariant: a document is matched by its name and applied after those that it names, so a set may hold a webhook and
//! the rules that use it. A document that already equals the stored one is left alone.

use schemars::JsonSchema;
use serde::Serialize;

use super::anomaly::{AnomalyConfig, NewAnomalyConfig};
use super::rule::{NewRule, Rule};
use super::webhook::{NewWebhook, Webhook};

/// The documents to store; names are unique within each list.
#[derive(Clone, Default)]
pub struct DocumentSet {
    pub webhooks: Vec<NewWebhook>,
    pub rules: Vec<NewRule>,
    pub anomalies: Vec<NewAnomalyConfig>,
}

/// The outcome of each document, in the order of the set; of a dry run, the outcome it would have.
#[derive(Debug, Default)]
pub struct AppliedSet {
    pub webhooks: Vec<Applied<Webhook>>,
    pub rules: Vec<Applied<Rule>>,
    pub anomalies: Vec<Applied<AnomalyConfig>>,
}

#[derive(Debug)]
pub struct Applied<T> {
    pub before: Option<T>,
    pub after: T,
    pub outcome: ApplyOutcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyOutcome {
    Created,
    Updated,
    Unchanged,
}

impl AppliedSet {
    /// Whether anything was stored.
    pub(in crate::store) fn changed(&self) -> bool {
        let outcomes = self.webhooks.iter().map(|applied| applied.outcome);
        let outcomes = outcomes.chain(self.rules.iter().map(|applied| applied.outcome));
        let mut outcomes = outcomes.chain(self.anomalies.iter().map(|applied| applied.outcome));
        outcomes.any(|outcome| outcome != ApplyOutcome::Unchanged)
    }
}
