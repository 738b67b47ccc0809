//! The store in one SQLite file.
//!
//! Invariants: a single thread writes; a method returns once its change is on disk; readers see the last commit.

mod anomalies;
mod audit;
mod clock;
mod deliveries;
mod documents;
mod effects;
mod engine;
mod erasure;
mod error;
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
