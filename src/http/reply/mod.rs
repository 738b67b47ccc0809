//! Replies that the listener itself can write: problem documents, and raw bytes for clients that no protocol can answer.

pub(crate) mod dress;
pub(crate) mod problem;
pub(crate) mod raw_reply;
