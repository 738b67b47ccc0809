//! API keys: shown once, stored as SHA-256.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::store::audit::{AuditKind, Audited};
use crate::store::error::{StoreError, StoreErrorKind};

/// Keys in a store: every gateway process keeps all of them in memory.
pub const KEYS_MAX: u64 = 1_000_000;
/// Keys per page when a gateway reads them.
pub const KEYS_PAGE: usize = 10_000;
/// Changes after which a revocation is deleted. A reader that is further behind reads all keys again.
pub(in crate::store) const REVOCATIONS_KEPT: i64 = 10_000;
/// Random bytes of a key, written as twice as many hex characters.
const KEY_BYTES: usize = 32;

/// The SHA-256 of a key.
pub type KeyHash = [u8; 32];

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    pub app_id: String,
    pub name: String,
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub requests_per_second: Option<u32>,
    #[serde(default)]
    pub burst: Option<u32>,
}

/// A key's own rate limits; absent values default to the configured ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyLimits {
    pub requests_per_second: Option<u32>,
    pub burst: Option<u32>,
}

/// A stored key, without the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ApiKey {
    pub id: Uuid,
    pub app_id: String,
    pub name: String,
    pub expires_at: Option<Timestamp>,
    #[serde(flatten)]
    pub limits: KeyLimits,
    /// The minute in which a request with the key was last admitted.
    pub last_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// What a gateway needs to know about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedKey {
    pub id: Uuid,
    pub app_id: String,
    pub hash: KeyHash,
    pub expires_at_ms: Option<i64>,
    pub limits: KeyLimits,
    /// The version at which the key was created, from which a reader continues.
    pub version: u64,
}

/// Keys revoked since a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    /// The current version; each creation and each revocation increments it.
    pub version: u64,
    /// Whether `revoked` is complete. If not, all keys must be read again.
    pub complete: bool,
    pub revoked: Vec<KeyHash>,
    /// The store's clock, shared by all processes.
    pub now_ms: i64,
}

impl Revocations {
    pub(in crate::store) fn of(since: u64, version: i64, revoked: Vec<KeyHash>, now_ms: i64) -> Self {
        let oldest_known = version.saturating_sub(REVOCATIONS_KEPT).max(0).cast_unsigned();
        let version = version.cast_unsigned();
        // A store restored from a backup may be behind its reader.
        Self { version, complete: (oldest_known..=version).contains(&since), revoked, now_ms }
    }
}

impl NewApiKey {
    pub fn limits(&self) -> KeyLimits {
        KeyLimits { requests_per_second: self.requests_per_second, burst: self.burst }
    }
}

/// The hash that identifies a key.
pub fn key_hash(key: &[u8]) -> KeyHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, key).as_ref());
    hash
}

/// Generates a key and the hash to store.
pub(in crate::store) fn generate() -> Result<(String, KeyHash), StoreError> {
    let mut random = [0; KEY_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| StoreError::caused(StoreErrorKind::Unavailable, "draw key", "no random numbers"))?;
    let key = HEXLOWER.encode(&random);
    let hash = key_hash(key.as_bytes());
    Ok((key, hash))
}

fn time<'de, D: Deserializer<'de>>(document: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(document)? else { return Ok(None) };
    let wrong = |_| D::Error::invalid_value(Unexpected::Str(&text), &"a time in RFC 3339 such as 2027-01-31T09:00:00Z");
    text.parse().map(Some).map_err(wrong)
}

impl Audited for ApiKey {
    const KIND: AuditKind = AuditKind::Key;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}
