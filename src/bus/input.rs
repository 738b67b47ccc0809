//! Input that never became a message: it was refused, and is kept with the dead letters.
//!
//! Invariant: it is no message of the stream, so its sequence is 0, and no consumer ever gets it.

use bytes::Bytes;

/// In the place of a consumer's name.
pub(super) const REFUSED_BY: &str = "gateway";
/// What one of them takes beside its texts and its payload, by estimate.
pub(super) const OVERHEAD_BYTES: u64 = 256;

/// Input to be kept. What the payload means, and what the subject says, are the caller's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedInput {
    pub subject: String,
    pub reason: String,
    pub received_at_ms: i64,
    pub payload: Bytes,
}

impl RefusedInput {
    pub(super) fn stored_bytes(&self) -> u64 {
        (self.subject.len() + self.reason.len() + self.payload.len()) as u64 + OVERHEAD_BYTES
    }
}

/// What became of inputs that were to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptInput {
    pub kept: usize,
    /// There was no room for others.
    pub full: bool,
}
