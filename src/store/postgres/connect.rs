//! Connecting to the database: address, credentials, TLS and the connection pool.
//!
//! Invariant: failures that only a changed setting can fix are distinguished (`Refused`, naming the setting) from those
//! that may pass.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::silence::StaleCutoff;
use crate::base::chain_verifier::ChainVerifier;
use crate::base::errors::chain;
use crate::base::settings::Setting as _;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::settings::{PostgresSettings, SslMode};

/// Every statement is written for an index. By default, the planner assumes that a table that was never analyzed has a
/// page or two, scans it, and keeps that plan while the table grows; or it spends longer on JIT compilation than the
/// statement takes.
const PLANS: &str = "SET jit = off; SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; \
     SET enable_mergejoin = off; SET enable_sort = off";

/// Idle time after which the operating system sends a keepalive probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// The interval of further probes, and how many may be lost before the connection is dead.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
/// How long sent bytes may stay unacknowledged.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects with the given settings. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    pub(super) timeout: Duration,
    statement_timeout: Duration,
}

impl Connector {
    pub(super) fn of(settings: &PostgresSettings) -> Result<Self, StoreError> {
        let (url, ssl_mode) = settings
            .url
            .as_deref()
            .map_or(Ok((None, None)), |url| split_ssl_mode(url).map(|(url, mode)| (Some(url), mode)))?;
        let mut config = match url {
            Some(url) => url
                .parse::<Config>()
                // The parser's message may repeat a part of the URL, possibly of the password.
                .map_err(|_| {
                    let form = "postgres://user:password@host:5432/name, with % and two hexadecimal digits for what a URL has no \
                                place for, and parameters that PostgreSQL knows";
                    refused(format!("database_url is not a PostgreSQL URL: it must be {form}"))
                })?,
            None => Config::new(),
        };
        // The parser ends the password at the first `@`, and error messages name hosts.
        let in_host = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(in_host) {
            return Err(refused("database_url has an @ in its user or password: write it as %40".to_owned()));
        }
        if config.get_hosts().is_empty() {
            config.host(&settings.host);
        }
        if config.get_ports().is_empty() {
            config.port(settings.port);
        }
        if config.get_user().is_none() {
            config.user(&settings.user);
        }
        if config.get_dbname().is_none() {
            config.dbname(&settings.database);
        }
        if let (None, Some(password)) = (config.get_password(), &settings.password) {
            config.password(password.as_bytes());
        }
        let ssl_mode = ssl_mode.unwrap_or(settings.ssl_mode);
        config
            .application_name("causality")
            .connect_timeout(settings.connect_timeout)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .ssl_mode(match ssl_mode {
                SslMode::Disable => tokio_postgres::config::SslMode::Disable,
                SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
                _ => tokio_postgres::config::SslMode::Require,
            });
        let tls = MakeRustlsConnect::new(tls(ssl_mode, settings)?);
        Ok(Self { config, tls, timeout: settings.connect_timeout, statement_timeout: settings.statement_timeout })
    }

    /// Connections older than `cutoff` are not handed out.
    pub(super) fn pool(&self, settings: &PostgresSettings, cutoff: StaleCutoff) -> Result<Pool, StoreError> {
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        // Set on the open connection instead of in the startup options: poolers refuse options that they do not know.
        let session = format!("SET statement_timeout = {}; {PLANS}", self.statement_timeout.as_millis());
        let session = Arc::<str>::from(session);
        let manager = Manager::from_config(self.config.clone(), self.tls.clone(), recycling);
        Pool::builder(manager)
            .max_size(settings.connections_max.max(1))
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.connect_timeout))
            .create_timeout(Some(settings.connect_timeout))
            .recycle_timeout(Some(settings.connect_timeout))
            .post_create(Hook::async_fn(move |client, _| {
                let session = session.clone();
                Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
            }))
            .pre_recycle(Hook::async_fn(move |client, metrics| {
                let cutoff = cutoff.clone();
                Box::pin(async move { cutoff.check(client, metrics).await })
            }))
            .build()
            .map_err(|error| refused(error.to_string()))
    }

    /// A dedicated connection and its driver.
    pub(super) async fn connect(
        &self,
    ) -> Result<
        (
            tokio_postgres::Client,
            tokio_postgres::Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>,
        ),
        StoreError,
    > {
        let connecting = tokio::time::timeout(self.timeout, self.config.connect(self.tls.clone()));
        match connecting.await {
            Ok(connected) => connected.map_err(|error| explain(&error, &self.config)),
            Err(_) => Err(StoreError::caused(
                StoreErrorKind::Unavailable,
                "connect to PostgreSQL",
                format!("{} (database_host, database_port) does not answer", address(&self.config)),
            )),
        }
    }
}

