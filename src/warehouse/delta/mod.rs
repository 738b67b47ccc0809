//! The log that makes the files one table: `_delta_log/` in the Delta protocol, with reader version 1 and writer version
//! 2, for any engine that reads Delta.
//!
//! ```text
//! app_id=shop/year=2026/…/events_A.parquet    events_B.parquet        data files, the same as without the log
//! _delta_log/00000000000000000000.json        protocol, metaData
//!            00000000000000000001.json        add A, add B            one flush, one commit
//!            00000000000000000100.checkpoint.parquet                  the state at version 100
//!            _last_checkpoint                                         {"version":100, …}
//! ```
//!
//! Invariants: a version is put only if it is absent, after reading all versions before it; a file is added once, by the
//! process that finds it in no commit; messages are acknowledged only after the file with their rows is in the log. A file
//! that was stored but not committed is therefore found when its messages are redelivered, and no process has to list
//! the lake.

mod action;
mod log;

mod checkpoint;
mod checkpoint_rows;
mod stats;
mod table;

mod path_states;
mod tail;

mod state;

mod commit;
mod open;

mod adopt;
mod hidden;
mod import;
mod reconcile;
mod replace;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_s3;

pub(in crate::warehouse) use action::Add;
pub use adopt::Adopted;
pub(super) use replace::{Change, FileState, NewFile};
pub use state::DeltaSettings;
pub(super) use state::{Delta, PendingFiles};
