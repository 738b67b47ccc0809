//! Anomaly detection: configs are validated and compiled, and a window is kept for each app and group.
//!
//! Must not know how events arrive or how the state is committed.

pub(super) mod config;
pub(super) mod detection;
pub(super) mod stream_order;
mod window;
