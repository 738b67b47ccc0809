//! The migrations, embedded in the binary and applied under an advisory lock.
//!
//! Invariant: the database has this binary's schema version, or the store does not open.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::Connector;
use super::error;
use crate::base::errors::chain;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::settings::PostgresSettings;
use crate::store::status::Migrated;

/// Names and statements, in order; the version is the position, from 1.
type Migrations = &'static [(&'static str, &'static str)];

/// Never edited after a release.
const MIGRATIONS: Migrations = &[
    ("0001_store", include_str!("../../../sql/postgres/0001_store.sql")),
    ("0002_webhooks", include_str!("../../../sql/postgres/0002_webhooks.sql")),
    ("0003_faults", include_str!("../../../sql/postgres/0003_faults.sql")),
    ("0004_causes", include_str!("../../../sql/postgres/0004_causes.sql")),
    ("0005_keys", include_str!("../../../sql/postgres/0005_keys.sql")),
    ("0006_admin", include_str!("../../../sql/postgres/0006_admin.sql")),
];
/// The advisory lock for migrations (`caus` in ASCII).
const LOCK: i64 = 0x6361_7573;

/// Migrates the schema to this binary's version.
pub(in crate::store) async fn migrate(settings: PostgresSettings) -> Result<Migrated, StoreError> {
    let connector = Connector::of(&settings)?;
    migrate_with(MIGRATIONS, &connector, MigrationScope::Any).await
}

/// Migrates an empty database; one at another version only if `migrate` is set.
pub(super) async fn check(connector: &Connector, migrate: bool) -> Result<(), StoreError> {
    let scope = if migrate { MigrationScope::Any } else { MigrationScope::Empty };
    migrate_with(MIGRATIONS, connector, scope).await.map(|_| ())
}

async fn migrate_with(
    migrations: Migrations,
    connector: &Connector,
    scope: MigrationScope,
) -> Result<Migrated, StoreError> {
    with_client(connector, |client| async move { migrate_in(client, migrations, scope).await }).await
}

/// Which databases may be migrated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum MigrationScope {
    Empty,
    Any,
}

/// Runs on one connection while polling its driver.
async fn with_client<T, F>(connector: &Connector, run: impl FnOnce(Client) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let (client, connection) = connector.connect().await?;
    let mut running = std::pin::pin!(run(client));
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        biased;
        done = &mut running => done,
        ended = &mut connection => match ended {
            // The driver ends first when the client or the server is gone; the use case knows which.
            Ok(()) => running.await,
            Err(error) => Err(failed("migrate store")(error)),
        },
    }
}

