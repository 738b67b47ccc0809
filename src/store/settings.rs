//! The settings of both engines.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::settings::{KeyReplaced, Reader, Secret, SecretKey, Url, choice};

/// The settings of the SQLite engine.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The directory of `store.db` and, unless `secrets_key` is given, `secrets.key` (mode 0600).
    pub dir: PathBuf,
    /// 32 bytes as base64 or hex that encrypt webhook secrets (AES-256-GCM).
    pub secrets_key: Option<SecretKey>,
    /// Accept a key other than the one that the stored secrets were encrypted with; otherwise the start is refused.
    pub secrets_key_replaced: bool,
}

/// The settings of the PostgreSQL engine.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://...`; the other fields fill in what it omits.
    pub url: Option<Url>,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
    pub ssl_mode: SslMode,
    /// A PEM file with the certificate authorities to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
    pub connections_max: usize,
    pub idle_connections_max: usize,
    pub connection_lifetime_max: Duration,
    /// The timeout of connecting, and of waiting for a pooled connection.
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    /// 32 bytes as base64 or hex that encrypt webhook secrets. Several processes share the database, so none is
    /// generated: without it, webhooks with secrets are refused.
    pub secrets_key: Option<SecretKey>,
    /// Accept a key other than the one that the stored secrets were encrypted with; otherwise the start is refused.
    pub secrets_key_replaced: bool,
    /// Migrate the schema at the start; otherwise an older one is refused.
    pub migrate: bool,
}

/// The default server when roles run as separate processes.
const HOST: &str = "localhost";

impl SqliteSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        Self {
            dir: from.get("data_dir"),
            secrets_key: from.optional("secrets_key"),
            secrets_key_replaced: from
                .optional::<KeyReplaced>("secrets_key_replaced")
                .is_some_and(|replaced| replaced.0),
        }
    }
}

impl PostgresSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        let SqliteSettings { secrets_key, secrets_key_replaced, .. } = SqliteSettings::read(from);
        let is_port = |port: &usize| u16::try_from(*port).is_ok();
        Self {
            url: from.optional("database_url"),
            host: from.optional("database_host").unwrap_or_else(|| HOST.to_owned()),
            port: from.get_if("database_port", "a port from 1 to 65535", is_port) as u16,
            user: from.get("database_user"),
            password: from.optional("database_password"),
            database: from.get("database_name"),
            ssl_mode: from.get("database_ssl_mode"),
            ca_file: from.optional("database_ca_file"),
            connections_max: from.get("database_max_open_conns"),
            idle_connections_max: from.get("database_max_idle_conns"),
            connection_lifetime_max: from.get("database_conn_max_lifetime"),
            connect_timeout: from.positive("database_connect_timeout"),
            statement_timeout: from.positive("database_statement_timeout"),
            secrets_key,
            secrets_key_replaced,
            migrate: false,
        }
    }
}

choice! {
    /// libpq's `sslmode`.
    SslMode {
        Disable = "disable", Prefer = "prefer", Require = "require", VerifyCa = "verify-ca", VerifyFull = "verify-full",
    }
}
