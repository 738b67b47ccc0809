//! Looking rows up by id or name, and keeping names unique.

use uuid::Uuid;

use super::client::Client;
use super::error::failed;
use super::row::is_storable;
use crate::store::error::{StoreError, StoreErrorKind};

/// The id for an id or a name. An id takes precedence over a name that looks like one. `lock` is `FOR UPDATE` or empty.
pub(super) async fn find(client: &Client, table: &str, key: &str, lock: &str) -> Result<Option<Uuid>, StoreError> {
    if !is_storable(key) {
        return Ok(None);
    }
    let sql =
        format!("SELECT id FROM {table} WHERE id = $1 OR name = $2 ORDER BY id = $1 DESC NULLS LAST LIMIT 1 {lock}");
    let id = Uuid::try_parse(key).ok();
    let row = client.query_opt(&sql, &[&id, &key]).await.map_err(failed("find document"))?;
    Ok(row.map(|row| row.get(0)))
}

/// Refuses a name that another row of the table has.
pub(super) async fn refuse_taken(
    client: &Client,
    table: &str,
    name: &str,
    own: Option<Uuid>,
) -> Result<(), StoreError> {
    let sql = format!("SELECT 1 FROM {table} WHERE name = $1 AND id IS DISTINCT FROM $2");
    match client.query_opt(&sql, &[&name, &own]).await.map_err(failed("check name"))? {
        Some(_) => Err(StoreError::new(StoreErrorKind::NameTaken, "check name")),
        None => Ok(()),
    }
}

/// Converts the error of a write that lost a race for a name.
pub(super) fn name_taken(context: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError {
    move |error| match error.code() {
        Some(code) if *code == tokio_postgres::error::SqlState::UNIQUE_VIOLATION => {
            StoreError::new(StoreErrorKind::NameTaken, context)
        }
        _ => failed(context)(error),
    }
}
