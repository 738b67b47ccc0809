//! Segment's HTTP API, so that its SDKs send to this gateway once their host is changed.

pub(crate) mod messages;
pub(crate) mod route;
pub(crate) mod settings;
