//! The open files: rows are encoded into them as they arrive, until a limit closes a file.

mod batches;

mod batch;
mod cold;
mod in_doubt;

#[cfg(test)]
pub(super) use batches::Reason;
pub(super) use batches::{ClosedFile, JobOutcome, Limits, OpenBatches, read};
