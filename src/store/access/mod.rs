//! Credentials: API keys for sending events, and tokens for the admin API.

mod admin_token;
mod api_key;

pub use admin_token::{
    AdminRole, AdminToken, FoundToken, NewAdminToken, TOKEN_PREFIX, TOKENS_MAX, TokenHash, hash_token, is_token,
};
pub(super) use admin_token::{generate as generate_token, minute_of};
pub use api_key::{ApiKey, HashedKey, KEYS_MAX, KEYS_PAGE, KeyHash, KeyLimits, NewApiKey, Revocations, key_hash};
pub(super) use api_key::{REVOCATIONS_KEPT, generate as generate_key};
