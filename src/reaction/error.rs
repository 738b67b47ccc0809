//! The errors that end the engine or the dispatcher.

use std::fmt;

use super::webhooks::TlsRefused;
use crate::bus::BusError;
use crate::store::StoreError;

/// What ends the engine or the dispatcher before it was told to.
#[derive(Debug)]
pub enum ReactionError {
    Bus(BusError),
    Store(StoreError),
    /// TLS could not be set up.
    Tls(TlsRefused),
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

impl From<TlsRefused> for ReactionError {
    fn from(error: TlsRefused) -> Self {
        Self::Tls(error)
    }
}
