//! A webhook call to be made, its attempts and its outcome.

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
    /// The request body as JSON.
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
    /// Describes a change of a delivery, without the payload, which is a user's event.
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
    /// Whether it ended without being delivered.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Failed | Self::DeadLetter | Self::Cancelled)
    }

    /// As stored.
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

/// The limits of one claim.
#[derive(Clone, Debug)]
pub struct ClaimLimits {
    /// Deliveries in total.
    pub deliveries: usize,
    /// Bytes of payload in total; the first delivery is taken whatever its size.
    pub payload_bytes: usize,
    /// Deliveries per webhook that has no quota.
    pub per_webhook: usize,
    /// Deliveries of single webhooks; 0 for none.
    pub quotas: HashMap<Uuid, usize>,
    /// How long the claim lasts.
    pub lease: Duration,
}

impl ClaimLimits {
    pub(super) fn quota(&self, webhook: Uuid) -> usize {
        self.quotas.get(&webhook).copied().unwrap_or(self.per_webhook)
    }
}

#[cfg(test)]
impl ClaimLimits {
    /// Claims any number per webhook, except for those in `skip`.
    pub(super) fn up_to(deliveries: usize, lease: Duration, skip: &[Uuid]) -> Self {
        let quotas = skip.iter().map(|id| (*id, 0)).collect();
        Self { deliveries, payload_bytes: usize::MAX, per_webhook: deliveries, quotas, lease }
    }
}

/// The backlog that a disabled webhook may have; the oldest deliveries beyond it are abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BacklogLimits {
    /// Deliveries of one disabled webhook.
    pub deliveries_max: u64,
    /// How long a delivery may wait.
    pub age_max: Duration,
}

/// Deliveries that a disabled webhook has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AbandonedDeliveries {
    pub webhook: String,
    pub deliveries: u64,
}

/// Deliveries beyond the limit that are abandoned in one transaction; the next ones abandon the rest.
pub(super) const ABANDON_ROWS_MAX: i64 = 2_000;
/// The error of a delivery that waited too long for its webhook to be enabled.
pub(super) const WAITED_TOO_LONG: &str = "given up: the webhook was disabled for longer than webhook_disabled_max_age";

/// How long an ended delivery is kept, by its status.
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

/// Selects the deliveries to retry: those created in `since_ms..until_ms` that failed.
#[derive(Clone, Debug)]
pub struct RetryFilter {
    pub since_ms: i64,
    pub until_ms: i64,
    /// Of `Failed`, `DeadLetter` and `Cancelled`; others are never retried by hand.
    pub statuses: Vec<DeliveryStatus>,
    pub webhook_id: Option<Uuid>,
    pub rule_id: Option<Uuid>,
}

impl RetryFilter {
    /// Describes the change that retries these deliveries.
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

/// The outcome of one attempt.
#[derive(Clone, Debug)]
pub struct DeliveryOutcome {
    pub id: Uuid,
    /// `Delivered`, `Pending` (retry after `wait_ms`), `Failed` (no retry) or `DeadLetter`.
    pub status: DeliveryStatus,
    pub attempts: u32,
    pub attempted_at_ms: i64,
    /// A duration, not a time: the clocks of the store and the sender may differ.
    pub wait_ms: Option<i64>,
    pub status_code: Option<u16>,
    pub error: Option<String>,
}
