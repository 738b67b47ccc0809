//! TLS to PostgreSQL: each mode against a server with a valid certificate, a wrong one, or none.

use std::path::PathBuf;
use std::time::Duration;

use super::tests::{cluster, settings};
use crate::services::certificates::Authority;
use crate::services::postgres::PostgresServer;
use crate::store::*;

const MODES: [SslMode; 5] =
    [SslMode::Disable, SslMode::Prefer, SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull];

/// The outcome of an attempt to connect.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All connections of the process are encrypted.
    Encrypted,
    /// None is encrypted.
    Plain,
    /// Refused, and the message names this setting.
    Refused(&'static str),
}

use Outcome::{Encrypted, Plain, Refused};

async fn check(server: &PostgresServer, database: &str, mode: SslMode, ca: Option<PathBuf>, expected: Outcome) {
    let settings = PostgresSettings { ssl_mode: mode, ca_file: ca, ..settings(server, database) };
    check_settings(server, settings, expected).await;
}

async fn check_settings(server: &PostgresServer, settings: PostgresSettings, expected: Outcome) {
    let case = format!("{:?} with {:?}, {:?} by {:?}", settings.ssl_mode, settings.ca_file, expected, settings.url);
    match (Store::connect_postgres(settings.clone()).await, expected) {
        (Ok(store), expected @ (Encrypted | Plain)) => {
            // As the server sees it: the listening connection and a pooled one.
            store.ping().await.unwrap();
            let seen = server.sql(
                "postgres",
                "SELECT count(*) >= 2, bool_and(s.ssl), bool_or(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity USING (pid)
                 WHERE application_name = 'causality' AND datname LIKE 'test_%'",
            );
            assert_eq!(seen, if expected == Encrypted { "t|t|t" } else { "t|f|f" }, "{case}");
            store.close().await;
            // The next case counts connections too.
            while server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'causality'")
                != "0"
            {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            migrate_postgres(settings).await.unwrap_or_else(|error| panic!("{case}, migrate: {error}"));
        }
        (Err(error), Refused(setting)) => {
            let text = std::error::Error::source(&error).map_or_else(String::new, ToString::to_string);
            assert!(error.kind == StoreErrorKind::Refused && text.contains(setting), "{case}: {:?} {text}", error.kind);
        }
        (Ok(_), _) => panic!("{case}: connected"),
        (Err(error), _) => panic!("{case}: {error}: {:?}", std::error::Error::source(&error)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mode_encrypts_and_verifies_as_documented() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = ours.issue("IP:127.0.0.1,DNS:localhost");
    let server = PostgresServer::start_tls(&good);
    let database = server.database();
    for mode in MODES {
        let expected = if mode == SslMode::Disable { Plain } else { Encrypted };
        check(&server, &database, mode, Some(ours.file()), expected).await;
    }
    // Not trusted: no file, or the wrong one.
    for mode in [SslMode::VerifyCa, SslMode::VerifyFull] {
        check(&server, &database, mode, None, Refused("database_ca_file")).await;
    }
    for mode in [SslMode::Require, SslMode::VerifyCa, SslMode::VerifyFull] {
        check(&server, &database, mode, Some(other.file()), Refused("database_ca_file")).await;
    }
    for mode in [SslMode::Prefer, SslMode::Require] {
        check(&server, &database, mode, None, Encrypted).await;
    }
    // By name instead of address; the mode in the URL takes precedence.
    let by_name = server.url(&database).replace("127.0.0.1", "localhost") + "?sslmode=verify-full";
    let named =
        PostgresSettings { url: Some(by_name.into()), ca_file: Some(ours.file()), ..settings(&server, &database) };
    check_settings(&server, named, Encrypted).await;

    server.present(&ours.issue("DNS:elsewhere.example"));
    check(&server, &database, SslMode::VerifyFull, Some(ours.file()), Refused("database_host")).await;
    for mode in [SslMode::Prefer, SslMode::Require, SslMode::VerifyCa] {
        check(&server, &database, mode, Some(ours.file()), Encrypted).await;
    }
    check(&server, &database, SslMode::VerifyCa, Some(other.file()), Refused("database_ca_file")).await;

    server.present(&ours.itself());
    check(&server, &database, SslMode::VerifyCa, Some(ours.file()), Refused("of its own")).await;

    // The server accepts only encrypted connections.
    server.admit("hostssl all all 127.0.0.1/32 scram-sha-256\n");
    check(&server, &database, SslMode::Disable, None, Refused("database_ssl_mode")).await;
    check(&server, &database, SslMode::Prefer, None, Encrypted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_used_only_where_the_mode_allows_it() {
    let server = PostgresServer::start();
    let database = server.database();
    for mode in MODES {
        let plain = matches!(mode, SslMode::Disable | SslMode::Prefer);
        check(&server, &database, mode, None, if plain { Plain } else { Refused("database_ssl_mode") }).await;
    }
}

#[tokio::test]
async fn a_file_without_authorities_is_refused() {
    let server = cluster();
    let dir = tempfile::tempdir().unwrap();
    let garbage = dir.path().join("ca.pem");
    std::fs::write(&garbage, "not a certificate\n").unwrap();
    for file in [garbage, dir.path().join("missing.pem")] {
        let refused =
            PostgresSettings { ssl_mode: SslMode::VerifyFull, ca_file: Some(file), ..settings(&server, "postgres") };
        check_settings(&server, refused, Refused("database_ca_file")).await;
    }
}

#[tokio::test]
async fn connection_errors_name_the_setting() {
    let server = cluster();
    let right = settings(&server, "postgres");
    let by_parts = PostgresSettings {
        url: None,
        host: "127.0.0.1".to_owned(),
        port: server.port(),
        user: crate::services::postgres::USER.to_owned(),
        database: "postgres".to_owned(),
        ..right.clone()
    };
    check_settings(&server, by_parts.clone(), Refused("database_password")).await;
    let wrong = PostgresSettings { password: Some("wrong".into()), ..by_parts.clone() };
    check_settings(&server, wrong, Refused("database_password")).await;
    let nowhere = PostgresSettings { database: "nowhere".to_owned(), ..by_parts.clone() };
    let nowhere = PostgresSettings { password: Some(crate::services::postgres::PASSWORD.into()), ..nowhere };
    check_settings(&server, nowhere, Refused("database_name")).await;
    let mode = PostgresSettings { url: Some((server.url("postgres") + "?sslmode=always").into()), ..right };
    check_settings(&server, mode, Refused("sslmode in database_url")).await;
}
