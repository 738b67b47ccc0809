//! Erasing messages: a scan removes the matching messages from the bus for good.
//!
//! Invariants: a call is bounded and idempotent; other messages keep their sequences, and their consumers get them as
//! before, each once. A message in flight to a subscription is still delivered; once
//! [`acked_through`](super::acked_through) holds it is not. On a server, a message in flight is erased only after that,
//! and the scan waits for it. Knows nothing of who a message is about.

use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::DeadLetter;

/// Selects the messages to erase, by subject and payload.
pub type ErasePredicate = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// Selects the dead letters to erase.
pub(crate) type DeadLetterPredicate<'a> = dyn Fn(&DeadLetter) -> bool + Send + Sync + 'a;

/// The range of one call: messages after `after` up to `through`, as many as the bounds allow.
#[derive(Clone, Copy, Debug)]
pub struct EraseSpan {
    pub after: u64,
    pub through: u64,
    pub messages_max: u64,
    pub time_max: Duration,
}

/// The result of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// No matching message is left up to here; the next call continues after it.
    pub scanned_through: u64,
    /// Matching messages after `scanned_through` and up to here are in flight and not erased yet.
    pub reached: u64,
    pub messages: u64,
}

/// The result of one call on the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedDeadLetters {
    pub letters: u64,
    /// Every dead letter was scanned. Otherwise the next call continues.
    pub is_complete: bool,
}
