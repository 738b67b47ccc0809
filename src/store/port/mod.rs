//! The port: [`Store`] and its use cases, by topic.

mod access;
mod audit;
mod deliveries;
mod documents;
mod effects;
mod erasure;
mod store;

#[cfg(test)]
pub(super) use store::Inner;
pub use store::{Store, migrate_postgres};
