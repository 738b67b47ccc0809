//! The store in one SQLite file.
//!
//! Invariants: one thread writes; what a method answered is on the disk; readers see the
//! last commit. An fsync that failed ends the process, since nobody knows then what is stored.

mod anomalies;
mod audit;
mod clock;
mod deliveries;
mod documents;
mod effects;
mod engine;
mod erasure;
mod error;
mod health;
mod keys;
mod names;
mod open;
mod row;
mod schema;
mod set;
#[cfg(test)]
mod tests;
mod tokens;
mod webhooks;
mod writer;

pub(super) use engine::Engine;
