//! Erasing messages: one after the other is looked at, and what matches leaves the bus for good.
//!
//! Invariants: a call is bounded, and repeating it changes nothing more; the sequences of other messages stay, and their
//! consumers get them as before, each once. A message that a subscription has in hand is in flight, and is delivered:
//! once [`acked_through`](super::acked_through) it is not. On a server it is erased only then, and the scan waits for it. Knows nothing of
//! whose a message is.

use std::sync::Arc;
use std::time::Duration;

use super::dead_letter::DeadLetter;

/// Whether a message is to be erased, by its subject and its payload.
pub type ErasePredicate = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// The same of a dead letter.
pub(crate) type DeadLetterPredicate<'a> = dyn Fn(&DeadLetter) -> bool + Send + Sync + 'a;

/// What one call looks at: messages behind one and up to another, as many as one of the bounds lets it.
#[derive(Clone, Copy, Debug)]
pub struct EraseSpan {
    pub after: u64,
    pub through: u64,
    pub messages_max: u64,
    pub time_max: Duration,
}

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// Nothing that matches is left up to here: where the next call goes on.
    pub scanned_through: u64,
    /// What matches behind that, up to here, is in flight and stays until it is not.
    pub reached: u64,
    pub messages: u64,
}

/// What one call did among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErasedDeadLetters {
    pub letters: u64,
    /// All were looked at. Otherwise the next call finds the rest.
    pub is_complete: bool,
}
