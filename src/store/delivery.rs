//! One webhook call that is owed, and what became of it.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::audit::{AuditKind, Change};

/// A delivery to be recorded with the effects of its event.
#[derive(Clone, Debug)]
pub struct NewDelivery {
    /// Sent as `webhook-id` on every attempt.
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub rule_id: Option<Uuid>,
    pub anomaly_config_id: Option<Uuid>,
    pub event_id: String,
    /// The request body, JSON.
    pub payload: Box<RawValue>,
    pub max_attempts: u32,
}

/// A delivery as the admin API shows it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Delivery {
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub rule_id: Option<Uuid>,
    pub anomaly_config_id: Option<Uuid>,
    pub event_id: String,
    pub payload: Box<RawValue>,
    pub status: DeliveryStatus,
    pub attempts: u32,
    pub max_attempts: u32,
    pub next_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub last_status_code: Option<u16>,
    pub created_at: Timestamp,
    pub delivered_at: Option<Timestamp>,
}

impl Delivery {
    /// The change of one delivery, without the payload, which is an event of somebody's.
    pub(super) fn change(action: &'static str, id: Uuid, before: Option<&Self>, after: Option<&Self>) -> Change {
        let view = |delivery: &Self| {
            json!({"status": delivery.status, "attempts": delivery.attempts, "webhook_id": delivery.webhook_id,
                "rule_id": delivery.rule_id, "anomaly_config_id": delivery.anomaly_config_id,
                "event_id": delivery.event_id})
        };
        let mut change = Change::of(AuditKind::Delivery, action).with_id(id);
        if let Some(before) = before {
            change = change.with_before(view(before));
        }
        if let Some(after) = after {
            change = change.with_after(view(after));
        }
        change
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryStatus {
    Pending,
    InProgress,
    Delivered,
    Failed,
    DeadLetter,
    Cancelled,
}

impl DeliveryStatus {
    /// Ended without having arrived.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Failed | Self::DeadLetter | Self::Cancelled)
    }

    /// As it is stored.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in_progress",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::DeadLetter => "dead_letter",
            Self::Cancelled => "cancelled",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        use DeliveryStatus::*;
        [Pending, InProgress, Delivered, Failed, DeadLetter, Cancelled].into_iter().find(|s| s.text() == text)
    }
}

/// How much one claim takes.
#[derive(Clone, Debug)]
pub struct ClaimLimits {
    /// Deliveries in all.
    pub deliveries: usize,
    /// Bytes of their payloads in all; the first delivery is taken whatever its size.
    pub payload_bytes: usize,
    /// Deliveries of each webhook that `quotas` does not name.
    pub per_webhook: usize,
    /// Deliveries of single webhooks; 0 for none.
    pub quotas: HashMap<Uuid, usize>,
    /// How long the claim holds.
    pub lease: Duration,
}

impl ClaimLimits {
    pub(super) fn quota(&self, webhook: Uuid) -> usize {
        self.quotas.get(&webhook).copied().unwrap_or(self.per_webhook)
    }
}

#[cfg(test)]
impl ClaimLimits {
    /// As many of any webhook but those.
    pub(super) fn up_to(deliveries: usize, lease: Duration, skip: &[Uuid]) -> Self {
        let quotas = skip.iter().map(|id| (*id, 0)).collect();
        Self { deliveries, payload_bytes: usize::MAX, per_webhook: deliveries, quotas, lease }
    }
}

/// What disabled webhooks are owed at most; the oldest is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimits {
    /// Deliveries of one disabled webhook.
    pub deliveries_max: u64,
    /// How long one may wait.
    pub age_max: Duration,
}

/// Deliveries that a disabled webhook has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AbandonedDeliveries {
    pub webhook: String,
    pub deliveries: u64,
}

/// Beyond the bound, deliveries given up in one transaction; the rest has its turn with the next ones.
pub(super) const ABANDON_ROWS_MAX: i64 = 2_000;
/// What stands on a delivery that waited too long for its webhook to be enabled.
pub(super) const WAITED_TOO_LONG: &str = "given up: the webhook was disabled for longer than webhook_disabled_max_age";

/// How long a delivery that ended is kept, by how it ended.
pub(super) const RETENTION_MS: [(DeliveryStatus, i64); 4] = [
    (DeliveryStatus::Delivered, 7 * DAY_MS),
    (DeliveryStatus::Failed, 30 * DAY_MS),
    (DeliveryStatus::DeadLetter, 30 * DAY_MS),
    (DeliveryStatus::Cancelled, 30 * DAY_MS),
];
const DAY_MS: i64 = 24 * 3_600 * 1_000;

#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    pub status: Option<DeliveryStatus>,
    pub webhook_id: Option<Uuid>,
    pub rule_id: Option<Uuid>,
    pub event_id: Option<String>,
}

/// Deliveries that one call makes due again, in one transaction.
pub const RETRIES_MAX: u64 = 10_000;

/// Which deliveries are tried again: those created in `since_ms..until_ms` that ended badly.
#[derive(Clone, Debug)]
pub struct RetryFilter {
    pub since_ms: i64,
    pub until_ms: i64,
    /// Of `Failed`, `DeadLetter` and `Cancelled`; others are never tried again by hand.
    pub statuses: Vec<DeliveryStatus>,
    pub webhook_id: Option<Uuid>,
    pub rule_id: Option<Uuid>,
}

impl RetryFilter {
    /// The change that retries these deliveries make.
    pub(super) fn change(&self, retried: u64) -> Change {
        let time = |ms: i64| Timestamp::from_millisecond(ms).ok();
        Change::of(AuditKind::Delivery, "retry").with_after(json!({"retried": retried, "since": time(self.since_ms),
            "until": time(self.until_ms), "statuses": self.status_texts(), "webhook_id": self.webhook_id,
            "rule_id": self.rule_id}))
    }

    pub(super) fn status_texts(&self) -> Vec<&'static str> {
        let retryable = |status: &&DeliveryStatus| status.is_retryable();
        self.statuses.iter().filter(retryable).map(|status| status.text()).collect()
    }
}

/// The end of one attempt.
#[derive(Clone, Debug)]
pub struct DeliveryOutcome {
    pub id: Uuid,
    /// `Delivered`, `Pending` (try again after `wait_ms`), `Failed` (will not be tried again), `DeadLetter`.
    pub status: DeliveryStatus,
    pub attempts: u32,
    pub attempted_at_ms: i64,
    /// A wait, not a time: the clocks of the store and of whoever sends may differ.
    pub wait_ms: Option<i64>,
    pub status_code: Option<u16>,
    pub error: Option<String>,
}
