//! The `/v1/events` API: content types, CloudEvents, idempotency keys and replies.

pub(crate) mod cloud_events;
pub(crate) mod content_type;
pub(crate) mod idempotency_key;
pub(crate) mod native;
pub(crate) mod reply;
