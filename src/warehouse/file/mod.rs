//! One Parquet file: written from events or rows, and read back.

pub(super) mod encode;
pub(super) mod footer;

pub(super) mod rewrite;
pub(super) mod scan;