async fn migrate_in(mut client: Client, migrations: Migrations, scope: MigrationScope) -> Result<Migrated, StoreError> {
    let context = "migrate store";
    // Migrations may exceed the usual statement timeout.
    let tx = client.transaction().await.map_err(failed(context))?;
    tx.batch_execute("SET LOCAL statement_timeout = 0").await.map_err(failed(context))?;
    let exists: bool =
        tx.query_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[]).await.map_err(failed(context))?.get(0);
    let newest = migrations.len() as i32;
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
    // Another process may have migrated: check again under the lock.
    let current = version(&tx).await?;
    let refused = |detail: String| Err(StoreError::caused(StoreErrorKind::Refused, "check schema", detail));
    if current > newest {
        return refused(format!(
            "the database has schema version {current}, and this binary knows versions up to {newest}: run a newer binary"
        ));
    }
    if current > 0 && current < newest && scope == MigrationScope::Empty {
        return refused(format!(
            "the database has schema version {current}, and this binary needs {newest}: run `causality migrate`"
        ));
    }
    for (place, (name, sql)) in migrations.iter().enumerate().skip(current as usize) {
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

/// Converts errors as usual, except for missing rights, which waiting does not fix.
fn failed(context: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError + Copy {
    move |error| match error.code() {
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
            let detail = format!("{}; database_user must be allowed to create tables there", chain(&error));
            StoreError::caused(StoreErrorKind::Refused, context, detail)
        }
        Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            let detail = format!("{}; database_host must be the primary", chain(&error));
            StoreError::caused(StoreErrorKind::Unavailable, context, detail)
        }
        _ => error::failed(context)(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{EARLIER, earlier_records_are_respected};
    use crate::store::postgres::tests::{cluster, settings};
    use crate::store::{NewRule, NewWebhook, Store};

    /// This binary's migrations and one more.
    fn with_another(name: &'static str, sql: &'static str) -> Migrations {
        MIGRATIONS.iter().copied().chain([(name, sql)]).collect::<Vec<_>>().leak()
    }

    /// A binary with one more migration than the one that created the database.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_older_schema_is_migrated_only_on_request() {
        let server = cluster();
        let database = server.database();
        let settings = settings(&server, &database);
        let store = Store::connect_postgres(settings.clone()).await.unwrap();
        store.create::<NewRule>(serde_json::from_str(r#"{"name": "kept"}"#).unwrap()).await.unwrap();
        store.close().await;
        let connector = Connector::of(&settings).unwrap();
        let newer = with_another("next", "ALTER TABLE rules ADD COLUMN next integer NOT NULL DEFAULT 7");
        let (own, next) = (MIGRATIONS.len(), newer.len());
        let error = migrate_with(newer, &connector, MigrationScope::Empty).await.unwrap_err();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(error.kind, StoreErrorKind::Refused);
        let expected = [format!("schema version {own}"), format!("needs {next}: run `causality migrate`")];
        assert!(expected.iter().all(|part| text.contains(part)), "{text}");
        let version = server.sql(&database, "SELECT max(version) FROM schema_migrations");
        assert_eq!(version, own.to_string(), "nothing was changed");

        let migrated = migrate_with(newer, &connector, MigrationScope::Any).await.unwrap();
        assert_eq!((migrated.from as usize, migrated.to as usize), (own, next));
        assert_eq!(server.sql(&database, "SELECT name || next FROM rules"), "kept7");
        let error = Store::connect_postgres(settings).await.err().unwrap();
        let text = std::error::Error::source(&error).unwrap().to_string();
        assert!(error.kind == StoreErrorKind::Refused && text.contains("run a newer binary"), "{text}");
    }

    /// The first version stored secrets in clear text.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn clear_text_secrets_of_older_versions_are_sealed() {
        const FIRST: Migrations = &[MIGRATIONS[0]];
        let server = cluster();
        let database = server.database();
        let settings = settings(&server, &database);
        migrate_with(FIRST, &Connector::of(&settings).unwrap(), MigrationScope::Any).await.unwrap();
        server.sql(
            &database,
            r#"INSERT INTO webhooks VALUES ('00000000-0000-7000-8000-000000000001', 'ops',
                'https://ops.example.com/?token=hunter2', 'POST', true, 1000, '{"X-Api-Key":"hunter2"}', 'none', NULL,
                NULL, 1, 1)"#,
        );
        let migrating = PostgresSettings { migrate: true, ..settings.clone() };
        // Without a key they stay in clear text and usable.
        let keyless = PostgresSettings { secrets_key: None, ..migrating.clone() };
        let store = Store::connect_postgres(keyless.clone()).await.unwrap();
        let webhook = store.find::<NewWebhook>("ops").await.unwrap().unwrap();
        assert_eq!(webhook.document.headers["X-Api-Key"], "hunter2");
        store.close().await;
        let store = Store::connect_postgres(migrating).await.unwrap();
        assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap(), webhook);
        store.close().await;
        let kept = server.sql(&database, "SELECT url || headers FROM webhooks");
        assert_eq!(kept, r#"https://ops.example.com/?token=***{"X-Api-Key":"***"}"#);
        // The same for partly sealed rows: an older version recognized fewer secrets.
        let in_clear = "UPDATE webhooks SET url = 'https://ops.example.com/bot7:hunter2hunter2hunter2?token=***'";
        server.sql(&database, in_clear);
        let store = Store::connect_postgres(settings.clone()).await.unwrap();
        assert_eq!(store.find::<NewWebhook>("ops").await.unwrap().unwrap(), webhook);
        store.close().await;
        assert_eq!(server.sql(&database, "SELECT url FROM webhooks"), "https://ops.example.com/?token=***");
        for other in [keyless, PostgresSettings { secrets_key: Some("f0".repeat(32).into()), ..settings.clone() }] {
            let error = Store::connect_postgres(other).await.err().unwrap();
            let text = chain(&error);
            assert!(error.kind == StoreErrorKind::Refused && text.contains("secrets_key"), "{text}");
        }
    }

    #[test]
    fn a_password_with_an_at_sign_is_not_taken_for_a_host() {
        let server = cluster();
        let url = Some("postgres://u:hunt@hunter2@127.0.0.1:1/db".into());
        let error = Connector::of(&PostgresSettings { url, ..settings(&server, "db") }).err().unwrap();
        let text = chain(&error);
        assert!(text.contains("database_url") && text.contains("%40") && !text.contains("hunt"), "{text}");
        let url = Some("postgres://u:hunt/er?2@127.0.0.1:1/db".into());
        assert!(Connector::of(&PostgresSettings { url, ..settings(&server, "db") }).is_ok());
    }

    /// An earlier version's record of a sequence holds for any message with it.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn records_without_times_still_count_as_consumed() {
        const BEFORE: Migrations = &[MIGRATIONS[0], MIGRATIONS[1], MIGRATIONS[2]];
        let server = cluster();
        let database = server.database();
        let settings = settings(&server, &database);
        migrate_with(BEFORE, &Connector::of(&settings).unwrap(), MigrationScope::Any).await.unwrap();
        server.sql(&database, EARLIER);
        let migrating = PostgresSettings { migrate: true, ..settings };
        earlier_records_are_respected(Store::connect_postgres(migrating).await.unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_first_process_sets_the_secrets_key() {
        let server = cluster();
        let settings = settings(&server, &server.database());
        Store::connect_postgres(settings.clone()).await.unwrap().close().await;
        let other = PostgresSettings { secrets_key: Some("f0".repeat(32).into()), ..settings.clone() };
        let error = Store::connect_postgres(other.clone()).await.err().unwrap();
        assert!(error.kind == StoreErrorKind::Refused && chain(&error).contains("secrets_key"), "{}", chain(&error));
        let replaced = PostgresSettings { secrets_key_replaced: true, ..other.clone() };
        Store::connect_postgres(replaced).await.unwrap().close().await;
        Store::connect_postgres(other).await.unwrap().close().await;
        assert_eq!(Store::connect_postgres(settings).await.err().unwrap().kind, StoreErrorKind::Refused);
    }

    /// A failed migration leaves the database unchanged.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn migrations_are_atomic() {
        let broken = with_another("broken", "ALTER TABLE rules ADD COLUMN next integer; SELECT 1 / 0");
        let server = cluster();
        let database = server.database();
        let settings = settings(&server, &database);
        migrate(settings.clone()).await.unwrap();
        migrate_with(broken, &Connector::of(&settings).unwrap(), MigrationScope::Any).await.unwrap_err();
        let columns =
            "SELECT count(*) FROM information_schema.columns WHERE table_name = 'rules' AND column_name = 'next'";
        assert_eq!(server.sql(&database, columns), "0");
        Store::connect_postgres(settings).await.unwrap().close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_user_without_create_rights_is_named_in_the_refusal() {
        let server = cluster();
        let database = server.database();
        server.sql(&database, "CREATE ROLE reader LOGIN PASSWORD 'r'; REVOKE CREATE ON SCHEMA public FROM PUBLIC");
        let url = server.url(&database);
        let (scheme, host) = (url.split("://").next().unwrap(), url.rsplit('@').next().unwrap());
        let reader = PostgresSettings {
            url: Some(format!("{scheme}://reader:r@{host}").into()),
            ..settings(&server, &database)
        };
        for error in [migrate(reader.clone()).await.unwrap_err(), Store::connect_postgres(reader).await.err().unwrap()]
        {
            let text = std::error::Error::source(&error).unwrap().to_string();
            assert_eq!(error.kind, StoreErrorKind::Refused, "{text}");
            assert!(text.contains("database_user") && text.contains("permission denied"), "{text}");
        }
    }
}
