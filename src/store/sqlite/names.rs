//! Looking rows up by id or name, and keeping names unique.

use rusqlite::{Connection, OptionalExtension};
use uuid::Uuid;

use super::error::failed;
use super::row::uuid;
use crate::store::error::{StoreError, StoreErrorKind};

/// The id for an id or a name. An id takes precedence over a name that looks like one.
pub(super) fn find(connection: &Connection, table: &str, key: &str) -> Result<Option<Uuid>, StoreError> {
    let context = "find document";
    let by = |column: &str, value: &dyn rusqlite::ToSql| {
        let mut statement = connection.prepare_cached(&format!("SELECT id FROM {table} WHERE {column} = ?1"))?;
        statement.query_row([value], |row| row.get(0).map(uuid)).optional()
    };
    if let Ok(id) = Uuid::try_parse(key)
        && let Some(found) = by("id", &id.into_bytes()).map_err(failed(context))?
    {
        return Ok(Some(found));
    }
    by("name", &key).map_err(failed(context))
}

/// Refuses a name that another row of the table has.
pub(super) fn refuse_taken(
    connection: &Connection,
    table: &str,
    name: &str,
    own: Option<Uuid>,
) -> Result<(), StoreError> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT id FROM {table} WHERE name = ?1")).map_err(failed("check name"))?;
    let holder = statement.query_row([name], |row| row.get(0).map(uuid)).optional().map_err(failed("check name"))?;
    match holder {
        Some(holder) if Some(holder) != own => Err(StoreError::new(StoreErrorKind::NameTaken, "check name")),
        _ => Ok(()),
    }
}
