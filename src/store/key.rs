//! API keys: shown once, kept as SHA-256.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    pub app_id: String,
    pub name: String,
}

/// A key without the key.
#[derive(Clone, Debug, Serialize)]
pub struct ApiKey {
    pub id: Uuid,
    pub app_id: String,
    pub name: String,
    pub created_at: Timestamp,
}
