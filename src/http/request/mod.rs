//! Requests: head, client address, body and content coding, each checked and bounded.

pub(crate) mod body;
pub(crate) mod body_error;
pub(crate) mod client_address;
pub(crate) mod coding;
pub(crate) mod head;
pub mod own_origin;
pub(crate) mod request_id;
pub(crate) mod zstd_frames;
