//! Events as they come to `/v1/events`: content types, CloudEvents, idempotency keys, and the replies.

pub(crate) mod cloud_events;
pub(crate) mod content_type;
pub(crate) mod idempotency_key;
pub(crate) mod native;
pub(crate) mod reply;
