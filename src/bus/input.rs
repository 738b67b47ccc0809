//! Input that was refused before it became a message, stored with the dead letters.
//!
//! Invariant: it is not a message of the stream, so its sequence is 0 and no consumer receives it.

use bytes::Bytes;

/// Stored in place of a consumer name.
pub(super) const REFUSED_BY: &str = "gateway";
/// Estimated bytes of one entry besides its texts and its payload.
pub(super) const OVERHEAD_BYTES: u64 = 256;

/// Refused input to store. The caller defines the meaning of the payload and the subject.
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

/// The result of storing refused inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptInput {
    pub kept: usize,
    /// The remaining inputs did not fit.
    pub full: bool,
}
