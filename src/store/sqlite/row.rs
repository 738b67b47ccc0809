//! Reading values from rows.

use jiff::Timestamp;
use rusqlite::types::ToSql;
use rusqlite::{Connection, Row};
use uuid::Uuid;

use super::error::damaged;

/// A stored time; one out of range means damage.
pub(super) fn timestamp(ms: i64) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(ms).map_err(damaged)
}

pub(super) fn uuid(bytes: [u8; 16]) -> Uuid {
    Uuid::from_bytes(bytes)
}

/// Runs a select with these conditions, newest first.
pub(super) fn query_newest<T>(
    connection: &Connection,
    select: &str,
    wheres: Vec<(&str, Box<dyn ToSql>)>,
    limit: usize,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    let (conditions, mut values): (Vec<&str>, Vec<Box<dyn ToSql>>) = wheres.into_iter().unzip();
    let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    values.push(Box::new(limit as i64));
    let mut statement = connection.prepare_cached(&format!("{select} WHERE {conditions} ORDER BY seq DESC LIMIT ?"))?;
    statement.query_map(rusqlite::params_from_iter(values), read)?.collect()
}
