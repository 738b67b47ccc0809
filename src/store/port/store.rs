//! The store over the configured engine: opening, health and closing.

use tokio::sync::watch;

use crate::base::sqlite::FailedFsync;
use crate::store::error::StoreError;
use crate::store::settings::{PostgresSettings, SqliteSettings};
use crate::store::status::{Migrated, StoreStatus};
use crate::store::{postgres, sqlite};

/// The store over the configured engine. Cheap to clone.
#[derive(Clone)]
pub struct Store(pub(in crate::store) Inner);

#[derive(Clone)]
pub(in crate::store) enum Inner {
    Sqlite(sqlite::Engine),
    Postgres(postgres::Engine),
}

/// Migrates the schema of a PostgreSQL database to this binary's version.
pub async fn migrate_postgres(settings: PostgresSettings) -> Result<Migrated, StoreError> {
    postgres::migrate(settings).await
}

impl Store {
    /// Opens the SQLite engine, migrates it and starts its writer thread.
    pub fn open_sqlite(settings: SqliteSettings) -> Result<Self, StoreError> {
        Ok(Self(Inner::Sqlite(sqlite::Engine::open(settings)?)))
    }

    /// Connects to PostgreSQL, and checks or migrates its schema.
    pub async fn connect_postgres(settings: PostgresSettings) -> Result<Self, StoreError> {
        Ok(Self(Inner::Postgres(postgres::Engine::connect(settings).await?)))
    }

    /// Changes with every committed change of a webhook, rule, anomaly config or key.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.changes(),
            Inner::Postgres(engine) => engine.changes(),
        }
    }

    /// Changes whenever deliveries or outbox messages may have become due.
    pub fn work(&self) -> watch::Receiver<u64> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.work(),
            Inner::Postgres(engine) => engine.work(),
        }
    }

    /// Whether other processes may use it too.
    pub fn is_shared(&self) -> bool {
        matches!(self.0, Inner::Postgres(_))
    }

    /// Fails if the store cannot be reached, or its files cannot be written or found.
    pub async fn ping(&self) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.ping().await,
            Inner::Postgres(engine) => engine.ping().await,
        }
    }

    /// A named warning for operators, although everything works.
    pub fn warning(&self) -> Option<(&'static str, Option<String>)> {
        match &self.0 {
            Inner::Sqlite(engine) => Some(engine.warning()),
            Inner::Postgres(_) => None,
        }
    }

    /// Calls `handler` when an fsync fails, on the thread on which it failed. The store stores nothing from then on, and
    /// the process must end. Only SQLite syncs files itself.
    pub fn on_failed_fsync(&self, handler: fn(&FailedFsync)) {
        if let Inner::Sqlite(engine) = &self.0 {
            engine.on_failed_fsync(handler);
        }
    }

    /// Counts for the status and the metrics.
    pub async fn status(&self) -> Result<StoreStatus, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.status().await,
            Inner::Postgres(engine) => engine.status().await,
        }
    }

    pub async fn close(&self) {
        match &self.0 {
            Inner::Sqlite(engine) => engine.close().await,
            Inner::Postgres(engine) => engine.close().await,
        }
    }
}
