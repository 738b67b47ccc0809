//! Publishing: one by one or in atomic batches, and where the originals of duplicates are.

pub(super) mod atomic;
pub(super) mod chooser;
pub(super) mod messages;
pub(super) mod original;
pub(super) mod queue;
