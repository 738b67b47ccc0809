//! The connection to the server, and the requests that wait for its answers.

pub(super) mod calls;
pub(super) mod link;
