//! Anomaly configs of the admin API, the anomalies that they detect, and the state of their windows.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::rule::{Actions, Faults, enabled};
use crate::store::audit::{AuditKind, Audited};

/// A detection time further ahead than this comes from a clock that was since set back. Clocks may be hours apart.
pub(in crate::store) const EVENT_AHEAD_MS_MAX: i64 = 24 * 3_600 * 1_000;
/// How long anomaly events are kept.
pub(in crate::store) const EVENT_RETENTION_MS: i64 = 90 * 24 * 3_600 * 1_000;

/// An anomaly config as a person writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAnomalyConfig {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub app_id: Option<String>,
    #[serde(default)]
    pub event_category: Option<String>,
    #[serde(default)]
    pub event_type: Option<String>,
    pub detection_type: Detection,
    /// Its shape depends on the detection type; the reaction checks and compiles it.
    pub config: Value,
    #[serde(default = "cooldown_seconds")]
    pub cooldown_seconds: u64,
    #[serde(default)]
    pub actions: Actions,
    #[serde(default = "enabled")]
    pub enabled: bool,
}

fn cooldown_seconds() -> u64 {
    300
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Detection {
    Threshold,
    Rate,
    Count,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct AnomalyConfig {
    pub id: Uuid,
    #[serde(flatten)]
    pub document: NewAnomalyConfig,
    /// Counted since the document was last changed.
    pub faults: Faults,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A detected anomaly. Serializes as the body that a webhook and the bus subject receive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AnomalyEvent {
    pub id: Uuid,
    pub anomaly_config_id: Uuid,
    pub anomaly_config_name: String,
    pub detection_type: Detection,
    pub app_id: String,
    pub event_category: String,
    pub event_type: String,
    pub event_id: String,
    pub device_id: String,
    /// Empty if the event has none, and in records of earlier versions.
    #[serde(default)]
    pub user_id: String,
    pub timestamp_ms: i64,
    /// The measured value, the limit and `group`.
    pub details: Value,
    pub detected_at: Timestamp,
}

/// The window of one config, app and group.
#[derive(Clone, Debug, PartialEq)]
pub struct AnomalyState {
    /// How often it was written: as last read, 0 for a new one. It is only written over that version.
    pub version: u64,
    pub config_id: Uuid,
    pub app_id: String,
    /// The value at `group_by` as JSON text; empty without one.
    pub group: String,
    /// The detector's window as JSON, opaque to the store.
    pub window: Value,
    /// No second detection before this time, by the bus's clock.
    pub cooldown_until_ms: i64,
    pub updated_at_ms: i64,
}

impl Audited for AnomalyConfig {
    const KIND: AuditKind = AuditKind::Anomaly;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.document.name
    }
}
