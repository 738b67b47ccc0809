//! Errors that end the engine or the dispatcher.

use super::webhooks::TlsFilesError;
use crate::bus::BusError;
use crate::store::StoreError;

/// Why the engine or the dispatcher ended before it was stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReactionError {
    #[error("use bus")]
    Bus(#[from] BusError),
    #[error("use store")]
    Store(#[from] StoreError),
    #[error("set up TLS")]
    Tls(#[from] TlsFilesError),
}
