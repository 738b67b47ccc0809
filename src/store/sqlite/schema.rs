//! The migrations of the SQLite file, embedded in the binary.
//!
//! Invariant: a file with a newer version than this binary knows is refused.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::clock::now_ms;
use super::error::failed;
use crate::store::error::{StoreError, StoreErrorKind};

/// In order; the version is the position, from 1. Never edited after a release.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_store", include_str!("../../../sql/sqlite/0001_store.sql")),
    ("0002_webhooks", include_str!("../../../sql/sqlite/0002_webhooks.sql")),
    ("0003_faults", include_str!("../../../sql/sqlite/0003_faults.sql")),
    ("0004_causes", include_str!("../../../sql/sqlite/0004_causes.sql")),
    ("0005_keys", include_str!("../../../sql/sqlite/0005_keys.sql")),
    ("0006_admin", include_str!("../../../sql/sqlite/0006_admin.sql")),
];

/// Migrates the file to the newest version, in one transaction.
pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let context = "migrate store";
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed(context))?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL)",
    )
    .map_err(failed(context))?;
    let current: usize = tx
        .query_row("SELECT coalesce(max(version), 0) FROM schema_migrations", [], |row| row.get::<_, u32>(0))
        .map_err(failed(context))? as usize;
    if current > MIGRATIONS.len() {
        let detail = format!(
            "{} has schema version {current}, and this binary knows versions up to {}: run a newer binary",
            path.display(),
            MIGRATIONS.len()
        );
        return Err(StoreError::caused(StoreErrorKind::Unavailable, context, detail));
    }
    for (place, (name, sql)) in MIGRATIONS.iter().enumerate().skip(current) {
        tx.execute_batch(sql).map_err(failed(context))?;
        tx.execute(
            "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?1, ?2, ?3)",
            (place as i64 + 1, name, now_ms()),
        )
        .map_err(failed(context))?;
    }
    tx.commit().map_err(failed(context))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{EARLIER, earlier_records_are_respected};
    use crate::store::{SqliteSettings, Store};

    /// An earlier version's record of a sequence holds for any message with it.
    #[tokio::test]
    async fn records_without_times_still_count_as_consumed() {
        let dir = tempfile::tempdir().unwrap();
        let connection = crate::base::sqlite::open_writer(&dir.path().join("store.db")).unwrap();
        let sql = "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at INTEGER NOT NULL)";
        connection.execute_batch(sql).unwrap();
        for (place, (name, sql)) in MIGRATIONS[..3].iter().enumerate() {
            connection.execute_batch(sql).unwrap();
            connection.execute("INSERT INTO schema_migrations VALUES (?1, ?2, 0)", (place as i64 + 1, name)).unwrap();
        }
        connection.execute_batch(EARLIER).unwrap();
        drop(connection);
        let settings = SqliteSettings { dir: dir.path().to_owned(), secrets_key: None, secrets_key_replaced: false };
        earlier_records_are_respected(Store::open_sqlite(settings).unwrap()).await;
    }

    #[test]
    fn a_newer_schema_is_refused_and_the_file_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut connection = crate::base::sqlite::open_writer(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        migrate(&mut connection, &path).unwrap();
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'later', 0)", []).unwrap();

        let error = migrate(&mut connection, &path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("store.db has schema version 99"), "{source}");
    }
}
