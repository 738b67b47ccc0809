//! Replies of the listener itself: problem documents, and raw bytes for clients without a protocol.

pub(crate) mod problem;
pub(crate) mod raw_reply;
pub(crate) mod refusal_headers;
