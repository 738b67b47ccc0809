//! Anomaly detection: configs are validated and compiled, and their windows are kept by app and group.
//!
//! Must not know how events arrive, nor how the state of the windows is committed.

pub(super) mod config;
pub(super) mod detection;
pub(super) mod stream_order;
mod window;
