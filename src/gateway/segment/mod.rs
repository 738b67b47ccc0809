//! Segment's HTTP API: its SDKs can send to this gateway by changing only their host.

pub(crate) mod messages;
pub(crate) mod route;
pub(crate) mod settings;
