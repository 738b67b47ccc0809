//! The rule document of the admin API.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::store::audit::{AuditKind, Audited};

/// A rule as a person writes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRule {
    pub name: String,
    #[serde(default)]
    pub description: String,
    #[serde(default)]
    pub app_id: Option<String>,
    #[serde(default)]
    pub event_category: Option<String>,
    #[serde(default)]
    pub event_type: Option<String>,
    #[serde(default)]
    pub conditions: Vec<Condition>,
    #[serde(default)]
    pub expression: Option<String>,
    #[serde(default)]
    pub actions: Actions,
    #[serde(default)]
    pub priority: i64,
    #[serde(default = "enabled")]
    pub enabled: bool,
}

pub(in crate::store) fn enabled() -> bool {
    true
}

/// A stored rule: the document and what the store adds.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Rule {
    pub id: Uuid,
    #[serde(flatten)]
    pub document: NewRule,
    /// Counted since the document was last changed.
    pub faults: Faults,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Events that a rule or an anomaly config failed to evaluate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Faults {
    pub count: u64,
    pub last_at: Option<Timestamp>,
    /// The part of the document that failed; never a value of an event.
    pub last_error: Option<String>,
}

/// Faults to add to a document, if it was not changed since.
#[derive(Clone, Debug, PartialEq)]
pub struct DocumentFaults {
    pub id: Uuid,
    /// The `updated_at` of the document that failed.
    pub as_of: Timestamp,
    pub faults: Faults,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// JSONPath into the rule view.
    pub path: String,
    pub operator: Operator,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    Contains,
    Regex,
    In,
    Exists,
    NotExists,
}

/// The actions of a match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Actions {
    /// Ids or names when written; unique ids when stored.
    #[serde(default)]
    pub webhooks: Vec<String>,
    /// Subjects with `{app_id}`, `{category}` and `{type}` filled in.
    #[serde(default)]
    pub publish_subjects: Vec<String>,
}

impl Audited for Rule {
    const KIND: AuditKind = AuditKind::Rule;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.document.name
    }
}
