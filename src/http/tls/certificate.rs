//! Builds the TLS configuration from the contents of its files.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{InconsistentKeys, RootCertStore, ServerConfig};
use x509_cert::der::Decode as _;

use super::files::{Digest, TlsError, TlsFile, TlsFiles, fingerprint, read};
use crate::base::clock::unix_ms;

/// A certificate expires soon when less than this is left, and less than this fraction of its lifetime.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3_600);
const EXPIRES_SOON_PART: u32 = 3;
/// The protocols offered by ALPN, in order of preference.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The validity period of a certificate, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: u64,
    pub not_after: u64,
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let parsed = x509_cert::Certificate::from_der(certificate)
            .map_err(|_| "holds something that is not an X.509 certificate".to_owned())?;
        let validity = parsed.tbs_certificate.validity;
        Ok(Self {
            not_before: validity.not_before.to_unix_duration().as_secs(),
            not_after: validity.not_after.to_unix_duration().as_secs(),
        })
    }

    pub fn has_expired(&self) -> bool {
        now() > self.not_after
    }

    pub fn has_begun(&self) -> bool {
        now() >= self.not_before
    }

    /// Time to renew. Certificates that live for days are renewed days before their end.
    pub fn expires_soon(&self) -> bool {
        let whole = Duration::from_secs(self.not_after.saturating_sub(self.not_before));
        let left = Duration::from_secs(self.not_after.saturating_sub(now()));
        left < EXPIRES_SOON.min(whole / EXPIRES_SOON_PART)
    }

    /// The beginning of the period, for people.
    pub fn start(&self) -> String {
        date(self.not_before)
    }

    /// The end of the period, for people.
    pub fn end(&self) -> String {
        date(self.not_after)
    }
}

fn now() -> u64 {
    unix_ms().unsigned_abs() / 1_000
}

/// The contents of the files.
pub(crate) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

impl Contents {
    pub(crate) fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(TlsFile::Certificate, &files.certificate)?,
            key: read(TlsFile::Key, &files.key)?,
            client_ca: files.client_ca.as_deref().map(|path| read(TlsFile::ClientCa, path)).transpose()?,
        })
    }

    pub(crate) fn digest(&self) -> Digest {
        fingerprint(&[&self.certificate, &self.key, self.client_ca.as_deref().unwrap_or_default()])
    }

    pub(crate) fn pair_digest(&self) -> Digest {
        fingerprint(&[&self.certificate, &self.key])
    }

    pub(crate) fn client_ca_digest(&self) -> Digest {
        fingerprint(&[self.client_ca.as_deref().unwrap_or_default()])
    }

    pub(crate) fn configure(&self, files: &TlsFiles) -> Result<(Arc<ServerConfig>, Validity), TlsError> {
        let chain = certificates(&self.certificate)
            .map_err(|why| TlsError::new(TlsFile::Certificate, &files.certificate, why))?;
        let wrong_certificate = |why: String| TlsError::new(TlsFile::Certificate, &files.certificate, why);
        let validity = Validity::of(&chain[0]).map_err(wrong_certificate)?;
        if validity.has_expired() {
            return Err(wrong_certificate(format!("expired on {}", date(validity.not_after))));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let wrong_key = |why: &str| TlsError::new(TlsFile::Key, &files.key, why);
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| wrong_key("holds no private key (PEM; PKCS#8, PKCS#1 or SEC1, without a passphrase)"))?;
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            wrong_key("holds a key of a kind that is not supported (RSA, ECDSA P-256 and P-384, Ed25519)")
        })?;
        let pair = CertifiedKey::new(chain, key);
        match pair.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let why = format!("is not the key of the certificate in {}", files.certificate.display());
                return Err(wrong_key(&why));
            }
            Err(error) => return Err(wrong_certificate(format!("cannot be used: {error}"))),
        }
        let verifier = self.client_verifier(files, &provider)?;
        let unusable = |error: rustls::Error| wrong_certificate(format!("cannot be used: {error}"));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(pair)));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Sessions are stored by clients, encrypted, so the server keeps nothing for clients that are gone. New files
        // start with new ticket keys, so that a client whose authority was removed cannot resume an old session.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable)?;
        Ok((Arc::new(config), validity))
    }

    fn client_verifier(
        &self,
        files: &TlsFiles,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let (Some(path), Some(text)) = (&files.client_ca, &self.client_ca) else { return Ok(Arc::new(NoClientAuth)) };
        let wrong = |why: String| TlsError::new(TlsFile::ClientCa, path, why);
        let mut roots = RootCertStore::empty();
        for authority in certificates(text).map_err(wrong)? {
            roots.add(authority).map_err(|error| wrong(format!("holds an authority that cannot be used: {error}")))?;
        }
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map(|verifier| verifier as Arc<dyn ClientCertVerifier>)
            .map_err(|error| wrong(format!("cannot be used: {error}")))
    }
}

/// At least one certificate.
fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if found.is_empty() => Err("holds no certificate (PEM)".to_owned()),
        Ok(found) => Ok(found),
        Err(_) => Err("is not PEM".to_owned()),
    }
}

/// A date for people.
fn date(seconds: u64) -> String {
    let moment = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "a date that cannot be told".to_owned(), |moment| moment.to_string())
}
