//! Tokens of the admin API: shown once, stored as SHA-256.

use data_encoding::HEXLOWER;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use crate::store::audit::{AuditKind, Audited};
use crate::store::error::{StoreError, StoreErrorKind};

/// The prefix of every token, recognizable to people and secret scanners.
pub const TOKEN_PREFIX: &str = "cadm_";
/// Tokens in a store, expired ones included. They are for people and scripts, not for apps.
pub const TOKENS_MAX: u32 = 10_000;
/// Random bytes of a token, written as twice as many hex characters.
const TOKEN_BYTES: usize = 32;
/// Uses are recorded to the minute.
const MINUTE_MS: i64 = 60_000;

/// The SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// What the holder of a token may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdminRole {
    /// Reads everything except secrets.
    Viewer,
    /// Also changes webhooks, rules, anomaly configs, deliveries and dead letters.
    Operator,
    /// Also manages keys and tokens, and reads the audit log.
    Admin,
}

impl AdminRole {
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Operator, Self::Admin];

    /// As written and stored.
    pub fn text(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }

    pub(in crate::store) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.text() == text)
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAdminToken {
    pub name: String,
    pub role: AdminRole,
    #[serde(default, deserialize_with = "time")]
    pub expires_at: Option<Timestamp>,
}

/// Does not repeat the text, as the parser's own message would.
fn time<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(reader)? else { return Ok(None) };
    let wrong = |_| D::Error::custom("invalid time, expected a time in RFC 3339 such as `2100-01-01T00:00:00Z`");
    text.parse().map(Some).map_err(wrong)
}

/// A stored token, without the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AdminToken {
    pub id: Uuid,
    pub name: String,
    pub role: AdminRole,
    /// Null: never expires.
    pub expires_at: Option<Timestamp>,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// A token found by its hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundToken {
    pub token: AdminToken,
    /// By the store's clock.
    pub expired: bool,
}

/// The hash that is stored of a token.
pub fn hash_token(token: &str) -> TokenHash {
    let mut hash = TokenHash::default();
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

/// Whether a text has the form of a token; anything else is not looked up.
pub fn is_token(text: &str) -> bool {
    let hex = text.strip_prefix(TOKEN_PREFIX);
    hex.is_some_and(|hex| hex.len() == 2 * TOKEN_BYTES && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Generates a token and the hash to store.
pub(in crate::store) fn generate() -> Result<(String, TokenHash), StoreError> {
    let mut random = [0; TOKEN_BYTES];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| StoreError::caused(StoreErrorKind::Unavailable, "draw token", "no random numbers"))?;
    let token = format!("{TOKEN_PREFIX}{}", HEXLOWER.encode(&random));
    let hash = hash_token(&token);
    Ok((token, hash))
}

/// The start of the minute that contains a time.
pub(in crate::store) fn minute_of(ms: i64) -> i64 {
    ms - ms.rem_euclid(MINUTE_MS)
}

impl Audited for AdminToken {
    const KIND: AuditKind = AuditKind::Token;

    fn id(&self) -> Uuid {
        self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_recognized_and_stored_as_its_hash() {
        let (token, hash) = generate().unwrap();
        assert!(is_token(&token) && token.starts_with(TOKEN_PREFIX));
        assert_eq!(hash, hash_token(&token));
        assert_ne!(generate().unwrap().0, token);
        for other in ["", "cadm_", &token[1..], &token[..68], &format!("{token}0"), &token.replace("cadm_", "cadm_x")] {
            assert!(!is_token(other), "{other}");
        }
    }

    #[test]
    fn roles_are_ordered_and_parse_as_written() {
        assert!(AdminRole::Viewer < AdminRole::Operator && AdminRole::Operator < AdminRole::Admin);
        for role in AdminRole::ALL {
            assert_eq!(AdminRole::parse(role.text()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.text());
        }
        assert_eq!((minute_of(59_999), minute_of(60_000), minute_of(-1)), (0, 60_000, -60_000));
    }
}
