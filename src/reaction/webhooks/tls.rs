//! Whom webhooks trust, and how they prove who they are: TLS by rustls with ring.
//!
//! Invariant: a file that cannot be used is refused by the name of its setting, never left out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// The files that TLS to endpoints uses; PEM.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities that are trusted besides the public ones.
    pub ca: Option<PathBuf>,
    /// The certificate, with its chain, that is shown to endpoints that ask for one. With `client_key` or not at all.
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

/// A file that cannot be used, by the setting that names it.
#[derive(Debug)]
pub struct TlsRefused(String);

impl fmt::Display for TlsRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TlsRefused {}

/// Fails when webhooks could not be called over TLS with these files.
pub fn check_tls_files(files: &TlsFiles) -> Result<(), TlsRefused> {
    tls(files).map(|_| ())
}

/// What a connection to an endpoint is made with.
pub(super) fn tls(files: &TlsFiles) -> Result<ClientConfig, TlsRefused> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsRefused(error.to_string()))?
        .with_root_certificates(roots(files.ca.as_deref())?);
    let (certificate, key) = match (&files.client_certificate, &files.client_key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => return Err(TlsRefused("webhook_client_cert_file needs webhook_client_key_file".to_owned())),
        (None, Some(_)) => return Err(TlsRefused("webhook_client_key_file needs webhook_client_cert_file".to_owned())),
    };
    let chain = certificates("webhook_client_cert_file", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(wrong("webhook_client_key_file", key))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        TlsRefused(format!("webhook_client_key_file {} does not fit webhook_client_cert_file: {error}", key.display()))
    })
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsRefused> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = file {
        for certificate in certificates("webhook_ca_file", path)? {
            roots.add(certificate).map_err(wrong("webhook_ca_file", path))?;
        }
    }
    Ok(roots)
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsRefused> {
    let read = CertificateDer::pem_file_iter(path).map_err(wrong(setting, path))?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(wrong(setting, path))?;
    if certificates.is_empty() { Err(wrong(setting, path)("holds no certificate")) } else { Ok(certificates) }
}

fn wrong<E: fmt::Display>(setting: &'static str, path: &Path) -> impl Fn(E) -> TlsRefused {
    let path = path.to_owned();
    move |error| TlsRefused(format!("{setting} {}: {error}", path.display()))
}
