//! The handlers, by resource.

pub(super) mod anomaly_events;
pub(super) mod apply;
pub(super) mod audit;
pub(super) mod dead_letters;
pub(super) mod deliveries;
pub(super) mod documents;
pub(super) mod erasures;
pub(super) mod keys;
pub(super) mod pages;
pub(super) mod probes;
pub(super) mod tokens;

pub(super) use pages::Pages;
