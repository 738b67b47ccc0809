//! The errors of the bus, classified by what the caller should do.

use std::sync::Arc;

/// An error of the bus: its kind and its source.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{context}: {kind}")]
pub struct BusError {
    pub kind: BusErrorKind,
    context: &'static str,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusErrorKind {
    /// No room (the stream's limit or the disk): nothing was stored, try again later.
    #[error("bus is full")]
    Full,
    /// The engine cannot be reached or did not answer. The message may or may not be stored.
    #[error("bus is unavailable")]
    Unavailable,
    /// The server rejects the settings or the credentials: a setting must change.
    #[error("bus refuses")]
    Refused,
    /// The message has been redelivered in the meantime.
    #[error("lease lost")]
    LeaseLost,
    /// Stored bytes are damaged.
    #[error("bus data is corrupt")]
    Corrupt,
    /// An fsync failed: what is stored is unknown, so the process must end.
    #[error("bus cannot confirm a write")]
    Fsync,
    /// The bus is closed.
    #[error("bus is closed")]
    Closed,
    /// The call is invalid (a malformed subject or filter, a message over the limit).
    #[error("invalid bus call")]
    Invalid,
}

impl BusError {
    /// `context` is a bare verb phrase: "commit group".
    pub fn new(kind: BusErrorKind, context: &'static str) -> Self {
        Self { kind, context, source: None }
    }

    pub fn caused(
        kind: BusErrorKind,
        context: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context, source: Some(Arc::from(source.into())) }
    }
}
