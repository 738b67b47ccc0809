//! Erasing messages: one after the other is looked at, and what matches leaves the bus for good.
//!
//! Invariants: a call is bounded, and repeating it changes nothing more; the sequences of other messages stay, and their
//! consumers get them as before, each once. A message that a subscription has in hand is in flight, and is delivered:
//! once [`acked_through`] it is not. On a server it is erased only then, and the scan waits for it. Knows nothing of
//! whose a message is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bus, BusError, BusStatus, DeadLetter, Inner};

/// Whether a message is to be erased, by its subject and its payload.
pub type ErasePredicate = Arc<dyn Fn(&[u8], &[u8]) -> bool + Send + Sync>;

/// The same of a dead letter.
pub(super) type DeadLetterPredicate<'a> = dyn Fn(&DeadLetter) -> bool + Send + Sync + 'a;

/// Dead letters that are read at once; each may be of the largest size.
const LETTERS_AT_ONCE: usize = 32;

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

impl Bus {
    /// Erases what matches in the span, from the beginning of it.
    pub async fn erase(&self, span: EraseSpan, matches: &ErasePredicate) -> Result<Erased, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.erase(span, matches).await,
            Inner::Nats(engine) => engine.erase(span, matches).await,
        }
    }

    /// Erases the dead letters that match, all that it finds until this time is over.
    pub async fn erase_dead_letters(
        &self,
        matches: &DeadLetterPredicate<'_>,
        time_max: Duration,
    ) -> Result<ErasedDeadLetters, BusError> {
        match &self.0 {
            Inner::Nats(engine) => engine.erase_dead_letters(matches, time_max).await,
            Inner::Embedded(_) => {
                let (mut before, mut erased, began) = (None, 0, Instant::now());
                loop {
                    let letters = self.dead_letters(before, LETTERS_AT_ONCE).await?;
                    let Some(oldest) = letters.last() else {
                        return Ok(ErasedDeadLetters { letters: erased, is_complete: true });
                    };
                    for letter in letters.iter().filter(|letter| matches(letter)) {
                        erased += u64::from(self.delete_dead_letter(letter.id).await?);
                    }
                    // A call that has not erased any goes on: the next one would come no farther.
                    if erased > 0 && began.elapsed() >= time_max {
                        return Ok(ErasedDeadLetters { letters: erased, is_complete: false });
                    }
                    before = Some(oldest.id);
                }
            }
        }
    }

    /// Leaves nothing of what was erased, and purged before, in files of this process. False when there is more to do.
    pub async fn wipe(&self, until: Instant) -> Result<bool, BusError> {
        match &self.0 {
            Inner::Embedded(engine) => engine.wipe(until).await,
            // The server overwrites what it erases.
            Inner::Nats(_) => Ok(true),
        }
    }
}

/// Whether every durable consumer has acknowledged all that there is up to this sequence.
pub fn acked_through(status: &BusStatus, sequence: u64) -> bool {
    status.consumers.iter().all(|consumer| consumer.backlog == 0 || consumer.ack_floor >= sequence)
}
