//! Positions of events in the stream, which tell a clock that was set back from a late event.
//!
//! The bus gives each message a time and a sequence. Both grow, unless the clock of the bus is set back or a server
//! that lags behind takes over: then a later sequence has an earlier time. An earlier sequence with an earlier time is
//! merely late: it was redelivered, or was handled by another process.

use serde::{Deserialize, Serialize};

/// The publish time and the sequence of an event.
#[derive(Clone, Copy, Debug)]
pub(in crate::reaction) struct StreamPosition {
    pub(in crate::reaction) at_ms: i64,
    pub(in crate::reaction) sequence: u64,
}

/// The progress of a group in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::reaction) struct StreamProgress {
    /// The hash of the stream's id.
    stream: u32,
    /// The highest sequence seen.
    sequence: u64,
    /// The first sequence after the clock was set back: the times of earlier sequences are not comparable.
    since: u64,
}

impl StreamProgress {
    /// Starts over when the stream was recreated: its sequences restart.
    pub(in crate::reaction) fn follow(&mut self, stream: u32) {
        if self.stream != stream {
            *self = Self { stream, ..Self::default() };
        }
    }

    pub(in crate::reaction) fn is_ahead(&self, event: StreamPosition) -> bool {
        event.sequence > self.sequence
    }

    /// Whether the event was published before the clock was set back.
    pub(in crate::reaction) fn is_outdated(&self, event: StreamPosition) -> bool {
        event.sequence < self.since
    }

    pub(in crate::reaction) fn see(&mut self, event: StreamPosition) {
        self.sequence = self.sequence.max(event.sequence);
    }

    /// Records that the clock was set back before this event.
    pub(in crate::reaction) fn clock_set_back_before(&mut self, event: StreamPosition) {
        self.since = event.sequence;
    }
}
