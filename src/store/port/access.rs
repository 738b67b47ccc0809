//! API keys and tokens of the admin API.

use uuid::Uuid;

use super::store::{Inner, Store};
use crate::store::access::{
    AdminToken, ApiKey, FoundToken, HashedKey, NewAdminToken, NewApiKey, Revocations, TokenHash,
};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// Creates a key (64 hex characters), which is returned only here.
    pub async fn create_key(&self, new: NewApiKey) -> Result<(ApiKey, String), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_key(new).await,
            Inner::Postgres(engine) => engine.create_key(new).await,
        }
    }

    pub async fn keys(&self, page: PageRequest) -> Result<Page<ApiKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.keys(page).await,
            Inner::Postgres(engine) => engine.keys(page).await,
        }
    }

    pub async fn key(&self, id: &str) -> Result<Option<ApiKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.key(id).await,
            Inner::Postgres(engine) => engine.key(id).await,
        }
    }

    pub async fn revoke_key(&self, id: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.revoke_key(id).await,
            Inner::Postgres(engine) => engine.revoke_key(id).await,
        }
    }

    /// The keys revoked since a version. Bounded, see [`Revocations::complete`].
    pub async fn revocations(&self, since: u64) -> Result<Revocations, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.revocations(since).await,
            Inner::Postgres(engine) => engine.revocations(since).await,
        }
    }

    /// The existing keys that were created after a version, in that order; at most [`KEYS_PAGE`].
    pub async fn keys_after(&self, version: u64) -> Result<Vec<HashedKey>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.keys_after(version).await,
            Inner::Postgres(engine) => engine.keys_after(version).await,
        }
    }

    /// Records the minute (its start, in milliseconds) in which keys were last used, unless a later one is known.
    pub async fn record_key_use(&self, used: &[(Uuid, i64)]) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.record_key_use(used).await,
            Inner::Postgres(engine) => engine.record_key_use(used).await,
        }
    }
}

impl Store {
    /// Creates a token, which is returned only here.
    pub async fn create_admin_token(&self, new: NewAdminToken) -> Result<(AdminToken, String), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_admin_token(new).await,
            Inner::Postgres(engine) => engine.create_admin_token(new).await,
        }
    }

    pub async fn admin_tokens(&self, page: PageRequest) -> Result<Page<AdminToken>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.admin_tokens(page).await,
            Inner::Postgres(engine) => engine.admin_tokens(page).await,
        }
    }

    /// By its id or name.
    pub async fn admin_token(&self, key: &str) -> Result<Option<AdminToken>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.admin_token(key).await,
            Inner::Postgres(engine) => engine.admin_token(key).await,
        }
    }

    /// False if there is none.
    pub async fn revoke_admin_token(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.revoke_admin_token(key).await,
            Inner::Postgres(engine) => engine.revoke_admin_token(key).await,
        }
    }

    pub async fn admin_token_by_hash(&self, hash: TokenHash) -> Result<Option<FoundToken>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.admin_token_by_hash(hash).await,
            Inner::Postgres(engine) => engine.admin_token_by_hash(hash).await,
        }
    }

    /// Records that the token is used in this minute.
    pub async fn record_token_use(&self, id: Uuid) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.record_token_use(id).await,
            Inner::Postgres(engine) => engine.record_token_use(id).await,
        }
    }
}
