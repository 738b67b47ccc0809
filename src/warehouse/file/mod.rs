//! One Parquet file: writing it from events or stored rows, and reading it back.

pub(super) mod encode;
pub(super) mod footer;

pub(super) mod rewrite;
pub(super) mod scan;
