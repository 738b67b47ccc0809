//! The settings of both engines.

use std::path::PathBuf;
use std::time::Duration;

/// How the SQLite engine keeps its file.
#[derive(Clone, Debug)]
pub struct SqliteSettings {
    /// The directory that holds `store.db` and, unless `secrets_key` is given, `secrets.key` (mode 0600).
    pub dir: PathBuf,
    /// 32 bytes as base64 or hex that encrypt webhook secrets (AES-256-GCM).
    pub secrets_key: Option<String>,
    /// Take another key than the one that the stored secrets were encrypted with; else the start is refused.
    pub secrets_key_replaced: bool,
}

/// How the PostgreSQL engine reaches its database.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://...`; the fields below fill in what it leaves out.
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
    /// How long a connection, or the wait for one of the pool, may take.
    pub connect_timeout: Duration,
    pub statement_timeout: Duration,
    /// 32 bytes as base64 or hex that encrypt webhook secrets. Several processes share the database, so none is made up:
    /// without it a webhook with a secret is refused.
    pub secrets_key: Option<String>,
    /// Take another key than the one that the stored secrets were encrypted with; else the start is refused.
    pub secrets_key_replaced: bool,
    /// Bring the schema up to date at the start; otherwise an older one is refused.
    pub migrate: bool,
}

/// `sslmode` as libpq defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    /// By libpq's name.
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
