//! The streams and durable consumers on the server: created, checked and repaired.

pub(super) mod consumers;
pub(super) mod reconciler;
pub(super) mod state;
pub(super) mod streams;
