//! What can go wrong in the warehouse, sorted by what the caller should do.

use std::io;
use std::sync::Arc;

use parquet::errors::ParquetError;

/// A failure of the warehouse: what kind, and what lay under it.
#[derive(Clone, Debug)]
pub struct WarehouseError {
    pub kind: WarehouseErrorKind,
    context: &'static str,
    /// The file or directory in question, when there is one.
    path: Option<String>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WarehouseErrorKind {
    /// No room: nothing was stored; the same write succeeds when there is room again.
    Full,
    /// The file system refused or failed: the same call may succeed later.
    Unavailable,
    /// The object store refuses what the settings ask of it: a setting must change.
    Refused,
    /// An fsync failed: what the kernel holds is unknown, so the process must end.
    Fsync,
    /// A stored file is damaged.
    Corrupt,
    /// The rows cannot be encoded; a defect, not a condition.
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

    /// Sorts an I/O error; `fsync` says that it came from making bytes durable.
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

    /// A file that cannot be read as Parquet: I/O errors stay what they are.
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
        let kind = match self.kind {
            WarehouseErrorKind::Full => "warehouse is full",
            WarehouseErrorKind::Unavailable => "warehouse is unavailable",
            WarehouseErrorKind::Refused => "warehouse refuses",
            WarehouseErrorKind::Fsync => "warehouse file could not be made durable",
            WarehouseErrorKind::Corrupt => "warehouse file is corrupt",
            WarehouseErrorKind::Encode => "rows could not be encoded",
        };
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
