//! The open files: rows are encoded into them as they arrive, until a limit closes a file.

mod batches;

mod batch;
mod cold;
mod kept;

#[cfg(test)]
pub(super) use batches::Reason;
pub(super) use batches::{Closed, Limits, OpenBatches, Taken, read};
