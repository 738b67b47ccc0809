//! The result of publishing a message.

/// The result of publishing one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream sequence, from 1. It is 0 for a duplicate and for a transient message that was not stored.
    pub sequence: u64,
    /// The message id was already seen within the window; nothing was stored.
    pub duplicate: bool,
    /// For a duplicate: the location of the first message with its id.
    pub original: Original,
}

impl Published {
    pub(super) fn new(sequence: u64) -> Self {
        Self { sequence, duplicate: false, original: Original::default() }
    }
}

/// The location of a message published earlier. See [`Bus::originals`](super::Bus::originals).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// The sequence of the message, or of the first message of its group; 0 when unknown.
    pub(super) sequence: u64,
    /// Distinguishes it from the other messages of its group.
    pub(super) key: [u8; 16],
}
