//! Registers the lake in a Hive Metastore: its database, the table of the files with their partitions, and next to it the
//! table of the Delta log.
//!
//! ```text
//!  store a file ──► pending ──► registrar ──► add_partitions_req ──► metastore ◄── Trino, Spark, Hive
//!  (never waits)    (bounded)      │
//!  the lake ───── reconcile ───────┘   at startup, and whenever the table was created anew
//! ```
//!
//! Invariants: a slow or failing metastore delays neither files nor acknowledgements; a partition is registered after its
//! first file is stored; reconciling finds partitions that were missed, so no registration state is persisted.

mod calls;
mod client;
mod error;
mod handle;
mod pending;
mod port;
mod reconcile;
mod registrar;
mod settings;
mod table;
mod wire;

#[cfg(test)]
mod tests;

pub use handle::Metastore;
pub use settings::MetastoreSettings;
