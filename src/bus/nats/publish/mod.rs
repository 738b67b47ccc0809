//! Publishing: single messages and atomic batches, and looking up the originals of duplicates.

pub(super) mod atomic;
pub(super) mod chooser;
pub(super) mod messages;
pub(super) mod original;
pub(super) mod queue;
