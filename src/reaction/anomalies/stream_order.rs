//! Where events are in the stream: what tells a clock that was set back from an event that is late.
//!
//! The bus gives each message a time and a sequence. Both grow, unless the clock of the bus is set back or a server that
//! is behind takes over: then a later sequence has an earlier time. An earlier sequence with an earlier time is only
//! late, since it was delivered again or another process had it.

use serde::{Deserialize, Serialize};

/// When and where the bus took an event.
#[derive(Clone, Copy, Debug)]
pub(in crate::reaction) struct Published {
    pub(in crate::reaction) at_ms: i64,
    pub(in crate::reaction) sequence: u64,
}

/// What a group has seen of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::reaction) struct Seen {
    /// Which life of the stream that is.
    stream: u32,
    /// The latest sequence.
    sequence: u64,
    /// The first sequence since the clock was set back: times of earlier ones are of another reckoning.
    since: u64,
}

impl Seen {
    /// Sequences count anew in another life of the stream.
    pub(in crate::reaction) fn follow(&mut self, stream: u32) {
        if self.stream != stream {
            *self = Self { stream, ..Self::default() };
        }
    }

    pub(in crate::reaction) fn is_later(&self, event: Published) -> bool {
        event.sequence > self.sequence
    }

    /// The event is of before the clock was set back.
    pub(in crate::reaction) fn is_outdated(&self, event: Published) -> bool {
        event.sequence < self.since
    }

    pub(in crate::reaction) fn see(&mut self, event: Published) {
        self.sequence = self.sequence.max(event.sequence);
    }

    /// The clock was set back before this event.
    pub(in crate::reaction) fn begin_with(&mut self, event: Published) {
        self.since = event.sequence;
    }
}
