//! A file that was perhaps stored after its lease had ended.

use bytes::Bytes;

use crate::warehouse::layout::Partition;

/// One late file: `bytes` are its content.
#[derive(Clone, Debug)]
pub struct LateFile {
    pub partition: Partition,
    pub name: String,
    pub bytes: Bytes,
}
