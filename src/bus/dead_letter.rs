//! Messages that no consumer could handle, stored with the reason.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

/// A message that could not be handled, with the reason.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct DeadLetter {
    pub id: u64,
    pub consumer: String,
    pub subject: String,
    pub sequence: u64,
    pub reason: String,
    pub delivery_count: u32,
    pub published_at_ms: i64,
    pub dead_at_ms: i64,
    #[serde(skip)]
    pub payload: Bytes,
}

/// Why a message was dead-lettered; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    /// A consumer reported that no attempt will ever succeed.
    Refused,
    /// It failed `max_deliver` times.
    Failed,
    /// It ended the process in each trial on its own.
    Fatal,
}

impl DeadReason {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Fatal => "fatal",
        }
    }
}

impl DeadLetter {
    /// Whether this is refused input rather than a message that a consumer dead-lettered.
    pub fn is_input(&self) -> bool {
        self.sequence == 0
    }
}