/// Removes `sslmode` from a URL: the parser does not know two of its values.
fn split_ssl_mode(url: &str) -> Result<(String, Option<SslMode>), StoreError> {
    let Some((head, query)) = url.split_once('?') else { return Ok((url.to_owned(), None)) };
    let mut mode = None;
    let mut kept = Vec::new();
    for pair in query.split('&') {
        match pair.strip_prefix("sslmode=") {
            Some(text) => {
                let known = if text == "allow" { Ok(SslMode::Prefer) } else { SslMode::parse(text) };
                mode = Some(known.map_err(|_| {
                    refused(
                        "sslmode in database_url is not one of disable, prefer, require, verify-ca, verify-full"
                            .to_owned(),
                    )
                })?);
            }
            None => kept.push(pair),
        }
    }
    let url = if kept.is_empty() { head.to_owned() } else { format!("{head}?{}", kept.join("&")) };
    Ok((url, mode))
}

/// Describes a failure to connect and the setting to check.
fn explain(error: &tokio_postgres::Error, config: &Config) -> StoreError {
    let text = chain(error);
    let context = "connect to PostgreSQL";
    let refused = |advice: &str| StoreError::caused(StoreErrorKind::Refused, context, format!("{text}; {advice}"));
    match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            refused("see database_user, database_password and database_ssl_mode")
        }
        Some(code) if *code == SqlState::INVALID_CATALOG_NAME => refused("see database_name"),
        Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => refused("see the rights of database_user"),
        Some(_) => StoreError::caused(StoreErrorKind::Unavailable, context, text),
        None if text.contains("password missing") => refused("database_password is not set"),
        None if text.contains("does not support TLS") => {
            refused("turn TLS on in the server, or set database_ssl_mode to prefer or disable")
        }
        None if text.contains("CaUsedAsEndEntity") => refused(
            "the server shows the certificate of an authority: issue it one of its own, and name that authority in database_ca_file",
        ),
        None if text.contains("not valid for name") => {
            refused("the server's certificate must name database_host, or set database_ssl_mode to verify-ca")
        }
        None if text.contains("certificate") => {
            refused("database_ca_file must hold the authority that signed it (see also database_ssl_mode)")
        }
        None => StoreError::caused(
            StoreErrorKind::Unavailable,
            context,
            format!("{text}; is {} right (database_host, database_port)?", address(config)),
        ),
    }
}

fn address(config: &Config) -> String {
    let hosts = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    });
    let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
    format!("{}:{}", hosts.collect::<Vec<_>>().join(","), ports.join(","))
}

fn refused(detail: String) -> StoreError {
    StoreError::caused(StoreErrorKind::Refused, "set PostgreSQL up", detail)
}

fn tls(mode: SslMode, settings: &PostgresSettings) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = roots(settings)?;
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?;
    if mode == SslMode::VerifyFull {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let chain = match mode {
        // As libpq does: if authorities are given, they are checked.
        SslMode::VerifyCa | SslMode::Require if mode == SslMode::VerifyCa || settings.ca_file.is_some() => {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            Some(verifier.build().map_err(|error| refused(error.to_string()))?)
        }
        _ => None,
    };
    // What libpq verifies below `verify-full`: the chain (`verify-ca`, and `require` with authorities), or nothing
    // (`prefer`, `require`).
    let verifier = Arc::new(ChainVerifier { provider, chain });
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// The trusted authorities: only those of the file, or else the public ones. Under `verify-ca`, a public authority
/// vouches for any server, so it must not stand in for a private one.
fn roots(settings: &PostgresSettings) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &settings.ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    let wrong = |error: String| refused(format!("database_ca_file {}: {error}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    if roots.is_empty() { Err(wrong("holds no certificate".to_owned())) } else { Ok(roots) }
}
