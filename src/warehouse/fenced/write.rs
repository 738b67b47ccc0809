//! A write that may have outlived its lease.

use bytes::Bytes;

use crate::warehouse::layout::Partition;

/// A file that may have become visible after the leases of its messages had ended.
#[derive(Clone, Debug)]
pub struct FencedWrite {
    pub partition: Partition,
    pub name: String,
    /// The content of the file.
    pub bytes: Bytes,
}
