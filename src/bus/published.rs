//! The answer to a published message.

/// The outcome of publishing one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The stream sequence, from 1; 0 of a duplicate, and of a message that need not be kept and is not.
    pub sequence: u64,
    /// True when the message id was seen within the window: nothing was stored now.
    pub duplicate: bool,
    /// Of a duplicate: where the first message of its id is.
    pub original: Original,
}

impl Published {
    pub(super) fn new(sequence: u64) -> Self {
        Self { sequence, duplicate: false, original: Original::default() }
    }
}

/// Where a message is that was published before: see [`Bus::originals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Original {
    /// Of the message, or the first of the group that it is in; 0 when it is not known.
    pub(super) sequence: u64,
    /// Tells it from the others of its group.
    pub(super) key: [u8; 16],
}
