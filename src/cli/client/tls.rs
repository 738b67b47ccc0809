//! TLS for the commands: trusted authorities and the client certificate.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::base::chain_verifier::ChainVerifier;
use crate::cli::failure::Failure;

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TlsArgs {
    /// A PEM file with the authorities that https:// servers must be signed by, instead of the public ones
    #[arg(long, global = true, env = "CAUSALITY_CA_FILE", value_name = "FILE", help_heading = "TLS")]
    pub(crate) ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that is shown to servers that ask for one; needs --key-file
    #[arg(long, global = true, env = "CAUSALITY_CERT_FILE", value_name = "FILE", help_heading = "TLS")]
    pub(crate) cert_file: Option<PathBuf>,
    /// The key of this certificate, PEM
    #[arg(long, global = true, env = "CAUSALITY_KEY_FILE", value_name = "FILE", help_heading = "TLS")]
    pub(crate) key_file: Option<PathBuf>,
}

impl TlsArgs {
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Failure> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Failure::failed(format!("cannot set up TLS: {error}")))?
            .with_root_certificates(self.roots()?);
        let (certificate, key) = match (&self.cert_file, &self.key_file) {
            (None, None) => return Ok(builder.with_no_client_auth()),
            (Some(certificate), Some(key)) => (certificate, key),
            (Some(_), None) => return Err(Failure::usage("--cert-file needs --key-file (CAUSALITY_KEY_FILE)")),
            (None, Some(_)) => return Err(Failure::usage("--key-file needs --cert-file (CAUSALITY_CERT_FILE)")),
        };
        let chain = certificates("--cert-file", certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong("--key-file", key, &error))?;
        builder.with_client_auth_cert(chain, private).map_err(|error| wrong("--key-file", key, &error))
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                for authority in certificates("--ca-file", path)? {
                    roots.add(authority).map_err(|error| wrong("--ca-file", path, &error))?;
                }
            }
        }
        Ok(roots)
    }
}

/// For a probe, which sends no secret and decides nothing but "alive".
pub(super) fn accepting_any(mut config: ClientConfig) -> ClientConfig {
    let verifier = ChainVerifier { provider: config.crypto_provider().clone(), chain: None };
    config.dangerous().set_certificate_verifier(Arc::new(verifier));
    config
}

fn certificates(flag: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(read) if read.is_empty() => Err(wrong(flag, path, &"holds no certificate")),
        Ok(read) => Ok(read),
        Err(error) => Err(wrong(flag, path, &error)),
    }
}

fn wrong(flag: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::usage(format!("{flag} {}: {error}", path.display()))
}

/// Advice for a connection error that TLS caused, if it did.
pub(crate) fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The error wrapped in an I/O error is not its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let failure = error.downcast_ref().or_else(|| inner.and_then(|inner| inner.downcast_ref()));
        if let Some(failure) = failure {
            return Some(match failure {
                rustls::Error::InvalidCertificate(_) => {
                    "--ca-file (CAUSALITY_CA_FILE) names the authority that signed its certificate, which must hold the host of the URL"
                }
                rustls::Error::AlertReceived(_) => {
                    "does it ask for a certificate of yours? --cert-file and --key-file name one"
                }
                rustls::Error::InvalidMessage(_) => "does it speak http://?",
                _ => return None,
            });
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ExitStatus;

    #[test]
    fn files_that_cannot_be_used_are_named_by_their_flag() {
        let dir = tempfile::tempdir().unwrap();
        let empty = dir.path().join("empty.pem");
        std::fs::write(&empty, "").unwrap();
        for (args, flag) in [
            (TlsArgs { ca_file: Some(empty.clone()), ..TlsArgs::default() }, "--ca-file"),
            (TlsArgs { ca_file: Some(dir.path().join("none")), ..TlsArgs::default() }, "--ca-file"),
            (TlsArgs { cert_file: Some(empty.clone()), ..TlsArgs::default() }, "--key-file"),
            (TlsArgs { key_file: Some(empty.clone()), ..TlsArgs::default() }, "--cert-file"),
            (TlsArgs { cert_file: Some(empty.clone()), key_file: Some(empty), ..TlsArgs::default() }, "--cert-file"),
        ] {
            let failure = args.client_config().expect_err("a refusal");
            assert!(failure.status == ExitStatus::Usage && failure.to_string().contains(flag), "{failure}");
        }
        assert!(TlsArgs::default().client_config().is_ok());
    }
}
