//! Errors of the store, by what the caller should do.

/// An error of the store: its kind and its source.
#[derive(Debug, thiserror::Error)]
#[error("{context}: {kind:?}")]
pub struct StoreError {
    pub kind: StoreErrorKind,
    context: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    NotFound,
    NameTaken,
    /// The document was changed since it was read.
    Changed,
    /// These documents still use it.
    InUse(Vec<String>),
    /// The entries of `actions.webhooks` at these indexes name no webhook.
    UnknownWebhooks {
        indexes: Vec<usize>,
    },
    /// Secrets were sent as the mask, but none is stored at these pointers.
    NoSecretToKeep {
        pointers: Vec<String>,
    },
    /// Secrets were sent as the mask, but the URL leads to another host than the one they were given for.
    SecretOfAnotherHost {
        pointers: Vec<String>,
    },
    /// Documents of a set are invalid, and nothing of the set was stored.
    Set(Vec<SetFault>),
    /// The store holds the maximum number of API keys.
    TooManyKeys,
    /// The store holds the maximum number of admin tokens.
    TooManyTokens,
    /// The cursor belongs to another list.
    InvalidCursor,
    /// A delivery in this state cannot be retried by hand.
    NotRetryable,
    /// The server refuses the settings, or its schema has another version: a setting or the schema must change.
    Refused,
    /// The disk is full.
    Full,
    Unavailable,
    /// Stored bytes are damaged, or a secret cannot be decrypted with the current key.
    Corrupt,
    /// An fsync failed: what is stored is unknown, so the process must end.
    Fsync,
    Closed,
}

/// The error of one document of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetFault {
    /// `webhooks`, `rules` or `anomalies`.
    pub list: &'static str,
    pub index: usize,
    pub kind: StoreErrorKind,
}

impl StoreError {
    /// `context` is a bare verb phrase: "insert rule".
    pub fn new(kind: StoreErrorKind, context: &'static str) -> Self {
        Self { kind, context, source: None }
    }

    pub fn caused(
        kind: StoreErrorKind,
        context: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context, source: Some(source.into()) }
    }
}
