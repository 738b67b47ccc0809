//! API keys: shown once, kept as SHA-256.

use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{StoreError, StoreErrorKind};

/// Random bytes of a key; it is written with twice as many hex characters.
const KEY_BYTES: usize = 32;

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

/// A new key, and what is kept of it.
pub(super) fn generate() -> Result<(String, Vec<u8>), StoreError> {
    let mut random = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| StoreError::caused(StoreErrorKind::Unavailable, "draw key", "no random numbers"))?;
    let key: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let hash = digest(&SHA256, key.as_bytes()).as_ref().to_vec();
    Ok((key, hash))
}
