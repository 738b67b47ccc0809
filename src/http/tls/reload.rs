//! The TLS configuration of one listener, reloaded from its files while it serves.
//!
//! Invariant: open connections keep the certificate that they began with.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;

use super::certificate::{Contents, Validity};
use super::files::{Digest, TlsError, TlsFiles};

/// The TLS of one listener. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    validity: Validity,
    /// Digests of the files in use: all of them, the certificate with its key, and the client authorities.
    in_use: Digest,
    pair: Digest,
    client_ca: Digest,
    /// The last contents found that cannot be used.
    broken: Option<Broken>,
}

impl Current {
    fn of(contents: &Contents, files: &TlsFiles) -> Result<Self, TlsError> {
        let (config, validity) = contents.configure(files)?;
        let (pair, client_ca) = (contents.pair_digest(), contents.client_ca_digest());
        Ok(Self { config, validity, in_use: contents.digest(), pair, client_ca, broken: None })
    }
}

struct Broken {
    digest: Digest,
    /// Set once they were found twice.
    error: Option<TlsError>,
}

/// The result of checking the files.
#[derive(Debug)]
pub enum Reload {
    Unchanged,
    /// The new files are in use. At least one of the two has changed.
    Changed {
        certificate: bool,
        client_ca: bool,
    },
    /// The files cannot be used, and the previous ones stay in use. Reported once for the same contents.
    Failed(TlsError),
}

impl Tls {
    /// Reads the files. Blocks.
    pub fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let current = Current::of(&contents, &files)?;
        Ok(Self(Arc::new(Inner { files, current: Mutex::new(current) })))
    }

    /// Reads the files again and uses them if they have changed. Blocks. Unusable files are reported only when two
    /// checks in a row find the same contents, because a certificate and its key are rarely replaced at the same time.
    pub fn reload(&self) -> Reload {
        let read = Contents::read(&self.0.files);
        let digest = read.as_ref().map_or_else(TlsError::digest, Contents::digest);
        let seen_before = {
            let mut current = self.0.current.lock();
            if current.in_use == digest {
                current.broken = None;
                return Reload::Unchanged;
            }
            match current.broken.as_ref().filter(|broken| broken.digest == digest) {
                Some(Broken { error: Some(_), .. }) => return Reload::Unchanged,
                seen_before => seen_before.is_some(),
            }
        };
        let loaded = read.and_then(|contents| Current::of(&contents, &self.0.files));
        let mut current = self.0.current.lock();
        match loaded {
            Ok(loaded) => {
                let (certificate, client_ca) = (loaded.pair != current.pair, loaded.client_ca != current.client_ca);
                *current = loaded;
                Reload::Changed { certificate, client_ca }
            }
            Err(error) => {
                let reported = seen_before.then(|| error.clone());
                current.broken = Some(Broken { digest, error: reported });
                if seen_before { Reload::Failed(error) } else { Reload::Unchanged }
            }
        }
    }

    /// Why the current files cannot be used, if they cannot; the previous ones stay in use.
    pub fn fault(&self) -> Option<TlsError> {
        self.0.current.lock().broken.as_ref().and_then(|broken| broken.error.clone())
    }

    /// The validity period of the certificate in use.
    pub fn validity(&self) -> Validity {
        self.0.current.lock().validity
    }

    pub(super) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0.current.lock().config)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.0.files).finish_non_exhaustive()
    }
}
