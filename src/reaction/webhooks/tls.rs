//! TLS of webhook requests: trusted authorities and the client certificate, by rustls with ring.
//!
//! Invariant: an unusable file is an error that names its setting; it is never ignored.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

/// PEM files for TLS to endpoints.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// Authorities trusted in addition to the public ones.
    pub ca: Option<PathBuf>,
    /// The client certificate with its chain. Set together with `client_key`.
    pub client_certificate: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
}

/// A file that cannot be used, with the setting that names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsFilesError(String);

/// Checks that webhooks can be called over TLS with these files.
pub fn check_tls_files(files: &TlsFiles) -> Result<(), TlsFilesError> {
    client_config(files).map(|_| ())
}

/// The TLS configuration of connections to endpoints.
pub(super) fn client_config(files: &TlsFiles) -> Result<ClientConfig, TlsFilesError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsFilesError(error.to_string()))?
        .with_root_certificates(roots(files.ca.as_deref())?);
    let (certificate, key) = match (&files.client_certificate, &files.client_key) {
        (None, None) => return Ok(builder.with_no_client_auth()),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => {
            return Err(TlsFilesError("webhook_client_cert_file needs webhook_client_key_file".to_owned()));
        }
        (None, Some(_)) => {
            return Err(TlsFilesError("webhook_client_key_file needs webhook_client_cert_file".to_owned()));
        }
    };
    let chain = certificates("webhook_client_cert_file", certificate)?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(file_error("webhook_client_key_file", key))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| {
        TlsFilesError(format!(
            "webhook_client_key_file {} does not fit webhook_client_cert_file: {error}",
            key.display()
        ))
    })
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, TlsFilesError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(path) = file {
        for certificate in certificates("webhook_ca_file", path)? {
            roots.add(certificate).map_err(file_error("webhook_ca_file", path))?;
        }
    }
    Ok(roots)
}

fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let read = CertificateDer::pem_file_iter(path).map_err(file_error(setting, path))?;
    let certificates: Vec<_> = read.collect::<Result<_, _>>().map_err(file_error(setting, path))?;
    if certificates.is_empty() { Err(file_error(setting, path)("holds no certificate")) } else { Ok(certificates) }
}

fn file_error<E: fmt::Display>(setting: &'static str, path: &Path) -> impl Fn(E) -> TlsFilesError {
    let path = path.to_owned();
    move |error| TlsFilesError(format!("{setting} {}: {error}", path.display()))
}
