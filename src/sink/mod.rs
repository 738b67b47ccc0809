//! The sink moves messages from the bus into the warehouse: pull, batch, encode, store, acknowledge.
//!
//! Invariants: a message is acknowledged only after the file with its row is durable and, if the warehouse keeps a
//! log, committed to it; a message that may have been stored before is looked up before it is written again; open files
//! and uploads stay under the memory limit, whatever the warehouse does. Knows nothing of HTTP or rules.
//!
//! Four things run concurrently: the next fetch, look-ups for the previous ones, one
//! encoding job on a blocking thread, and the uploads. Chunks are encoded in the order in which
//! they were fetched: a chunk with a redelivered message discards the open file that holds it, and a
//! file's lease only ever includes leases from later epochs of the bus connection. The loop in
//! `Sink::step` owns all four. A process may run several
//! such loops ([`workers`]), which behave like sinks of separate processes.

mod worker;

mod isolation;
mod pipeline;
mod wake;

mod fetch;
mod redelivery;

mod open;

mod fenced_writes;
mod flush;
mod upload;

mod isolated;
mod lease;
mod retry;

mod compaction;

mod error;
mod settings;
mod status;

#[cfg(test)]
mod tests;

pub use compaction::Compactor;
pub use error::SinkError;
pub use fenced_writes::reconcile_abandoned;
pub use settings::{SERVER_FETCH_BYTES_MAX, Settings};
pub use status::SinkStatus;
pub use worker::{Worker, workers};
