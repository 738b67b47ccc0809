//! The settings of both engines.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of the SQLite engine.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The directory of `store.db` and, unless `secrets_key` is given, `secrets.key` (mode 0600).
    pub dir: PathBuf,
    /// 32 bytes as base64 or hex that encrypt webhook secrets (AES-256-GCM).
    pub secrets_key: Option<String>,
    /// Accept a key other than the one that the stored secrets were encrypted with; otherwise the start is refused.
    pub secrets_key_replaced: bool,
}

/// The settings of the PostgreSQL engine.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://...`; the other fields fill in what it omits.
    pub url: Option<String>,
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
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
    pub secrets_key: Option<String>,
    /// Accept a key other than the one that the stored secrets were encrypted with; otherwise the start is refused.
    pub secrets_key_replaced: bool,
    /// Migrate the schema at the start; otherwise an older one is refused.
    pub migrate: bool,
}

/// libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// Parses libpq's name.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "disable" => Self::Disable,
            "prefer" | "allow" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }
}
