//! Messages that no consumer could handle, kept with the reason.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::Serialize;

/// A message that could not be handled, kept with the reason.
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

/// Why a message is a dead letter; a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadReason {
    /// A consumer said that no attempt will ever succeed.
    Refused,
    /// It failed `max_deliver` times.
    Failed,
    /// It ended the process each time that it was tried alone.
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
    /// Whether it is refused input, and no message that a consumer gave up.
    pub fn is_input(&self) -> bool {
        self.sequence == 0
    }
}
