//! Errors of the warehouse, classified by what the caller should do.

use std::io;
use std::sync::Arc;

use parquet::errors::ParquetError;

/// A failure of the warehouse: its kind and its source.
#[derive(Clone, Debug)]
pub struct WarehouseError {
    pub kind: WarehouseErrorKind,
    context: &'static str,
    /// The file or directory concerned, if there is one.
    path: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WarehouseErrorKind {
    /// No space left: nothing was stored. The same write succeeds once there is space.
    #[error("warehouse is full")]
    Full,
    /// The file system refused or failed: the same call may succeed later.
    #[error("warehouse is unavailable")]
    Unavailable,
    /// The object store refuses the configured operation: a setting must change.
    #[error("warehouse refuses")]
    Refused,
    /// An fsync failed: the state of the page cache is unknown, so the process must end.
    #[error("warehouse file could not be made durable")]
    Fsync,
    /// A stored file is damaged.
    #[error("warehouse file is corrupt")]
    Corrupt,
    /// The rows cannot be encoded; a defect, not a condition.
    #[error("rows could not be encoded")]
    Encode,
}

impl WarehouseErrorKind {
    /// A metric label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Refused => "refused",
            Self::Fsync => "fsync",
            Self::Corrupt => "corrupt",
            Self::Encode => "encode",
        }
    }
}

impl WarehouseError {
    /// `context` is a bare verb phrase: "read file footer".
    pub(crate) fn new(kind: WarehouseErrorKind, context: &'static str) -> Self {
        Self { kind, context, path: None, source: None }
    }

    pub(crate) fn caused(
        kind: WarehouseErrorKind,
        context: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, context, path: None, source: Some(Arc::from(source.into())) }
    }

    /// Classifies an I/O error. `fsync` marks one that came from making bytes durable.
    pub(crate) fn io(context: &'static str, error: io::Error, fsync: bool) -> Self {
        let full = matches!(
            error.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        );
        let kind = match (full, fsync) {
            (true, _) => WarehouseErrorKind::Full,
            (false, true) => WarehouseErrorKind::Fsync,
            (false, false) => WarehouseErrorKind::Unavailable,
        };
        Self::caused(kind, context, error)
    }

    pub(crate) fn encode(error: ParquetError) -> Self {
        Self::caused(WarehouseErrorKind::Encode, "encode Parquet", error)
    }

    /// Classifies a failure to read Parquet: I/O errors keep their kind, anything else is corruption.
    pub(crate) fn parquet(context: &'static str, error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => match source.downcast::<io::Error>() {
                Ok(error) if error.kind() != io::ErrorKind::UnexpectedEof => Self::io(context, *error, false),
                Ok(error) => Self::caused(WarehouseErrorKind::Corrupt, context, error),
                Err(source) => Self::caused(WarehouseErrorKind::Corrupt, context, source),
            },
            error => Self::caused(WarehouseErrorKind::Corrupt, context, error),
        }
    }

    pub(crate) fn at(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }
}

impl std::fmt::Display for WarehouseError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.kind;
        match &self.path {
            Some(path) => write!(f, "{} {path}: {kind}", self.context)?,
            None => write!(f, "{}: {kind}", self.context)?,
        }
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for WarehouseError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
