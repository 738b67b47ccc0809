//! The migrations of the SQLite file, embedded in the binary.
//!
//! Invariant: a file is either at a version that this binary knows, or it is refused.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::failed;
use crate::store::{StoreError, StoreErrorKind};

/// In order; the version of each is its place, from 1. Never edited after a release.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_store", include_str!("../../../sql/sqlite/0001_store.sql")),
    ("0002_webhooks", include_str!("../../../sql/sqlite/0002_webhooks.sql")),
    ("0003_faults", include_str!("../../../sql/sqlite/0003_faults.sql")),
];

/// Brings the file to the newest version, all steps in one transaction.
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
            (place as i64 + 1, name, super::now_ms()),
        )
        .map_err(failed(context))?;
    }
    tx.commit().map_err(failed(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_schema_is_refused_with_the_files_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.db");
        let mut connection = crate::sqlite::open_writer(&path).unwrap();
        migrate(&mut connection, &path).unwrap();
        migrate(&mut connection, &path).unwrap();
        connection.execute("INSERT INTO schema_migrations VALUES (99, 'later', 0)", []).unwrap();

        let error = migrate(&mut connection, &path).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("store.db has schema version 99"), "{source}");
    }
}
