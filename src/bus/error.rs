//! The errors of the bus, classified by what the caller should do.

use std::sync::Arc;

/// An error of the bus: its kind and its source.
#[derive(Clone, Debug)]
pub struct BusError {
    pub kind: BusErrorKind,
    context: &'static str,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusErrorKind {
    /// No room (the stream's limit or the disk): nothing was stored, try again later.
    Full,
    /// The engine cannot be reached or did not answer. The message may or may not be stored.
    Unavailable,
    /// The server rejects the settings or the credentials: a setting must change.
    Refused,
    /// The message has been redelivered in the meantime.
    LeaseLost,
    /// Stored bytes are damaged.
    Corrupt,
    /// An fsync failed: what is stored is unknown, so the process must end.
    Fsync,
    /// The bus is closed.
    Closed,
    /// The call is invalid (a malformed subject or filter, a message over the limit).
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

impl std::fmt::Display for BusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.kind {
            BusErrorKind::Full => "bus is full",
            BusErrorKind::Unavailable => "bus is unavailable",
            BusErrorKind::Refused => "bus refuses",
            BusErrorKind::LeaseLost => "lease lost",
            BusErrorKind::Corrupt => "bus data is corrupt",
            BusErrorKind::Fsync => "bus cannot confirm a write",
            BusErrorKind::Closed => "bus is closed",
            BusErrorKind::Invalid => "invalid bus call",
        };
        write!(f, "{}: {kind}", self.context)
    }
}

impl std::error::Error for BusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
