//! The files of a TLS listener: reading them, errors in them, and a digest to compare contents.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

/// Larger files are not certificates or keys.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The certificate files of a listener, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's certificate, followed by the chain to the authority.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The authorities for client certificates. If set, clients without such a certificate are refused.
    pub client_ca: Option<PathBuf>,
}

/// One of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    Certificate,
    Key,
    ClientCa,
}

/// Why the files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {detail}", .path.display())]
pub struct TlsError {
    pub file: TlsFile,
    path: PathBuf,
    detail: String,
}

impl TlsError {
    pub(super) fn new(file: TlsFile, path: &Path, detail: impl Into<String>) -> Self {
        Self { file, path: path.to_owned(), detail: detail.into() }
    }

    /// A digest for unreadable files: the same failure is the same state.
    pub(crate) fn digest(&self) -> Digest {
        fingerprint(&[self.to_string().as_bytes()])
    }
}

/// Identifies contents without keeping the key.
pub(crate) type Digest = [u8; 32];

/// Includes the length of each part, so that different files never produce the same bytes.
pub(super) fn fingerprint(parts: &[&[u8]]) -> Digest {
    let mut joined = Vec::new();
    for part in parts {
        joined.extend_from_slice(&(part.len() as u64).to_le_bytes());
        joined.extend_from_slice(part);
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &joined).as_ref());
    out
}

pub(super) fn read(file: TlsFile, path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error: std::io::Error| TlsError::new(file, path, format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    // Opening or reading a pipe would block until another process writes to it.
    let opened = std::fs::File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(unreadable)?;
    if !opened.metadata().map_err(unreadable)?.is_file() {
        return Err(TlsError::new(file, path, "is not a regular file"));
    }
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsError::new(file, path, "is too large to be a PEM file of certificates or a key"));
    }
    Ok(bytes)
}
