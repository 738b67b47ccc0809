//! The position of an event on the bus.

/// Where an event comes from: its position in the stream.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub sequence: u64,
    /// When the bus stored the message, milliseconds since the Unix epoch.
    pub received_at_ms: i64,
}
