//! SQLite for every engine that stores in a file: opening, locking, the writer, readers, checkpoints, and the sorting of errors.
//!
//! Knows nothing of events or rules.

// Opening.
mod lock;
mod log;
mod loss;
mod open;
mod watch;

// While it is open.
mod checkpoint;
mod database;
mod error;
mod fatal;
mod queue;
mod readers;
mod writer;

#[cfg(test)]
mod tests_log;

pub use checkpoint::{CheckpointLimits, Checkpoints};
pub use database::Database;
pub use error::{Fault, FileError};
pub use fatal::FailedFsync;
pub use lock::DirectoryLock;
pub use open::{open_writer, open_writer_with_pages};
pub use queue::{Closed, CommitLimits, CommitSchedule, Queue, Work};
pub use readers::Readers;
pub use writer::{Groups, Transactions, WriterThread};
