//! Opening the file: lock, schema, secrets key, readers and the writer thread.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc, watch};

use super::engine::{Engine, Shared};
use super::error::fault_kind;
use super::health::Health;
use super::{deliveries, schema, webhooks, writer};
use crate::base::sqlite::{Watch, explain, lock_file, open_reader, open_writer};
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets;
use crate::store::secrets::Sealer;
use crate::store::settings::SqliteSettings;

const LOCK_NAME: &str = "store.lock";
/// Connections for reads.
const READERS: usize = 3;
/// Prepared statements cached per connection.
const PREPARED_STATEMENTS_MAX: usize = 64;
/// The size that the write-ahead log is truncated to after a burst, in bytes.
const LOG_BYTES_KEPT: i64 = 8 * 1024 * 1024;

impl Engine {
    pub(in crate::store) fn open(settings: SqliteSettings) -> Result<Self, StoreError> {
        let path = settings.dir.join("store.db");
        let named = |error: rusqlite::Error| {
            let text = explain(&error);
            StoreError::caused(fault_kind(&error), "open store", format!("{}: {text}", path.display()))
        };
        fs::create_dir_all(&settings.dir).map_err(|error| {
            StoreError::caused(
                StoreErrorKind::Unavailable,
                "create data directory",
                format!("{}: {error}", settings.dir.display()),
            )
        })?;
        let lock = lock(&settings.dir)?;
        let mut connection = open_writer(&path).map_err(named)?;
        connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(named)?;
        connection.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT).map_err(named)?;
        // The file holds personal data and credentials: deleted rows are overwritten.
        connection.pragma_update(None, "secure_delete", true).map_err(named)?;
        connection.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
        schema::migrate(&mut connection, &path)?;
        let sealed = webhooks::count_sealed(&connection)?;
        let sealer = Sealer::open(&settings.dir, settings.secrets_key.as_deref(), sealed)?;
        webhooks::check_key(&connection, &sealer, sealed, settings.secrets_key_replaced)?;
        webhooks::seal_clear_secrets(&connection, &sealer)?;
        deliveries::release_leases(&connection)?;
        let mut readers = Vec::with_capacity(READERS);
        for _ in 0..READERS {
            let reader = open_reader(&path).map_err(named)?;
            reader.set_prepared_statement_cache_capacity(PREPARED_STATEMENTS_MAX);
            readers.push(reader);
        }

        let key = settings.dir.join(secrets::KEY_FILE);
        let key = settings.secrets_key.is_none().then_some(key);
        let others: Vec<PathBuf> = [settings.dir.join(LOCK_NAME)].into_iter().chain(key).collect();
        let watch = Watch::over(&path, &others).map_err(|error| {
            let text = format!("{}: {error}", settings.dir.display());
            StoreError::caused(StoreErrorKind::Unavailable, "open store", text)
        })?;
        let health = Arc::new(Health::new(path, watch));

        let writer_health = health.clone();
        let (commands, receiver) = mpsc::channel(writer::QUEUE_JOBS_MAX);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                writer::run(connection, receiver, &writer_health);
                drop(lock);
            })
            .map_err(|error| StoreError::caused(StoreErrorKind::Unavailable, "start store writer", error))?;
        let shared = Arc::new(Shared {
            commands,
            writer: Mutex::new(Some(writer)),
            readers: Mutex::new(readers),
            reading: Arc::new(Semaphore::new(READERS)),
            sealer: Arc::new(sealer),
            health,
            changes: Arc::new(watch::Sender::new(0)),
            work: Arc::new(watch::Sender::new(0)),
        });
        Ok(Self(shared, None))
    }
}

/// Locks the directory for this process: another one would release its leases and miss its changes. The lock lasts
/// while the file is open, so a dead process holds none.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK_NAME);
    let refused = |error: TryLockError| {
        let detail = match error {
            TryLockError::WouldBlock => format!("another process uses the store in {}", dir.display()),
            TryLockError::Error(error) => format!("{}: {error}", path.display()),
        };
        StoreError::caused(StoreErrorKind::Unavailable, "lock store", detail)
    };
    lock_file(&path).map_err(refused)
}
