//! The certificates of the listeners. Reads them at the start, reloads them when their files change, and warns before they
//! expire.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::start_failure::{StartFailure, StartFailureKind};
use crate::config::Config;
use crate::http::{Readiness, Reload, Tls, TlsError, TlsFile, TlsFiles};
use crate::metrics;

/// How often the files are read. Their times are not enough: Kubernetes replaces a secret through a symbolic link, and
/// not every file system reports a new time.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// The TLS of each listener that has one.
#[derive(Clone, Default)]
pub(super) struct Certificates {
    pub(super) gateway: Option<Tls>,
    pub(super) admin: Option<Tls>,
}

/// The settings of one listener.
struct Settings<'a> {
    /// Its name in metrics and logs.
    listener: &'static str,
    /// The key of its readiness warning.
    warning: &'static str,
    certificate: (&'static str, &'a Option<PathBuf>),
    key: (&'static str, &'a Option<PathBuf>),
    client_ca: (&'static str, &'a Option<PathBuf>),
}

fn gateway(config: &Config) -> Settings<'_> {
    Settings {
        listener: "gateway",
        warning: "tls_certificate",
        certificate: ("tls_cert_file", &config.http.tls_certificate),
        key: ("tls_key_file", &config.http.tls_key),
        client_ca: ("", &None),
    }
}

fn admin(config: &Config) -> Settings<'_> {
    Settings {
        listener: "admin",
        warning: "admin_tls_certificate",
        certificate: ("admin_tls_cert_file", &config.admin.tls_certificate),
        key: ("admin_tls_key_file", &config.admin.tls_key),
        client_ca: ("admin_tls_client_ca_file", &config.admin.tls_client_ca),
    }
}

impl Settings<'_> {
    fn load(&self) -> Result<Option<Tls>, StartFailure> {
        let (certificate, key) = match (self.certificate.1, self.key.1) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) if self.client_ca.1.is_none() => return Ok(None),
            (None, _) => return Err(self.missing(self.certificate.0)),
            (Some(_), None) => return Err(self.missing(self.key.0)),
        };
        let (certificate, key) = (certificate.clone(), key.clone());
        let files = TlsFiles { certificate, key, client_ca: self.client_ca.1.clone() };
        let tls = Tls::load(files).map_err(|error| refused(format!("{}: {error}", self.name_of(&error))))?;
        metrics::tls_not_after(self.listener, tls.validity().not_after);
        Ok(Some(tls))
    }

    fn missing(&self, name: &str) -> StartFailure {
        refused(format!("{name} is not set: a certificate and its key belong together"))
    }

    fn name_of(&self, error: &TlsError) -> &'static str {
        match error.file {
            TlsFile::Certificate => self.certificate.0,
            TlsFile::Key => self.key.0,
            TlsFile::ClientCa => self.client_ca.0,
        }
    }

    /// The readiness warning about a certificate.
    fn warning(&self, tls: &Tls) -> Option<String> {
        if let Some(error) = tls.fault() {
            return Some(format!("{}: {error}; the files of before are in use", self.name_of(&error)));
        }
        let (name, validity) = (self.certificate.0, tls.validity());
        if validity.has_expired() {
            Some(format!("{name}: the certificate expired on {}", validity.end()))
        } else if !validity.has_begun() {
            Some(format!("{name}: the certificate is not valid before {}", validity.start()))
        } else {
            validity.expires_soon().then(|| format!("{name}: the certificate expires on {}", validity.end()))
        }
    }
}

fn refused(message: String) -> StartFailure {
    StartFailure { kind: StartFailureKind::Refused, text: message }
}

impl Certificates {
    /// Reads the files that the settings name. A bad file refuses the start.
    pub(super) fn load(config: &Config, has_gateway: bool) -> Result<Self, StartFailure> {
        Ok(Self { gateway: if has_gateway { gateway(config).load()? } else { None }, admin: admin(config).load()? })
    }

    /// Reloads changed files until `stop`.
    pub(super) async fn watch(
        self,
        config: Config,
        readiness: Readiness,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let listeners = [(gateway(&config), self.gateway), (admin(&config), self.admin)];
        let listeners = listeners.into_iter().filter_map(|(settings, tls)| Some((settings, tls?)));
        let listeners: Vec<_> = listeners.collect();
        if listeners.is_empty() {
            stop.cancelled().await;
            return Ok(());
        }
        loop {
            for (settings, tls) in &listeners {
                let files = tls.clone();
                let look = tokio::task::spawn_blocking(move || files.reload());
                // A network file system may hang; that must not delay the stop.
                let found = tokio::select! {
                    () = stop.cancelled() => return Ok(()),
                    found = look => found?,
                };
                match found {
                    Reload::Unchanged => {}
                    Reload::Changed { certificate, client_ca } => {
                        let listener = settings.listener;
                        if certificate {
                            let expires = tls.validity().end();
                            info!(listener, expires, "the certificate was exchanged");
                        }
                        if client_ca {
                            info!(listener, "the authorities of clients were exchanged");
                        }
                    }
                    Reload::Failed(error) => {
                        let setting = settings.name_of(&error);
                        error!(listener = settings.listener, setting, %error, "cannot use the new TLS files: those of before stay in use");
                    }
                }
                metrics::tls_not_after(settings.listener, tls.validity().not_after);
                readiness.set_warning(settings.warning, settings.warning(tls));
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}
