//! What can go wrong in the store, sorted by what the caller should do.

/// A failure of the store: what kind, and what lay under it.
#[derive(Debug)]
pub struct StoreError {
    pub kind: StoreErrorKind,
    context: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    NotFound,
    NameTaken,
    /// Somebody else has changed it since it was read.
    Changed,
    /// The named documents still use it.
    InUse(Vec<String>),
    /// None of `actions.webhooks` at these indexes names one.
    UnknownWebhooks {
        indexes: Vec<usize>,
    },
    /// Secrets of a webhook were sent as the mask, and none is stored at these pointers.
    NoSecretToKeep {
        pointers: Vec<String>,
    },
    /// Secrets of a webhook were sent as the mask, and its URL leads to another host than the one they were given for.
    SecretOfAnotherHost {
        pointers: Vec<String>,
    },
    /// Documents of a set are at fault, and none of the set was stored.
    Set(Vec<SetFault>),
    /// There are as many API keys as a store holds.
    TooManyKeys,
    /// There are as many tokens of the admin API as a store holds.
    TooManyTokens,
    /// The cursor was not made by this list.
    InvalidCursor,
    /// A delivery in this state is not sent again by hand.
    NotRetryable,
    /// The server refuses what the settings ask of it, or its schema is another: a setting or the schema must change.
    Refused,
    /// No room on the disk.
    Full,
    Unavailable,
    /// Stored bytes are damaged, or a secret does not decrypt with the key at hand.
    Corrupt,
    Closed,
}

/// What is wrong with one document of a set.
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

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {:?}", self.context, self.kind)
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
