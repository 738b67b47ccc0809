//! The entries of a listing of stored files.

/// One file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) modified_ms: i64,
    pub(crate) bytes: u64,
}

/// One file of the whole store.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    /// Relative to the root.
    pub(crate) directory: String,
    pub(crate) file: Listed,
}
