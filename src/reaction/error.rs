//! Errors that end the engine or the dispatcher.

use std::fmt;

use super::webhooks::TlsFilesError;
use crate::bus::BusError;
use crate::store::StoreError;

/// Why the engine or the dispatcher ended before it was stopped.
#[derive(Debug)]
pub enum ReactionError {
    Bus(BusError),
    Store(StoreError),
    /// TLS could not be set up.
    Tls(TlsFilesError),
}

impl fmt::Display for ReactionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bus(_) => "use bus",
            Self::Store(_) => "use store",
            Self::Tls(_) => "set up TLS",
        })
    }
}

impl std::error::Error for ReactionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bus(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::Tls(error) => Some(error),
        }
    }
}

impl From<BusError> for ReactionError {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl From<StoreError> for ReactionError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<TlsFilesError> for ReactionError {
    fn from(error: TlsFilesError) -> Self {
        Self::Tls(error)
    }
}
