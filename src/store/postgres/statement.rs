//! Running cached statements in a transaction.

use tokio_postgres::types::ToSql;

use super::client::Client;
use super::error::failed;
use crate::store::error::StoreError;

/// Runs one cached statement.
pub(super) async fn run(
    tx: &Client,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
    context: &'static str,
) -> Result<usize, StoreError> {
    let statement = tx.prepare_cached(sql).await.map_err(failed(context))?;
    Ok(tx.execute(&statement, values).await.map_err(failed(context))? as usize)
}
