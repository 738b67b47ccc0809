//! The migrations, embedded in the binary, applied under an advisory lock.
//!
//! Invariant: a database is at the version of this binary, or the store does not open.

use tokio_postgres::Client;

use super::connect::Reach;
use super::failed;
use crate::store::{Migrated, PostgresSettings, StoreError, StoreErrorKind};

/// In order; the version of each is its place, from 1. Never edited after a release.
const MIGRATIONS: &[(&str, &str)] = &[("0001_store", include_str!("../../../sql/postgres/0001_store.sql"))];
/// The advisory lock of everybody who migrates (`caus` in ASCII).
const LOCK: i64 = 0x6361_7573;

/// Brings the schema to the version of this binary.
pub(in crate::store) async fn migrate(settings: PostgresSettings) -> Result<Migrated, StoreError> {
    let reach = Reach::of(&settings)?;
    with_client(&reach, |client| async move { bring(client, Allowed::Anything).await }).await
}

/// An empty database is brought up to date; one at another version only when `migrate` says so.
pub(super) async fn check(reach: &Reach, migrate: bool) -> Result<(), StoreError> {
    let allowed = if migrate { Allowed::Anything } else { Allowed::Empty };
    with_client(reach, |client| async move { bring(client, allowed).await }).await.map(|_| ())
}

/// Which databases may be changed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    Empty,
    Anything,
}

/// Runs on one connection while its driver runs beside.
async fn with_client<T, F>(reach: &Reach, run: impl FnOnce(Client) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let (client, connection) = reach.connect().await?;
    let mut running = std::pin::pin!(run(client));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        done = &mut running => done,
        ended = &mut connection => match ended {
            // The driver ends first when the client is gone or the server is; the use case knows which.
            Ok(()) => running.await,
            Err(error) => Err(failed("migrate store")(error)),
        },
    }
}

async fn bring(mut client: Client, allowed: Allowed) -> Result<Migrated, StoreError> {
    let context = "migrate store";
    // Migrations may take longer than statements usually may.
    let tx = client.transaction().await.map_err(failed(context))?;
    tx.batch_execute("SET LOCAL statement_timeout = 0").await.map_err(failed(context))?;
    let exists: bool =
        tx.query_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[]).await.map_err(failed(context))?.get(0);
    let newest = MIGRATIONS.len() as i32;
    if exists && version(&tx).await? == newest {
        return Ok(Migrated { from: newest as u32, to: newest as u32 });
    }
    tx.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await.map_err(failed(context))?;
    tx.batch_execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version integer PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())",
    )
    .await
    .map_err(failed(context))?;
    // Somebody else may have been first: asked again under the lock.
    let current = version(&tx).await?;
    let refused = |detail: String| Err(StoreError::caused(StoreErrorKind::Refused, "check schema", detail));
    if current > newest {
        return refused(format!(
            "the database has schema version {current}, and this binary knows versions up to {newest}: run a newer binary"
        ));
    }
    if current > 0 && current < newest && allowed == Allowed::Empty {
        return refused(format!(
            "the database has schema version {current}, and this binary needs {newest}: run `causality migrate`"
        ));
    }
    for (place, (name, sql)) in MIGRATIONS.iter().enumerate().skip(current as usize) {
        tx.batch_execute(sql).await.map_err(failed(context))?;
        let version = place as i32 + 1;
        tx.execute("INSERT INTO schema_migrations (version, name) VALUES ($1, $2)", &[&version, name])
            .await
            .map_err(failed(context))?;
    }
    tx.commit().await.map_err(failed(context))?;
    Ok(Migrated { from: current as u32, to: newest as u32 })
}

async fn version(tx: &tokio_postgres::Transaction<'_>) -> Result<i32, StoreError> {
    let row = tx.query_one("SELECT coalesce(max(version), 0) FROM schema_migrations", &[]).await;
    Ok(row.map_err(failed("read schema version"))?.get(0))
}
