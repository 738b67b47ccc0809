//! Consuming single messages: pull requests, acknowledgements, and the state of the consumer.

pub(super) mod acker;
mod incarnation;
pub(super) mod isolation;
mod position;
pub(super) mod pull;
pub(super) mod subscription;
pub(super) mod trials;
