//! The files of a TLS listener: reading them, what can be wrong with them, and a digest that tells their contents apart.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

/// A larger file holds something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a listener's certificate is. All files are PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The listener's own certificate, then those that lead to the authority.
    pub certificate: PathBuf,
    /// PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// The authorities of clients. When it is set, clients without a certificate of theirs are refused.
    pub client_ca: Option<PathBuf>,
}

/// Which of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsFile {
    Certificate,
    Key,
    ClientCa,
}

/// Why files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    pub file: TlsFile,
    path: PathBuf,
    detail: String,
}

impl TlsError {
    pub(super) fn new(file: TlsFile, path: &Path, detail: impl Into<String>) -> Self {
        Self { file, path: path.to_owned(), detail: detail.into() }
    }

    /// Of files that cannot be read: the same failure is the same state.
    pub(crate) fn digest(&self) -> Digest {
        fingerprint(&[self.to_string().as_bytes()])
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path.display(), self.detail)
    }
}

impl std::error::Error for TlsError {}

/// Tells contents apart without keeping a key.
pub(crate) type Digest = [u8; 32];

/// Each with its length, so that no two sets of files are the same bytes.
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
    // Opening and reading a pipe would wait for whoever writes to it.
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
