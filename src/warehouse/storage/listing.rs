//! What a listing of stored files says of each.

/// One file of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) modified_ms: i64,
    pub(crate) bytes: u64,
}

/// One file of the whole.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    /// Below the root.
    pub(crate) directory: String,
    pub(crate) file: Listed,
}
