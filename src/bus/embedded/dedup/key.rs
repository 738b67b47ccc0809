//! Deduplication keys, and what is remembered of each.

use std::hash::{Hash, Hasher};

/// The first half of the SHA-256 of a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DedupKey(pub(crate) [u8; 16]);

impl DedupKey {
    pub(crate) fn of(message_id: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, message_id);
        let mut key = [0; 16];
        key.copy_from_slice(&digest.as_ref()[..16]);
        Self(key)
    }
}

impl Hash for DedupKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// When and where a key was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DedupEntry {
    pub(crate) published_s: u32,
    /// Split into halves, which makes an entry of the table 8 bytes smaller.
    group: [u32; 2],
}

impl DedupEntry {
    /// `group` is the first sequence of the group that holds the message; 0 when unknown.
    pub(crate) fn new(published_s: u32, group: u64) -> Self {
        Self { published_s, group: [(group >> 32) as u32, group as u32] }
    }

    pub(crate) fn group(self) -> u64 {
        u64::from(self.group[0]) << 32 | u64::from(self.group[1])
    }
}

/// Seconds since the Unix epoch, as stored with keys.
pub(crate) fn seconds(unix_ms: i64) -> u32 {
    u32::try_from(unix_ms / 1_000).unwrap_or_default()
}
