//! The store in a PostgreSQL database that several processes share.
//!
//! Invariants: a method is one transaction; times come from the database, so that processes with different clocks
//! agree; leases end by time, never because a process started; a connection whose use was interrupted (a timeout, a
//! cancelled call) is discarded, not reused.

mod anomalies;
mod audit;
mod client;
mod clock;
mod connect;
mod deliveries;
mod documents;
mod effects;
mod engine;
mod erasure;
mod error;
mod keys;
mod listen;
mod names;
mod open;
mod row;
mod schema;
mod server_clock;
mod set;
mod silence;
mod statement;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_tls;
mod tokens;
mod wake;
mod webhooks;

pub(super) use engine::Engine;
pub(super) use schema::migrate;
